package main

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// An error path returns with the lock held.

type stockTable struct {
	mu    sync.Mutex
	items map[string]int
	calls int
}

func (s *stockTable) takeLeaky(sku string) bool {
	s.mu.Lock() // LEAK mutex
	s.calls++
	if s.calls > 30 {
		return false
	}
	s.items[sku]--
	s.mu.Unlock()
	return true
}

func (s *stockTable) takeFixed(sku string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.calls > 30 {
		return false
	}
	s.items[sku]--
	return true
}

func missedUnlockLeaky(*service) http.HandlerFunc {
	s := &stockTable{items: map[string]int{}}
	return func(w http.ResponseWriter, r *http.Request) { s.takeLeaky("22632") }
}

func missedUnlockFixed(*service) http.HandlerFunc {
	s := &stockTable{items: map[string]int{}}
	return func(w http.ResponseWriter, r *http.Request) { s.takeFixed("22632") }
}

// A notification is sent with the lock held, to somebody who does not listen any more.

type notifier struct {
	mu      sync.Mutex
	last    string
	changes chan string
}

func (n *notifier) setLeaky(v string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last = v
	n.changes <- v // LEAK chan-send
}

func (n *notifier) setFixed(v string) {
	n.mu.Lock()
	n.last = v
	n.mu.Unlock()
	select {
	case n.changes <- v:
	default:
	}
}

func lockAroundSendLeaky(*service) http.HandlerFunc {
	n := &notifier{changes: make(chan string, 8)}
	return func(w http.ResponseWriter, r *http.Request) { n.setLeaky("open") }
}

func lockAroundSendFixed(*service) http.HandlerFunc {
	n := &notifier{changes: make(chan string, 8)}
	return func(w http.ResponseWriter, r *http.Request) { n.setFixed("open") }
}

// Money moves between two accounts, each with a lock.

type account struct {
	mu      sync.Mutex
	id      int
	balance int
}

func transferLeaky(from, to *account, amount int) {
	from.mu.Lock() // LEAK mutex
	defer from.mu.Unlock()
	time.Sleep(2 * time.Millisecond) // looks the limits up
	to.mu.Lock()                     // LEAK mutex
	defer to.mu.Unlock()
	from.balance -= amount
	to.balance += amount
}

func transferFixed(from, to *account, amount int) {
	first, second := from, to
	if first.id > second.id {
		first, second = second, first
	}
	first.mu.Lock()
	defer first.mu.Unlock()
	time.Sleep(2 * time.Millisecond)
	second.mu.Lock()
	defer second.mu.Unlock()
	from.balance -= amount
	to.balance += amount
}

func transferHandler(move func(from, to *account, amount int)) http.HandlerFunc {
	a, b := &account{id: 1}, &account{id: 2}
	return func(w http.ResponseWriter, r *http.Request) {
		go move(a, b, 1)
		go move(b, a, 1)
	}
}

func transferDeadlockLeaky(*service) http.HandlerFunc { return transferHandler(transferLeaky) }
func transferDeadlockFixed(*service) http.HandlerFunc { return transferHandler(transferFixed) }

// A reader locks again what it has locked, while a writer waits.

type settings struct {
	mu     sync.RWMutex
	values map[string]string
}

func (s *settings) count() int {
	s.mu.RLock() // LEAK rwmutex
	defer s.mu.RUnlock()
	return len(s.values)
}

func (s *settings) summaryLeaky() int {
	s.mu.RLock() // LEAK rwmutex
	defer s.mu.RUnlock()
	time.Sleep(3 * time.Millisecond)
	return s.count()
}

func (s *settings) summaryFixed() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	time.Sleep(3 * time.Millisecond)
	return len(s.values)
}

func (s *settings) set(k, v string) {
	s.mu.Lock() // LEAK rwmutex
	defer s.mu.Unlock()
	s.values[k] = v
}

func settingsHandler(summary func(*settings) int) http.HandlerFunc {
	s := &settings{values: map[string]string{}}
	return func(w http.ResponseWriter, r *http.Request) {
		go s.set("mode", "fast")
		summary(s)
	}
}

func recursiveReadLockLeaky(*service) http.HandlerFunc {
	return settingsHandler((*settings).summaryLeaky)
}

func recursiveReadLockFixed(*service) http.HandlerFunc {
	return settingsHandler((*settings).summaryFixed)
}

// A look-up that finds nothing forgets to unlock; the next writer waits for ever, and all
// readers behind it.

func (s *settings) getLeaky(k string) (string, bool) {
	s.mu.RLock() // LEAK rwmutex
	v, ok := s.values[k]
	if !ok {
		return "", false
	}
	s.mu.RUnlock()
	return v, true
}

func (s *settings) getFixed(k string) (string, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	v, ok := s.values[k]
	return v, ok
}

func lookupHandler(get func(*settings, string) (string, bool)) http.HandlerFunc {
	s := &settings{values: map[string]string{"mode": "fast"}}
	return func(w http.ResponseWriter, r *http.Request) {
		key := "mode"
		if rand.IntN(10) == 0 {
			key = "colour"
		}
		get(s, key)
		if rand.IntN(10) == 0 {
			s.set("mode", "slow")
		}
	}
}

func missedReadUnlockLeaky(*service) http.HandlerFunc { return lookupHandler((*settings).getLeaky) }
func missedReadUnlockFixed(*service) http.HandlerFunc { return lookupHandler((*settings).getFixed) }

// Parts of a page are fetched in parallel; a part that fails is not counted as done.

func renderParts(done func(wg *sync.WaitGroup, failed bool)) {
	var wg sync.WaitGroup
	for range 3 {
		wg.Add(1)
		go func() {
			time.Sleep(2 * time.Millisecond)
			done(&wg, rand.IntN(4) == 0)
		}()
	}
	wg.Wait() // LEAK waitgroup
}

func missedDoneLeaky(*service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		go renderParts(func(wg *sync.WaitGroup, failed bool) {
			if failed {
				return
			}
			wg.Done()
		})
	}
}

func missedDoneFixed(*service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		go renderParts(func(wg *sync.WaitGroup, failed bool) { wg.Done() })
	}
}

// One more is counted than is started.

func index(documents, counted int) {
	var wg sync.WaitGroup
	wg.Add(counted)
	for range documents {
		go func() {
			defer wg.Done()
			time.Sleep(time.Millisecond)
		}()
	}
	wg.Wait() // LEAK waitgroup
}

func oneAddTooManyLeaky(*service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { go index(3, 4) }
}

func oneAddTooManyFixed(*service) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { go index(3, 3) }
}

// A queue with a condition; closing it wakes nobody.

type queue struct {
	mu     sync.Mutex
	cond   *sync.Cond
	items  []int
	closed bool
}

func newQueue() *queue {
	q := &queue{}
	q.cond = sync.NewCond(&q.mu)
	return q
}

func (q *queue) put(v int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items = append(q.items, v)
	q.cond.Signal()
}

func (q *queue) get() (int, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.items) == 0 && !q.closed {
		q.cond.Wait() // LEAK cond
	}
	if len(q.items) == 0 {
		return 0, false
	}
	v := q.items[0]
	q.items = q.items[1:]
	return v, true
}

func (q *queue) close(wake bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	if wake {
		q.cond.Broadcast()
	}
}

func queueHandler(wake bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q := newQueue()
		go func() {
			for {
				if _, ok := q.get(); !ok {
					return
				}
			}
		}()
		q.put(1)
		time.Sleep(3 * time.Millisecond)
		q.close(wake)
	}
}

func queueCloseLeaky(*service) http.HandlerFunc { return queueHandler(false) }
func queueCloseFixed(*service) http.HandlerFunc { return queueHandler(true) }
