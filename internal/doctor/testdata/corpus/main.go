// Command corpus is many small services, each with a leak and with the leak mended. The
// tests of package doctor run each as a process of its own, under load from outside, and
// compare what doctor says with the marks in the code: the line that ends in "// LEAK cause"
// is the one to be found.
//
//	corpus NAME leaky|fixed UPSTREAM-URL UPSTREAM-TCP
package main

import (
	"fmt"
	"net"
	"net/http"
	_ "net/http/pprof"
	"os"
)

// service is what a program of the corpus is given.
type service struct {
	http string // a server that answers /ok, /fail (500), /slow (100 ms) and /big
	tcp  string // a server that accepts and says nothing
}

// program is a service in two variants. Each returns what handles GET /work.
type program struct {
	leaky, fixed func(s *service) http.HandlerFunc
}

var programs = map[string]program{
	"signup-mail":         {signupLeaky, signupFixed},
	"first-answer":        {firstAnswerLeaky, firstAnswerFixed},
	"pipeline-error":      {pipelineErrorLeaky, pipelineErrorFixed},
	"slow-subscriber":     {slowSubscriberLeaky, slowSubscriberFixed},
	"semaphore":           {semaphoreLeaky, semaphoreFixed},
	"worker-unclosed":     {workerUnclosedLeaky, workerUnclosedFixed},
	"reply-dropped":       {replyDroppedLeaky, replyDroppedFixed},
	"nil-channel":         {nilChannelLeaky, nilChannelFixed},
	"fan-in":              {fanInLeaky, fanInFixed},
	"done-on-success":     {doneOnSuccessLeaky, doneOnSuccessFixed},
	"event-stream":        {eventStreamLeaky, eventStreamFixed},
	"background-context":  {backgroundContextLeaky, backgroundContextFixed},
	"lost-cancel":         {lostCancelLeaky, lostCancelFixed},
	"missed-unlock":       {missedUnlockLeaky, missedUnlockFixed},
	"lock-around-send":    {lockAroundSendLeaky, lockAroundSendFixed},
	"transfer-deadlock":   {transferDeadlockLeaky, transferDeadlockFixed},
	"recursive-read-lock": {recursiveReadLockLeaky, recursiveReadLockFixed},
	"missed-read-unlock":  {missedReadUnlockLeaky, missedReadUnlockFixed},
	"missed-done":         {missedDoneLeaky, missedDoneFixed},
	"one-add-too-many":    {oneAddTooManyLeaky, oneAddTooManyFixed},
	"queue-close":         {queueCloseLeaky, queueCloseFixed},
	"retry-forever":       {retryForeverLeaky, retryForeverFixed},
	"session-poller":      {sessionPollerLeaky, sessionPollerFixed},
	"silent-peer":         {silentPeerLeaky, silentPeerFixed},
	"proxy-copy":          {proxyCopyLeaky, proxyCopyFixed},
	"transport-per-call":  {transportPerCallLeaky, transportPerCallFixed},
	"body-on-error":       {bodyOnErrorLeaky, bodyOnErrorFixed},
	"body-half-read":      {bodyHalfReadLeaky, bodyHalfReadFixed},
	"ticker-loop":         {tickerLoopLeaky, tickerLoopFixed},
	"heartbeat":           {heartbeatLeaky, heartbeatFixed},
	"busy-wait":           {busyWaitLeaky, busyWaitFixed},
	"price-cache":         {priceCacheLeaky, priceCacheFixed},
	"session-map":         {sessionMapLeaky, sessionMapFixed},
	"audit-slice":         {auditSliceLeaky, auditSliceFixed},
	"kept-buffers":        {keptBuffersLeaky, keptBuffersFixed},
	"rare-leak":           {rareLeakLeaky, rareLeakFixed},

	// Long-lived leaks; they need minutes.
	"old-leak":     {oldLeakLeaky, oldLeakFixed},
	"one-a-minute": {oneAMinuteLeaky, oneAMinuteFixed},

	// Traps: nothing is wrong with any of these.
	"slow-finishers":   {nil, slowFinishers},
	"growing-pool":     {nil, growingPool},
	"burst":            {nil, burst},
	"sleepers":         {nil, sleepers},
	"idle-connections": {nil, idleConnections},
	"warming-cache":    {nil, warmingCache},
	"parked-pool":      {nil, parkedPool},
	"busy-queue":       {nil, busyQueue},

	// What wastes; the marks are "// COST pattern".
	"json-hot":      {jsonLeaky, jsonFixed},
	"sprintf-keys":  {sprintfLeaky, sprintfFixed},
	"string-join":   {stringJoinLeaky, stringJoinFixed},
	"clock-loop":    {clockLoopLeaky, clockLoopFixed},
	"regexp-call":   {regexpCallLeaky, regexpCallFixed},
	"sync-logger":   {syncLoggerLeaky, syncLoggerFixed},
	"polling-loop":  {pollingLoopLeaky, pollingLoopFixed},
	"one-lock":      {oneLockLeaky, oneLockFixed},
	"small-objects": {smallObjectsLeaky, smallObjectsFixed},
}

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: corpus NAME leaky|fixed UPSTREAM-URL UPSTREAM-TCP")
		os.Exit(2)
	}
	p := programs[os.Args[1]]
	start := p.fixed
	if os.Args[2] == "leaky" {
		start = p.leaky
	}
	s := &service{http: os.Args[3], tcp: os.Args[4]}
	http.HandleFunc("GET /work", start(s))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(l.Addr())
	err = http.Serve(l, nil)
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
