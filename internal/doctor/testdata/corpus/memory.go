package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Prices are remembered by a key that comes from outside.

type priceCache struct {
	mu    sync.Mutex
	items map[string][]byte
}

func (c *priceCache) putLeaky(key string) {
	v := make([]byte, 8<<10) // LEAK heap:cache
	c.mu.Lock()
	defer c.mu.Unlock()
	c.items[key] = v
}

func (c *priceCache) putFixed(key string) {
	v := make([]byte, 8<<10)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.items) >= 200 {
		for old := range c.items {
			delete(c.items, old)
			break
		}
	}
	c.items[key] = v
}

func priceHandler(put func(*priceCache, string)) http.HandlerFunc {
	c := &priceCache{items: map[string][]byte{}}
	return func(w http.ResponseWriter, r *http.Request) {
		for range 4 {
			put(c, fmt.Sprint("q=", rand.Int64()))
		}
	}
}

func priceCacheLeaky(*service) http.HandlerFunc { return priceHandler((*priceCache).putLeaky) }
func priceCacheFixed(*service) http.HandlerFunc { return priceHandler((*priceCache).putFixed) }

// Sessions are put into a map of values and never taken out.

type visit struct {
	started time.Time
	pages   [20]int64
}

type visits struct {
	mu sync.Mutex
	m  map[int64]visit
}

func (v *visits) beginLeaky(id int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.m[id] = visit{started: time.Now()} // LEAK heap:map
}

func (v *visits) beginFixed(id int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.m[id] = visit{started: time.Now()}
	delete(v.m, id-2000)
}

func visitsHandler(begin func(*visits, int64)) http.HandlerFunc {
	v := &visits{m: map[int64]visit{}}
	var next atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		for range 200 {
			begin(v, next.Add(1))
		}
	}
}

func sessionMapLeaky(*service) http.HandlerFunc { return visitsHandler((*visits).beginLeaky) }
func sessionMapFixed(*service) http.HandlerFunc { return visitsHandler((*visits).beginFixed) }

// An audit log that is kept in memory.

type auditLog struct {
	mu      sync.Mutex
	entries []visit
}

func (a *auditLog) addLeaky() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.entries = append(a.entries, visit{started: time.Now()}) // LEAK heap:slice
}

func (a *auditLog) addFixed() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.entries) >= 1000 {
		a.entries = a.entries[:0]
	}
	a.entries = append(a.entries, visit{started: time.Now()})
}

func auditHandler(add func(*auditLog)) http.HandlerFunc {
	a := &auditLog{}
	return func(w http.ResponseWriter, r *http.Request) {
		for range 300 {
			add(a)
		}
	}
}

func auditSliceLeaky(*service) http.HandlerFunc { return auditHandler((*auditLog).addLeaky) }
func auditSliceFixed(*service) http.HandlerFunc { return auditHandler((*auditLog).addFixed) }

// A few bytes of each body are kept, and the whole body with them.

func readBody() []byte {
	return bytes.Repeat([]byte("x"), 32<<10) // LEAK heap:objects
}

type titles struct {
	mu  sync.Mutex
	all [][]byte
}

func (t *titles) keep(b []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = append(t.all, b)
}

func keptBuffersLeaky(*service) http.HandlerFunc {
	t := &titles{}
	return func(w http.ResponseWriter, r *http.Request) { t.keep(readBody()[:16]) }
}

func keptBuffersFixed(*service) http.HandlerFunc {
	t := &titles{}
	return func(w http.ResponseWriter, r *http.Request) { t.keep(bytes.Clone(readBody()[:16])) }
}
