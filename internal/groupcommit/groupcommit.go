// Package groupcommit turns many concurrent requests into few durable commits.
//
// It does not know what a request means: the caller's Applier decides each one
// and writes them all in one commit. It keeps no timer: an idle Batcher commits a
// lone request at once, and batches grow only while earlier commits are in flight
// (or while Config.Gather waits a moment).
//
// # Goroutines and order
//
// Two goroutines belong to a Batcher, and Stop waits for both. The decider takes
// what is queued and calls Apply, always one batch at a time and in order, so an
// Applier needs no lock for what only it writes. The finisher waits for each
// commit and answers the callers, in the same order. Up to Config.InFlight
// batches are between the two: while one is being flushed the next is decided.
//
// Not obvious: because answers leave in order, a request that was refused because
// of what an earlier batch took is answered only when that batch is durable. So no
// answer ever rests on something that a crash could take back. Readers who look at
// the store directly get the same with Barrier.
//
// A commit that fails leaves its outcome unknown: it may or may not be on disk.
// The Batcher then stops for good: callers get fault.Unavailable, which tells them
// to repeat with the same idempotency key once the process has restarted and read
// what is really there. A store that reads everything afresh for each batch can go on
// instead: it returns a *BatchError.
package groupcommit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstockhq/penstock/internal/fault"
)

// Applier decides and writes batches for a Batcher.
type Applier[Req, Res any] interface {
	// Apply decides every request on its own merit, in order, later ones seeing
	// the effect of earlier ones, and puts the answer to reqs[i] into res[i]; a
	// refusal is an answer too. It begins one atomic commit of everything that
	// changed and returns without waiting for it to be durable. A nil Commit
	// says that nothing was written.
	//
	// A *BatchError fails this batch alone. Any other error or a panic means that the
	// store cannot go on; it stops the Batcher.
	Apply(reqs []Req, res []Res) (Commit, error)
}

// Commit is a commit that is being made durable.
type Commit interface {
	// Wait returns when the commit is durable, or with an error when that is
	// not certain. It is called once. It may still change the answers of its batch: a
	// store that has to decide a batch again does so here. Errors mean what they mean
	// for Apply.
	Wait() error
}

// BatchError is the failure of one batch by a store that can go on with the next, such
// as a database that could not be reached. Every caller of the batch gets Err.
type BatchError struct{ Err error }

// Error returns what failed.
func (e *BatchError) Error() string { return "batch failed: " + e.Err.Error() }

// Unwrap returns what every caller gets.
func (e *BatchError) Unwrap() error { return e.Err }

// Config of a Batcher. The zero value is ready for use.
type Config struct {
	// Name is used in errors. Defaults to "store".
	Name string
	// MaxBatch is the most requests in one commit; a larger SubmitAll goes
	// as a batch of its own. Defaults to 4096.
	MaxBatch int
	// MaxQueue is how many requests may wait; the next is refused with
	// fault.Overloaded. Defaults to 4 × MaxBatch.
	MaxQueue int
	// InFlight is how many batches may be decided but not yet durable.
	// Defaults to 2; see docs/adr/0002-two-batches-in-flight.md.
	InFlight int
	// Gather has a batch of fewer requests than this wait a moment for those who were
	// answered just now; see gather.go. Defaults to 0: no batch waits.
	Gather int
	// StallAfter is how long a commit may take before those who wait for it, or queue
	// behind it, get fault.Timeout and new requests are refused, until it ends. It
	// replaces a timer for each request. Defaults to 10 s.
	StallAfter time.Duration
	// RetryAfter is what refused callers are told to wait. Defaults to 1 s.
	RetryAfter time.Duration
	// OnBatch is called after every commit, from the finisher. Defaults to none.
	OnBatch func(BatchStats)
}

// BatchStats describes a finished batch.
type BatchStats struct {
	Requests  int
	QueueWait time.Duration // of the request that waited longest
	Apply     time.Duration // deciding and encoding
	Commit    time.Duration // from the end of Apply until durable
}

func (c Config) withDefaults() Config {
	c.Name = cmp.Or(c.Name, "store")
	c.MaxBatch = cmp.Or(c.MaxBatch, 4096)
	c.MaxQueue = cmp.Or(c.MaxQueue, 4*c.MaxBatch)
	c.InFlight = cmp.Or(c.InFlight, 2)
	c.StallAfter = cmp.Or(c.StallAfter, 10*time.Second)
	c.RetryAfter = cmp.Or(c.RetryAfter, time.Second)
	return c
}

// Validate explains what is wrong with c.
func (c Config) Validate() error {
	if c.MaxBatch < 0 || c.MaxQueue < 0 || c.InFlight < 0 || c.Gather < 0 || c.RetryAfter < 0 || c.StallAfter < 0 {
		return errors.New("groupcommit: MaxBatch, MaxQueue, InFlight, Gather, StallAfter and RetryAfter must not be negative")
	}
	return nil
}

// Batcher collects requests into batches. Make one with New, end it with Stop.
type Batcher[Req, Res any] struct {
	cfg     Config
	applier Applier[Req, Res]

	mu      sync.Mutex // guards queue, waiting, stopping
	queue   []*ticket[Req, Res]
	waiting int // requests in queue that are not withdrawn
	stopped bool

	wake    chan struct{}          // holds one token when queue or stopped changed
	slots   chan struct{}          // a token for each batch in flight
	flights chan *flight[Req, Res] // from decider to finisher
	done    chan struct{}          // closed when both goroutines have ended
	failed  chan struct{}          // closed when err is set
	err     error                  // why it failed; read only after failed is closed
	started atomic.Uint64          // batches given to Apply
	durable atomic.Uint64          // batches answered
	advance atomic.Pointer[signal] // closed and replaced whenever durable grows
	stalled atomic.Pointer[signal] // closed while a commit takes too long
	last    atomic.Pointer[last]   // of the batches that were answered; nil before the first
}

// signal is a channel that is closed for all who wait and replaced for those to come.
type signal struct {
	c    chan struct{}
	once sync.Once
}

func newSignal() *signal { return &signal{c: make(chan struct{})} }

func (s *signal) close() { s.once.Do(func() { close(s.c) }) }

// Ticket states. A ticket leaves queued exactly once.
const (
	queued int32 = iota
	taken
	withdrawn
)

type ticket[Req, Res any] struct {
	state  atomic.Int32
	reqs   []Req
	res    []Res // its part of the batch's
	err    error
	since  time.Time
	answer chan struct{} // gets one token
}

type flight[Req, Res any] struct {
	tickets  []*ticket[Req, Res]
	commit   Commit
	err      error
	stats    BatchStats
	applied  time.Time
	requests int
	late     *time.Timer // closes stalled
}

// New starts a Batcher. An invalid cfg is an error.
func New[Req, Res any](cfg Config, applier Applier[Req, Res]) (*Batcher[Req, Res], error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	b := &Batcher[Req, Res]{
		cfg:     cfg,
		applier: applier,
		wake:    make(chan struct{}, 1),
		slots:   make(chan struct{}, cfg.InFlight),
		flights: make(chan *flight[Req, Res], cfg.InFlight),
		done:    make(chan struct{}),
		failed:  make(chan struct{}),
	}
	b.advance.Store(newSignal())
	b.stalled.Store(newSignal())
	go b.decide()
	go b.finish()
	return b, nil
}

// Submit waits until req is part of a durable commit and returns its own result.
// It returns fault.Overloaded at once when the queue is full, and ctx's error
// when ctx ends before req was taken into a batch; after that, req stands and only
// the answer is dropped. Once the Batcher has stopped it returns fault.Unavailable.
func (b *Batcher[Req, Res]) Submit(ctx context.Context, req Req) (Res, error) {
	res, err := b.submit(ctx, []Req{req}, false)
	if err != nil {
		var none Res
		return none, err
	}
	return res[0], nil
}

// SubmitAll is Submit for several requests that enter the queue together, or are
// refused together. They share one commit, but not each other's fate.
func (b *Batcher[Req, Res]) SubmitAll(ctx context.Context, reqs []Req) ([]Res, error) {
	return b.submit(ctx, reqs, false)
}

// Continue is SubmitAll for the later step of work whose first step was accepted:
// a full queue does not refuse it, because giving up half-way costs more than it
// saves. The number of such requests is bounded by the callers that made it past
// the first step.
func (b *Batcher[Req, Res]) Continue(ctx context.Context, reqs []Req) ([]Res, error) {
	return b.submit(ctx, reqs, true)
}

func (b *Batcher[Req, Res]) submit(ctx context.Context, reqs []Req, force bool) ([]Res, error) {
	if len(reqs) == 0 {
		return nil, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t := &ticket[Req, Res]{
		reqs: reqs, since: time.Now(), answer: make(chan struct{}, 1),
	}
	if err := b.enqueue(t, force); err != nil {
		return nil, err
	}
	select {
	case <-t.answer:
		return t.res, t.err
	case <-ctx.Done():
		b.withdraw(t)
		return nil, ctx.Err()
	case <-b.stalled.Load().c:
		b.withdraw(t)
		return nil, b.stall()
	}
}

// withdraw takes t out of the queue if it is still there.
func (b *Batcher[Req, Res]) withdraw(t *ticket[Req, Res]) {
	if t.state.CompareAndSwap(queued, withdrawn) {
		b.mu.Lock()
		b.waiting -= len(t.reqs)
		b.mu.Unlock()
	}
}

func (b *Batcher[Req, Res]) stall() *fault.Error {
	return fault.New(fault.Timeout, "the disk has not confirmed a write of the %s for %v; the outcome is unknown, "+
		"send the request again with the same idempotency key", b.cfg.Name, b.cfg.StallAfter).WithRetryAfter(b.cfg.RetryAfter)
}

func (b *Batcher[Req, Res]) enqueue(t *ticket[Req, Res], force bool) error {
	b.mu.Lock()
	switch {
	case b.stopped:
		b.mu.Unlock()
		return b.unavailable()
	case !force && b.waiting > 0 && b.waiting+len(t.reqs) > b.cfg.MaxQueue:
		waiting := b.waiting
		b.mu.Unlock()
		return fault.New(fault.Overloaded, "%d requests are waiting for the %s already", waiting, b.cfg.Name).
			WithRetryAfter(b.cfg.RetryAfter)
	}
	b.queue = append(b.queue, t)
	b.waiting += len(t.reqs)
	b.mu.Unlock()
	b.poke()
	return nil
}

func (b *Batcher[Req, Res]) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Queued returns how many requests wait to be taken.
func (b *Batcher[Req, Res]) Queued() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waiting
}

// Barrier waits until everything that a reader of the store could have seen when
// Barrier was called is durable. It costs two atomic loads when nothing is in flight.
func (b *Batcher[Req, Res]) Barrier(ctx context.Context) error {
	target := b.started.Load()
	for b.durable.Load() < target {
		moved := b.advance.Load()
		if b.durable.Load() >= target {
			return nil
		}
		select {
		case <-moved.c:
		case <-b.failed:
			return b.unavailable()
		case <-b.stalled.Load().c:
			return b.stall()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Failed is closed when a commit failed and the Batcher has stopped for good.
func (b *Batcher[Req, Res]) Failed() <-chan struct{} { return b.failed }

// Err returns why the Batcher failed, nil while it has not.
func (b *Batcher[Req, Res]) Err() error {
	select {
	case <-b.failed:
		return b.err
	default:
		return nil
	}
}

// Stop refuses new requests, finishes those that are queued, and returns when both
// goroutines have ended, or with ctx's error. Stopping twice is fine.
func (b *Batcher[Req, Res]) Stop(ctx context.Context) error {
	b.mu.Lock()
	b.stopped = true
	b.mu.Unlock()
	b.poke()
	select {
	case <-b.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop %s: %w", b.cfg.Name, ctx.Err())
	}
}

func (b *Batcher[Req, Res]) unavailable() error {
	if err := b.Err(); err != nil {
		return fault.Wrap(err, fault.Unavailable, "the %s has stopped after a failed write", b.cfg.Name).
			WithRetryAfter(b.cfg.RetryAfter)
	}
	return fault.New(fault.Unavailable, "the %s is stopping", b.cfg.Name).WithRetryAfter(b.cfg.RetryAfter)
}

// decide is the decider: it takes, applies and hands over until stopped and empty.
func (b *Batcher[Req, Res]) decide() {
	defer close(b.flights)
	for {
		b.slots <- struct{}{}
		f := b.next()
		if f == nil {
			return
		}
		b.started.Add(1)
		f.late = time.AfterFunc(b.cfg.StallAfter, func() { b.stalled.Load().close() })
		b.apply(f)
		b.flights <- f
	}
}

// next waits for work and takes a batch of it; nil when the Batcher has stopped.
func (b *Batcher[Req, Res]) next() *flight[Req, Res] {
	for {
		b.gather()
		b.mu.Lock()
		f := b.take()
		stopped := b.stopped
		b.mu.Unlock()
		if len(f.tickets) > 0 {
			return f
		}
		if stopped {
			return nil
		}
		<-b.wake
	}
}

// take moves tickets from the queue into a new flight. The caller holds mu.
func (b *Batcher[Req, Res]) take() *flight[Req, Res] {
	f := &flight[Req, Res]{}
	used := 0
	for _, t := range b.queue {
		if len(f.tickets) > 0 && f.requests+len(t.reqs) > b.cfg.MaxBatch {
			break
		}
		used++
		if t.state.CompareAndSwap(queued, taken) {
			f.tickets = append(f.tickets, t)
			f.requests += len(t.reqs)
		}
	}
	rest := copy(b.queue, b.queue[used:])
	clear(b.queue[rest:])
	b.queue = b.queue[:rest]
	b.waiting -= f.requests
	return f
}

// apply runs the Applier on f and gives each ticket its part of the results.
func (b *Batcher[Req, Res]) apply(f *flight[Req, Res]) {
	begin := time.Now()
	f.stats.Requests, f.stats.QueueWait = f.requests, begin.Sub(f.tickets[0].since)
	defer func() {
		if p := recover(); p != nil {
			f.err = fmt.Errorf("panic while deciding a batch: %v\n%s", p, debug.Stack())
		}
		f.applied = time.Now()
		f.stats.Apply = f.applied.Sub(begin)
	}()
	if err := b.Err(); err != nil {
		f.err = err
		return
	}
	reqs := f.tickets[0].reqs
	if len(f.tickets) > 1 {
		reqs = make([]Req, 0, f.requests)
		for _, t := range f.tickets {
			reqs = append(reqs, t.reqs...)
		}
	}
	res := make([]Res, len(reqs))
	f.commit, f.err = b.applier.Apply(reqs, res)
	for _, t := range f.tickets {
		n := len(t.reqs)
		t.res, res = res[:n:n], res[n:]
	}
}

// finish is the finisher: it waits for each commit and answers, in order.
func (b *Batcher[Req, Res]) finish() {
	defer close(b.done)
	for f := range b.flights {
		if f.err == nil && f.commit != nil {
			f.err = wait(f.commit)
		}
		only, ok := errors.AsType[*BatchError](f.err)
		if f.err != nil && !ok {
			b.fail(f.err)
		}
		if !f.late.Stop() {
			b.stalled.Store(newSignal()) // it was late and has ended
		}
		f.stats.Commit = time.Since(f.applied)
		b.expect(f)
		if b.Err() == nil {
			b.durable.Add(1)
			b.advance.Swap(newSignal()).close()
		}
		for _, t := range f.tickets {
			switch {
			case b.Err() != nil:
				t.err = b.unavailable()
			case only != nil:
				t.err = only.Err
			}
			t.answer <- struct{}{}
		}
		<-b.slots
		if b.cfg.OnBatch != nil {
			b.cfg.OnBatch(f.stats)
		}
	}
}

func wait(c Commit) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic while waiting for a commit: %v\n%s", p, debug.Stack())
		}
	}()
	return c.Wait()
}

// fail stops the Batcher for good. Only the finisher calls it.
func (b *Batcher[Req, Res]) fail(err error) {
	if b.Err() != nil {
		return
	}
	b.err = err
	close(b.failed)
	b.mu.Lock()
	b.stopped = true
	b.mu.Unlock()
	b.poke()
}
