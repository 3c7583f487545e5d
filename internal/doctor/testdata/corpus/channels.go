package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// A mail is sent in the background; the handler does not wait for it for ever.

func sendMail(to string) error {
	time.Sleep(40 * time.Millisecond)
	return nil
}

func signupLeaky(*service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		done := make(chan error)
		go func() {
			done <- sendMail("new@example.com") // LEAK chan-send
		}()
		select {
		case <-done:
		case <-time.After(10 * time.Millisecond):
			w.WriteHeader(http.StatusAccepted)
		}
	}
}

func signupFixed(*service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		done := make(chan error, 1)
		go func() {
			done <- sendMail("new@example.com")
		}()
		select {
		case <-done:
		case <-time.After(10 * time.Millisecond):
			w.WriteHeader(http.StatusAccepted)
		}
	}
}

// Three replicas are asked, the first answer counts.

func askReplica(n int) string {
	time.Sleep(time.Duration(5+n*7) * time.Millisecond)
	return fmt.Sprint("answer of ", n)
}

func firstAnswerLeaky(*service) http.HandlerFunc {
	query := func(answers chan string, replica int) {
		answers <- askReplica(replica) // LEAK chan-send
	}
	return func(w http.ResponseWriter, r *http.Request) {
		answers := make(chan string)
		for i := range 3 {
			go query(answers, i)
		}
		fmt.Fprintln(w, <-answers)
	}
}

func firstAnswerFixed(*service) http.HandlerFunc {
	query := func(answers chan string, replica int) {
		answers <- askReplica(replica)
	}
	return func(w http.ResponseWriter, r *http.Request) {
		answers := make(chan string, 3)
		for i := range 3 {
			go query(answers, i)
		}
		fmt.Fprintln(w, <-answers)
	}
}

// A producer feeds rows into a check that gives up at the first bad one.

func produceLeaky() <-chan int {
	rows := make(chan int)
	go func() {
		defer close(rows)
		for i := range 100 {
			rows <- i // LEAK chan-send
		}
	}()
	return rows
}

func checkRow(i int) error {
	if i == 7 {
		return errors.New("row 7 is bad")
	}
	return nil
}

func pipelineErrorLeaky(*service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for i := range produceLeaky() {
			if err := checkRow(i); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
		}
	}
}

func pipelineErrorFixed(*service) http.HandlerFunc {
	produce := func(ctx context.Context) <-chan int {
		rows := make(chan int)
		go func() {
			defer close(rows)
			for i := range 100 {
				select {
				case rows <- i:
				case <-ctx.Done():
					return
				}
			}
		}()
		return rows
	}
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		for i := range produce(ctx) {
			if err := checkRow(i); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
		}
	}
}

// A broker delivers to subscribers; one of them has stopped to read.

type broker struct {
	mu   sync.Mutex
	subs []chan string
}

func (b *broker) publishLeaky(msg string) {
	b.mu.Lock()
	subs := b.subs
	b.mu.Unlock()
	for _, sub := range subs {
		go func() { sub <- msg }() // LEAK chan-send
	}
}

func (b *broker) publishFixed(msg string) {
	b.mu.Lock()
	subs := b.subs
	b.mu.Unlock()
	for _, sub := range subs {
		select {
		case sub <- msg:
		default: // whoever is slow misses it
		}
	}
}

func newBroker() *broker {
	alive, gone := make(chan string, 16), make(chan string)
	go func() {
		for range alive {
			time.Sleep(time.Millisecond)
		}
	}()
	return &broker{subs: []chan string{alive, gone}}
}

func slowSubscriberLeaky(*service) http.HandlerFunc {
	b := newBroker()
	return func(w http.ResponseWriter, r *http.Request) { b.publishLeaky("price changed") }
}

func slowSubscriberFixed(*service) http.HandlerFunc {
	b := newBroker()
	return func(w http.ResponseWriter, r *http.Request) { b.publishFixed("price changed") }
}

// A semaphore bounds work in the background; an error does not give the place back.

func semaphoreLeaky(*service) http.HandlerFunc {
	places := make(chan struct{}, 4)
	convert := func() {
		places <- struct{}{} // LEAK chan-send
		if rand.IntN(4) == 0 {
			return // the place is lost
		}
		time.Sleep(5 * time.Millisecond)
		<-places
	}
	return func(w http.ResponseWriter, r *http.Request) { go convert() }
}

func semaphoreFixed(*service) http.HandlerFunc {
	places := make(chan struct{}, 4)
	convert := func() {
		places <- struct{}{}
		defer func() { <-places }()
		if rand.IntN(4) == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	return func(w http.ResponseWriter, r *http.Request) { go convert() }
}

// Each import has workers of its own, and nobody tells them that it is over.

func importWorker(jobs <-chan int, out *sync.Map) {
	for job := range jobs { // LEAK chan-recv
		out.Store(job%16, job)
	}
}

func workerUnclosedLeaky(*service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		jobs, out := make(chan int), &sync.Map{}
		for range 2 {
			go importWorker(jobs, out)
		}
		for i := range 20 {
			jobs <- i
		}
	}
}

func workerUnclosedFixed(*service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		jobs, out := make(chan int), &sync.Map{}
		defer close(jobs)
		for range 2 {
			go importWorker(jobs, out)
		}
		for i := range 20 {
			jobs <- i
		}
	}
}

// Answers come by a correlation ID; some never come.

type correlator struct {
	mu      sync.Mutex
	waiting map[int]chan string
	next    int
}

func (c *correlator) register() (int, chan string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	ch := make(chan string, 1)
	c.waiting[c.next] = ch
	return c.next, ch
}

func (c *correlator) drop(id int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

func (c *correlator) answer(id int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch := c.waiting[id]; ch != nil && id%5 != 0 { // every fifth message is lost
		ch <- "done"
		delete(c.waiting, id)
	}
}

func replyDroppedLeaky(*service) http.HandlerFunc {
	c := &correlator{waiting: map[int]chan string{}}
	await := func(reply chan string) {
		<-reply // LEAK chan-recv
	}
	return func(w http.ResponseWriter, r *http.Request) {
		id, reply := c.register()
		go await(reply)
		time.AfterFunc(20*time.Millisecond, func() { c.answer(id) })
	}
}

func replyDroppedFixed(*service) http.HandlerFunc {
	c := &correlator{waiting: map[int]chan string{}}
	await := func(id int, reply chan string) {
		defer c.drop(id)
		select {
		case <-reply:
		case <-time.After(200 * time.Millisecond):
		}
	}
	return func(w http.ResponseWriter, r *http.Request) {
		id, reply := c.register()
		go await(id, reply)
		time.AfterFunc(20*time.Millisecond, func() { c.answer(id) })
	}
}

// A channel that is made only if a feature is on.

type exporter struct {
	enabled bool
	flushed chan struct{}
}

func (e *exporter) flushLeaky() {
	if e.enabled {
		e.flushed = make(chan struct{})
		close(e.flushed)
	}
	<-e.flushed // LEAK chan-recv
}

func (e *exporter) flushFixed() {
	e.flushed = make(chan struct{})
	close(e.flushed)
	<-e.flushed
}

func nilChannelLeaky(*service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { go (&exporter{}).flushLeaky() }
}

func nilChannelFixed(*service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { go (&exporter{}).flushFixed() }
}

// Several sources are merged into one channel, which is read until it is closed.

func fanIn(w http.ResponseWriter, shut bool) {
	merged := make(chan int)
	var sources sync.WaitGroup
	for i := range 3 {
		sources.Go(func() { merged <- i })
	}
	go collect(merged)
	sources.Wait()
	if shut {
		close(merged)
	}
}

func collect(merged <-chan int) {
	sum := 0
	for v := range merged { // LEAK chan-recv
		sum += v
	}
}

func fanInLeaky(*service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { fanIn(w, false) }
}

func fanInFixed(*service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { fanIn(w, true) }
}

// A clean-up waits for the end of an upload, which is told only when all went well.

func upload(done chan struct{}, always bool) error {
	if always {
		defer close(done)
	}
	if rand.IntN(3) == 0 {
		return errors.New("the connection broke")
	}
	if !always {
		close(done)
	}
	return nil
}

func cleanUp(done chan struct{}) {
	<-done // LEAK chan-recv
}

func doneOnSuccessLeaky(*service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		done := make(chan struct{})
		go cleanUp(done)
		upload(done, false)
	}
}

func doneOnSuccessFixed(*service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		done := make(chan struct{})
		go cleanUp(done)
		upload(done, true)
	}
}

// Each client of an event stream has a goroutine that pumps events to it.

type pump struct {
	events chan string
	quit   chan struct{}
}

func (p *pump) run() {
	for {
		select { // LEAK select
		case ev := <-p.events:
			_ = ev
		case <-p.quit:
			return
		}
	}
}

func eventStreamLeaky(*service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		p := &pump{events: make(chan string), quit: make(chan struct{})}
		go p.run()
		p.events <- "hello"
		time.Sleep(20 * time.Millisecond) // the client goes away
	}
}

func eventStreamFixed(*service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		p := &pump{events: make(chan string), quit: make(chan struct{})}
		defer close(p.quit)
		go p.run()
		p.events <- "hello"
		time.Sleep(20 * time.Millisecond)
	}
}

// Something that should end with the request is given a context that does not.

func follow(ctx context.Context, updates <-chan int) {
	for {
		select { // LEAK select
		case <-updates:
		case <-ctx.Done():
			return
		}
	}
}

func backgroundContextLeaky(*service) http.HandlerFunc {
	updates := make(chan int)
	return func(w http.ResponseWriter, r *http.Request) {
		go follow(context.Background(), updates)
	}
}

func backgroundContextFixed(*service) http.HandlerFunc {
	updates := make(chan int)
	return func(w http.ResponseWriter, r *http.Request) {
		go follow(r.Context(), updates)
	}
}

// A watch is made with a context of its own, and cancel is forgotten on one path.

func watchKey(ctx context.Context, key string, found chan<- string) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select { // LEAK select
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-neverChanges:
			found <- key
		}
	}
}

var neverChanges = make(chan struct{})

func lostCancelLeaky(*service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(context.Background())
		go watchKey(ctx, "stock/1", make(chan string))
		if rand.IntN(2) == 0 {
			http.Error(w, "not today", http.StatusTeapot)
			return
		}
		cancel()
	}
}

func lostCancelFixed(*service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go watchKey(ctx, "stock/1", make(chan string))
		if rand.IntN(2) == 0 {
			http.Error(w, "not today", http.StatusTeapot)
		}
	}
}
