package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"log"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// busy runs work for two thirds of the time, for ever. What it does is what the program
// spends its time with.
func busy(work func()) http.HandlerFunc {
	go func() {
		for {
			begin := time.Now()
			for time.Since(begin) < 40*time.Millisecond {
				for range 200 {
					work()
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	return func(w http.ResponseWriter, r *http.Request) {}
}

type orderLine struct {
	SKU      string            `json:"sku"`
	Quantity int               `json:"quantity"`
	Notes    map[string]string `json:"notes"`
}

var line = orderLine{SKU: "22632", Quantity: 6, Notes: map[string]string{"gift": "yes", "colour": "red"}}

func encodeOrder() []byte {
	b, _ := json.Marshal(line) // COST json-reflection
	return b
}

var encoded = encodeOrder()

func jsonLeaky(*service) http.HandlerFunc { return busy(func() { encodeOrder() }) }

func jsonFixed(*service) http.HandlerFunc {
	return busy(func() { checksum(encoded) }) // encoded once
}

var sum uint64

var seed = maphash.MakeSeed()

func checksum(b []byte) { sum += maphash.Bytes(seed, b) }

func keyLeaky(customer, order int) string {
	return fmt.Sprintf("orders/%d/%d/lines", customer, order) // COST sprintf
}

func sprintfLeaky(*service) http.HandlerFunc {
	return busy(func() { checksum([]byte(keyLeaky(17850, 536365))) })
}

func sprintfFixed(*service) http.HandlerFunc {
	buf := make([]byte, 0, 64)
	return busy(func() {
		b := append(buf[:0], "orders/"...)
		b = strconv.AppendInt(b, 17850, 10)
		b = append(b, '/')
		b = strconv.AppendInt(b, 536365, 10)
		checksum(append(b, "/lines"...))
	})
}

func joinLeaky(rows []string) string {
	s := ""
	for _, r := range rows {
		s += r + "," // COST string-building
	}
	return s
}

var rows = strings.Split(strings.Repeat("white hanging heart holder;", 100), ";")

func stringJoinLeaky(*service) http.HandlerFunc {
	return busy(func() { checksum([]byte(joinLeaky(rows))) })
}

// strings.Join would leave garbage for the collector, a third of the CPU time.
func stringJoinFixed(*service) http.HandlerFunc {
	var b bytes.Buffer
	return busy(func() {
		b.Reset()
		for _, r := range rows {
			b.WriteString(r)
			b.WriteByte(',')
		}
		checksum(b.Bytes())
	})
}

func expireLeaky(items []int64) (n int) {
	for _, at := range items {
		if time.Now().UnixNano() > at { // COST time-now
			n++
		}
	}
	return n
}

func expireFixed(items []int64) (n int) {
	now := time.Now().UnixNano()
	for _, at := range items {
		if now > at {
			n++
		}
	}
	return n
}

var deadlines = make([]int64, 5000)

func clockLoopLeaky(*service) http.HandlerFunc { return busy(func() { expireLeaky(deadlines) }) }
func clockLoopFixed(*service) http.HandlerFunc { return busy(func() { expireFixed(deadlines) }) }

func validSKULeaky(sku string) bool {
	return regexp.MustCompile(`^[0-9]{5}[A-Z]?$`).MatchString(sku) // COST regexp-compile
}

var skuPattern = regexp.MustCompile(`^[0-9]{5}[A-Z]?$`)

func regexpCallLeaky(*service) http.HandlerFunc { return busy(func() { validSKULeaky("85123A") }) }
func regexpCallFixed(*service) http.HandlerFunc {
	return busy(func() { skuPattern.MatchString("85123A") })
}

// Many goroutines log each step, each line a write.

func steps(l *log.Logger) {
	for range 20 {
		l.Printf("step done, order %d", 536365) // COST log-under-lock
	}
}

func loggerHandler(l *log.Logger) http.HandlerFunc {
	for range 16 {
		go func() {
			for {
				steps(l)
				time.Sleep(time.Millisecond)
			}
		}()
	}
	return func(w http.ResponseWriter, r *http.Request) {}
}

func syncLoggerLeaky(*service) http.HandlerFunc {
	f, err := os.CreateTemp("", "corpus-log")
	if err != nil {
		panic(err)
	}
	os.Remove(f.Name())
	go func() { // the file must not fill the disk
		for range time.Tick(time.Second) {
			f.Truncate(0)
			f.Seek(0, 0)
		}
	}()
	return loggerHandler(log.New(f, "", log.LstdFlags))
}

func syncLoggerFixed(*service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var b bytes.Buffer // a line a request, not a step
		log.New(&b, "", log.LstdFlags).Printf("order %d done", 536365)
	}
}

func pollLeaky(in, quit chan int) {
	for {
		select { // COST select-default-spin
		case <-in:
		case <-quit:
			return
		default:
		}
	}
}

func pollFixed(in, quit chan int) {
	for {
		select {
		case <-in:
		case <-quit:
			return
		}
	}
}

func pollingLoopLeaky(*service) http.HandlerFunc {
	go pollLeaky(make(chan int), make(chan int))
	return func(w http.ResponseWriter, r *http.Request) {}
}

func pollingLoopFixed(*service) http.HandlerFunc {
	go pollFixed(make(chan int), make(chan int))
	return func(w http.ResponseWriter, r *http.Request) {}
}

// One lock for all keys, held while something slow is done.

type registry struct {
	mu sync.Mutex
	m  map[int]int
}

func (r *registry) touchLeaky(k int) {
	r.mu.Lock() // COST lock
	defer r.mu.Unlock()
	time.Sleep(300 * time.Microsecond) // asks somebody
	r.m[k]++
}

func (r *registry) touchFixed(k int) {
	time.Sleep(300 * time.Microsecond)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.m[k]++
}

func registryHandler(touch func(*registry, int)) http.HandlerFunc {
	r := &registry{m: map[int]int{}}
	for i := range 24 {
		go func() {
			for {
				touch(r, i)
				time.Sleep(time.Millisecond)
			}
		}()
	}
	return func(w http.ResponseWriter, r *http.Request) {}
}

func oneLockLeaky(*service) http.HandlerFunc { return registryHandler((*registry).touchLeaky) }
func oneLockFixed(*service) http.HandlerFunc { return registryHandler((*registry).touchFixed) }

// A tree of small objects is built for each request and thrown away.

type node struct{ left, right *node }

func buildLeaky(depth int) *node {
	if depth == 0 {
		return nil
	}
	return &node{buildLeaky(depth - 1), buildLeaky(depth - 1)} // COST gc
}

func buildFixed(nodes []node) *node {
	for i := range nodes {
		if 2*i+2 < len(nodes) {
			nodes[i] = node{&nodes[2*i+1], &nodes[2*i+2]}
		}
	}
	return &nodes[0]
}

var lastTree *node

func smallObjectsLeaky(*service) http.HandlerFunc {
	return busy(func() { lastTree = buildLeaky(10) })
}

func smallObjectsFixed(*service) http.HandlerFunc {
	nodes := make([]node, 1023)
	return busy(func() { lastTree = buildFixed(nodes) })
}
