package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// A webhook is delivered again until it succeeds.

func deliverLeaky(url string) {
	for {
		res, err := http.Get(url)
		if err == nil {
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return
			}
		}
		time.Sleep(time.Second) // LEAK sleep
	}
}

func deliverFixed(ctx context.Context, url string) {
	for {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return
		}
	}
}

func retryForeverLeaky(s *service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { go deliverLeaky(s.http + "/fail") }
}

func retryForeverFixed(s *service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		go func() {
			defer cancel()
			deliverFixed(ctx, s.http+"/fail")
		}()
	}
}

// Each session is looked at from time to time, also when it is over.

type session struct{ over atomic.Bool }

func (s *session) pollLeaky() {
	for {
		s.over.Load()
		time.Sleep(200 * time.Millisecond) // LEAK sleep
	}
}

func (s *session) pollFixed() {
	for !s.over.Load() {
		time.Sleep(20 * time.Millisecond)
	}
}

func sessionHandler(poll func(*session)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s := &session{}
		go poll(s)
		time.AfterFunc(50*time.Millisecond, func() { s.over.Store(true) })
	}
}

func sessionPollerLeaky(*service) http.HandlerFunc { return sessionHandler((*session).pollLeaky) }
func sessionPollerFixed(*service) http.HandlerFunc { return sessionHandler((*session).pollFixed) }

// A line is read from a peer that says nothing.

func readLineLeaky(addr string) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer conn.Close()
	bufio.NewReader(conn).ReadString('\n') // LEAK io
}

func readLineFixed(addr string) {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	bufio.NewReader(conn).ReadString('\n')
}

func silentPeerLeaky(s *service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { go readLineLeaky(s.tcp) }
}

func silentPeerFixed(s *service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { go readLineFixed(s.tcp) }
}

// A proxy copies both ways and ends only one of them.

func proxyLeaky(addr string) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	go func() {
		io.Copy(io.Discard, conn) // LEAK io
		conn.Close()
	}()
	conn.Write([]byte("hello\n"))
}

func proxyFixed(addr string) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer conn.Close()
	go io.Copy(io.Discard, conn)
	conn.Write([]byte("hello\n"))
}

func proxyCopyLeaky(s *service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { proxyLeaky(s.tcp) }
}

func proxyCopyFixed(s *service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { proxyFixed(s.tcp) }
}

// A client with a transport of its own for each call.

func fetchLeaky(url string) {
	client := &http.Client{Transport: &http.Transport{}}
	res, err := client.Get(url) // LEAK io
	if err != nil {
		return
	}
	defer res.Body.Close()
	io.Copy(io.Discard, res.Body)
}

var shared = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}

func fetchFixed(url string) {
	res, err := shared.Get(url)
	if err != nil {
		return
	}
	defer res.Body.Close()
	io.Copy(io.Discard, res.Body)
}

func transportPerCallLeaky(s *service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { fetchLeaky(s.http + "/ok") }
}

func transportPerCallFixed(s *service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { fetchFixed(s.http + "/ok") }
}

// The body is closed only if the status is right.

func priceOfLeaky(ctx context.Context, url string) int {
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	res, err := http.DefaultClient.Do(req) // LEAK http-body
	if err != nil || res.StatusCode != http.StatusOK {
		return 0
	}
	defer res.Body.Close()
	var p struct{ Amount int }
	json.NewDecoder(res.Body).Decode(&p)
	return p.Amount
}

func priceOfFixed(ctx context.Context, url string) int {
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return 0
	}
	var p struct{ Amount int }
	json.NewDecoder(res.Body).Decode(&p)
	return p.Amount
}

func bodyOnErrorLeaky(s *service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { priceOfLeaky(context.Background(), s.http+"/fail") }
}

func bodyOnErrorFixed(s *service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { priceOfFixed(context.Background(), s.http+"/fail") }
}

// Only the beginning of a large body is of interest.

func sniffLeaky(url string) byte {
	res, err := http.Get(url) // LEAK http-body
	if err != nil {
		return 0
	}
	first := make([]byte, 1)
	res.Body.Read(first)
	return first[0]
}

func sniffFixed(url string) byte {
	res, err := http.Get(url)
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	first := make([]byte, 1)
	res.Body.Read(first)
	return first[0]
}

func bodyHalfReadLeaky(s *service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { sniffLeaky(s.http + "/big") }
}

func bodyHalfReadFixed(s *service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { sniffFixed(s.http + "/big") }
}

// Each request starts a refresh of its own.

func refreshLeaky() {
	t := time.NewTicker(time.Second)
	for range t.C { // LEAK timer
		time.Now()
	}
}

func refreshFixed(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

func tickerLoopLeaky(*service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { go refreshLeaky() }
}

func tickerLoopFixed(*service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { go refreshFixed(r.Context()) }
}

// A heartbeat for each connection.

func heartbeatLeaky(*service) http.HandlerFunc {
	beat := func() {
		for {
			<-time.After(700 * time.Millisecond) // LEAK timer
		}
	}
	return func(w http.ResponseWriter, r *http.Request) { go beat() }
}

func heartbeatFixed(*service) http.HandlerFunc {
	beat := func(ctx context.Context) {
		for ctx.Err() == nil {
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
	return func(w http.ResponseWriter, r *http.Request) { go beat(r.Context()) }
}

// Waiting for a flag by looking at it.

func busyWaitLeaky(*service) http.HandlerFunc {
	var calls atomic.Int64
	wait := func(ready *atomic.Bool) {
		for !ready.Load() { // LEAK spin
		}
	}
	return func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1)%20 == 0 { // one a second
			go wait(&atomic.Bool{})
		}
	}
}

func busyWaitFixed(*service) http.HandlerFunc {
	var calls atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1)%20 == 0 {
			ready := make(chan struct{})
			go func() { <-ready }()
			close(ready)
		}
	}
}

// One request in many leaks; the others do the same and finish.

func resolve(found chan bool, lost bool) {
	if lost {
		found = nil
	}
	time.Sleep(30 * time.Millisecond)
	found <- true // LEAK chan-send
}

func rareHandler(every int64) http.HandlerFunc {
	var calls atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		found := make(chan bool, 1)
		n := calls.Add(1)
		go resolve(found, every > 0 && n%every == 0)
	}
}

func rareLeakLeaky(*service) http.HandlerFunc { return rareHandler(10) }
func rareLeakFixed(*service) http.HandlerFunc { return rareHandler(0) }

// A leak of an outage long ago: it came within two minutes and has stopped.

func stuckReport(out chan int) {
	out <- 1 // LEAK chan-send
}

func oldHandler(room int) http.HandlerFunc {
	begin := time.Now()
	return func(w http.ResponseWriter, r *http.Request) {
		if time.Since(begin) < 5*time.Second {
			go stuckReport(make(chan int, room))
		}
	}
}

func oldLeakLeaky(*service) http.HandlerFunc { return oldHandler(0) }
func oldLeakFixed(*service) http.HandlerFunc { return oldHandler(1) }

// One goroutine a minute.

func awaitAnswer(answer chan int) {
	<-answer // LEAK chan-recv
}

func oneAMinuteHandler(leak bool) http.HandlerFunc {
	var last atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		now := time.Now().Unix() / 60
		if last.Swap(now) != now {
			answer := make(chan int)
			go awaitAnswer(answer)
			if !leak {
				close(answer)
			}
		}
	}
}

func oneAMinuteLeaky(*service) http.HandlerFunc { return oneAMinuteHandler(true) }
func oneAMinuteFixed(*service) http.HandlerFunc { return oneAMinuteHandler(false) }
