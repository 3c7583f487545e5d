package noend

import (
	"context"
	"net/http"
	"time"
)

func poll() {}

func handler(w http.ResponseWriter, r *http.Request) {
	go func() { // want `sleep: this goroutine has no way to end, and each request starts one`
		for {
			poll()
			time.Sleep(time.Second)
		}
	}()
	go tick()                  // want `timer: this goroutine has no way to end`
	go consume(make(chan int)) // want `select: this goroutine has no way to end`
	go follow(r.Context(), nil)
	go drain(make(chan int))
	beat := func() {
		for {
			<-time.After(time.Second)
		}
	}
	go beat() // want `timer: this goroutine has no way to end`
}

func tick() {
	for range time.NewTicker(time.Second).C {
		poll()
	}
}

func consume(in chan int) {
	for {
		select {
		case <-in:
			poll()
		}
	}
}

func follow(ctx context.Context, in chan int) {
	for {
		select {
		case <-in:
		case <-ctx.Done():
			return
		}
	}
}

func drain(in chan int) {
	for range in {
	}
}

// Cache can be closed.
type Cache struct{ quit chan struct{} }

// New starts a goroutine that Close does not reach.
func New() *Cache {
	c := &Cache{quit: make(chan struct{})}
	go func() { // want `chan-recv: this goroutine has no way to end, and closing`
		in := make(chan int)
		for {
			<-in
		}
	}()
	go func() {
	loop:
		for {
			select {
			case <-c.quit:
				break loop
			}
		}
	}()
	return c
}

// Close ends it.
func (c *Cache) Close() { close(c.quit) }

// Forever is meant to: nothing closes it.
func Forever() {
	go func() {
		for {
			time.Sleep(time.Second)
		}
	}()
}
