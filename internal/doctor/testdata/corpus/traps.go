package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Each request starts something that takes its time and ends.
func slowFinishers(*service) http.HandlerFunc {
	work := func() { time.Sleep(1500 * time.Millisecond) }
	return func(w http.ResponseWriter, r *http.Request) { go work() }
}

// A pool that makes workers as they are needed, up to forty, within the first seconds.
func growingPool(*service) http.HandlerFunc {
	jobs := make(chan time.Duration)
	var workers atomic.Int64
	worker := func() {
		for d := range jobs {
			time.Sleep(d)
		}
	}
	return func(w http.ResponseWriter, r *http.Request) {
		if n := workers.Load(); n < 40 && workers.CompareAndSwap(n, n+1) {
			go worker()
		}
		jobs <- 20 * time.Millisecond
	}
}

// A batch of a hundred jobs now and then, each of some seconds.
func burst(*service) http.HandlerFunc {
	var calls atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1)%90 == 0 {
			for i := range 100 {
				go func() { time.Sleep(time.Duration(2000+10*i) * time.Millisecond) }()
			}
		}
	}
}

// Tickers, timers and signals that wait from the start, by design.
func sleepers(*service) http.HandlerFunc {
	for i := range 30 {
		go func() {
			for range time.Tick(time.Duration(100+i*50) * time.Millisecond) {
			}
		}()
		go func() {
			for {
				time.Sleep(time.Minute)
			}
		}()
	}
	never := make(chan struct{})
	for range 20 {
		go func() { <-never }()
	}
	return func(w http.ResponseWriter, r *http.Request) {}
}

// Connections to an upstream that are kept for later, and clients that keep theirs.
func idleConnections(s *service) http.HandlerFunc {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 30}}
	var once sync.Once
	return func(w http.ResponseWriter, r *http.Request) {
		once.Do(func() {
			for range 30 {
				if conn, err := net.Dial("tcp", s.tcp); err == nil {
					go func() {
						defer conn.Close()
						io.Copy(io.Discard, conn)
					}()
				}
			}
		})
		var calls sync.WaitGroup
		for range 5 {
			calls.Go(func() {
				if res, err := client.Get(s.http + "/slow"); err == nil {
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
			})
		}
		calls.Wait()
	}
}

// A cache that fills to its size in the first seconds.
func warmingCache(*service) http.HandlerFunc {
	var mu sync.Mutex
	items := map[int][]byte{}
	var next atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		for range 20 {
			key := int(next.Add(1) % 600)
			v := make([]byte, 16<<10)
			mu.Lock()
			items[key] = v
			mu.Unlock()
		}
	}
}

// Workers that were made on demand in the first second and have nothing to do now.
func parkedPool(*service) http.HandlerFunc {
	jobs := make(chan int)
	var made atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		for made.Load() < 25 {
			made.Add(1)
			go func() {
				for range jobs {
				}
			}()
		}
	}
}

// Producers wait for consumers, who keep up: many wait at any time, none for long.
func busyQueue(*service) http.HandlerFunc {
	q := make(chan int)
	for range 3 {
		go func() {
			for range q {
				time.Sleep(10 * time.Millisecond)
			}
		}()
	}
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		var senders sync.WaitGroup
		for i := range 8 {
			senders.Go(func() {
				select {
				case q <- i:
				case <-ctx.Done():
				}
			})
		}
		go func() {
			senders.Wait()
			cancel()
		}()
		fmt.Fprintln(w, "queued")
	}
}
