// Package guard finds goroutines that outlive the request that started them, inside the
// running program, and says of which route they are and where they wait.
//
// A sampled share of requests gets a pprof label, which the runtime hands on to every
// goroutine that is started on the request's behalf. Some time after a request has ended,
// whatever still carries its label is its leak. That is right under full concurrency,
// where a count of goroutines before and after says nothing.
//
// It needs nothing but the standard library, and never stops or changes what it watches;
// see Config.Panic for the one exception. What a reader would get wrong: goroutines that
// live on by design (a pool that grows on demand) inherit the label as well. They are
// told from leaks by Config.MinRequests, by Config.Ignore, and best by starting them
// with Detached.
package guard

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// label is the pprof label that carries a watched request's number.
const label = "guard"

// numbers are given out for the whole process, as labels are of the process: several
// Guards must not take each other's goroutines for their own.
var numbers atomic.Uint64 //nolint:gochecknoglobals // labels are of the process

// Config of a Guard. The zero value is ready for use.
type Config struct {
	// Sample is the share of requests that are watched, 0 to 1. Defaults to 0.01;
	// negative for none.
	Sample float64
	// Grace is how long after its end a request's goroutines may live. Defaults to 10 s.
	Grace time.Duration
	// Every is how often is looked for those who live longer. A look costs about 3 µs
	// for each goroutine of the program and stops none for long. Defaults to 10 s.
	Every time.Duration
	// MinRequests is from how many watched requests of one route with a goroutine left
	// at one place on there is an alert. One alone may have started something that is
	// meant to stay. Defaults to 2.
	MinRequests int
	// Ignore lists beginnings of function names; goroutines that run one are never
	// leaks. Defaults to those of the standard library that are kept for later
	// requests: connections of net/http and of database/sql.
	Ignore []string
	// AlertEvery is the least time between two alerts on one place. Defaults to 1 min.
	AlertEvery time.Duration
	// OnLeak is called for an alert, by one goroutine. Defaults to a warning to Logger.
	OnLeak func(Leak)
	// Logger gets the alerts. Defaults to slog.Default().
	Logger *slog.Logger
	// TraceDir is a folder where an alert leaves what the flight recorder of
	// runtime/trace has of the last seconds, at most one file in ten minutes. The
	// recorder runs all the time then, which costs about 1 % of the CPU. Defaults to
	// none.
	TraceDir string
	// Panic panics on an alert, for test environments. Defaults to false.
	Panic bool
}

func (c Config) withDefaults() Config {
	c.Sample = cmp.Or(c.Sample, 0.01)
	c.Grace = cmp.Or(c.Grace, 10*time.Second)
	c.Every = cmp.Or(c.Every, 10*time.Second)
	c.MinRequests = cmp.Or(c.MinRequests, 2)
	c.AlertEvery = cmp.Or(c.AlertEvery, time.Minute)
	if c.Ignore == nil {
		c.Ignore = []string{"net/http.(*persistConn).", "net/http.(*http2ClientConn).", "net/http.(*Transport).", "database/sql.(*DB).", "net/http.(*conn).serve"}
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// Leak is a place where goroutines of requests of one route are left.
type Leak struct {
	Route      string        // as it was given to Watch
	Goroutines int           // that are left now
	Requests   int           // how many watched requests have left some here, since the start
	Watched    int           // how many requests of the route were watched
	Age        time.Duration // since the oldest of these requests ended
	Stack      []string      // "function file:line", the innermost first
}

// String is the leak in one line.
func (l Leak) String() string {
	at := "?"
	for _, f := range l.Stack {
		if !strings.HasPrefix(f, "runtime.") && !strings.HasPrefix(f, "sync.") && !strings.HasPrefix(f, "internal/") {
			at = f
			break
		}
	}
	return fmt.Sprintf("%s: %d goroutines are left at %s, by %d of %d watched requests, the oldest for %v", l.Route, l.Goroutines, at, l.Requests, l.Watched, l.Age.Round(time.Second))
}

// Stats counts what a Guard has seen since it was made.
type Stats struct {
	Watched int64            // requests
	Leaked  map[string]int64 // goroutines that were left, by route; each counts once
	Alerts  int64
}

// Guard watches requests. A nil Guard watches none.
type Guard struct {
	cfg     Config
	watched atomic.Int64
	alerts  atomic.Int64

	checking sync.Mutex // one look at a time; taken before mu

	mu     sync.Mutex
	routes map[string]*route
	ended  map[uint64]request // watched, ended, and not known to be clean
	places map[string]*place  // by route and stack

	recorder *recorder
	stop     chan struct{}
	stopped  sync.WaitGroup
	stopOnce sync.Once
}

type route struct {
	name    string
	watched int
	leaked  int64
}

type request struct {
	route *route
	ended time.Time
	left  int // goroutines that were counted as leaked
}

type place struct {
	requests map[uint64]bool
	alerted  time.Time
}

// maxEnded bounds the requests that are remembered: beyond, new ones are not watched until
// the next look. So at some 50,000 requests a second and more the share falls below
// Config.Sample, and a route that always leaks ends the watching in time.
const maxEnded = 10_000

// New returns a Guard that looks for leaks until Close.
func New(cfg Config) (*Guard, error) {
	g := &Guard{
		cfg: cfg.withDefaults(), routes: map[string]*route{}, ended: map[uint64]request{}, places: map[string]*place{},
		stop: make(chan struct{}),
	}
	if g.cfg.TraceDir != "" {
		var err error
		if g.recorder, err = startRecorder(g.cfg.TraceDir); err != nil {
			return nil, err
		}
	}
	g.stopped.Go(g.run)
	return g, nil
}

// Close ends the Guard's goroutine. Closing twice, and a nil Guard, is fine.
func (g *Guard) Close() {
	if g == nil {
		return
	}
	g.stopOnce.Do(func() {
		close(g.stop)
		g.stopped.Wait()
		if g.recorder != nil {
			g.recorder.close()
		}
	})
}

// Watch begins to watch the calling goroutine's work under a name, if chance wants it, and
// returns what must be called in the same goroutine at its end; nil if it is not watched.
// The goroutine's other labels are those of ctx, during and after.
//
//	if done := g.Watch(ctx, "nightly import"); done != nil {
//		defer done()
//	}
func (g *Guard) Watch(ctx context.Context, name string) (done func()) {
	if g == nil || g.cfg.Sample < 0 || (g.cfg.Sample < 1 && rand.Float64() >= g.cfg.Sample) {
		return nil
	}
	id := numbers.Add(1)
	if !g.begin(name) {
		return nil
	}
	pprof.SetGoroutineLabels(pprof.WithLabels(ctx, pprof.Labels(label, strconv.FormatUint(id, 10))))
	return func() {
		pprof.SetGoroutineLabels(ctx)
		g.end(id, name)
	}
}

// begin counts a watched request; false if there are too many already.
func (g *Guard) begin(name string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.ended) >= maxEnded {
		return false
	}
	r := g.routes[name]
	if r == nil {
		if len(g.routes) >= maxPlaces {
			return false // names that never repeat are no routes
		}
		r = &route{name: name}
		g.routes[name] = r
	}
	r.watched++
	g.watched.Add(1)
	return true
}

func (g *Guard) end(id uint64, name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended[id] = request{route: g.routes[name], ended: time.Now()}
}

// Detached runs f in a goroutine of its own that no request is answerable for: the way to
// start what is meant to live on.
func Detached(f func()) {
	go func() {
		pprof.SetGoroutineLabels(context.Background())
		f()
	}()
}

// Stats returns what was seen so far. A nil Guard has seen nothing.
func (g *Guard) Stats() Stats {
	s := Stats{Leaked: map[string]int64{}}
	if g == nil {
		return s
	}
	s.Watched, s.Alerts = g.watched.Load(), g.alerts.Load()
	g.mu.Lock()
	defer g.mu.Unlock()
	for name, r := range g.routes {
		if r.leaked > 0 {
			s.Leaked[name] = r.leaked
		}
	}
	return s
}

func (g *Guard) run() {
	pprof.SetGoroutineLabels(context.Background())
	tick := time.NewTicker(g.cfg.Every)
	defer tick.Stop()
	for {
		select {
		case <-g.stop:
			return
		case <-tick.C:
			for _, l := range g.Check() {
				g.alert(l)
			}
		}
	}
}

// Check looks now for goroutines of requests that ended longer ago than Config.Grace, and
// returns the leaks that are to be alerted. It is what the Guard does by itself.
func (g *Guard) Check() []Leak {
	g.checking.Lock()
	defer g.checking.Unlock()
	due := g.due()
	if len(due) == 0 {
		return nil
	}
	groups, err := labelled()
	if err != nil {
		g.cfg.Logger.Error("guard: the goroutines cannot be read", "error", err)
		return nil
	}
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	left := map[uint64]int{}
	leaks := map[string]*Leak{}
	for _, gr := range groups {
		if !due[gr.request] {
			continue
		}
		if slices.ContainsFunc(gr.stack, g.ignored) {
			continue
		}
		left[gr.request] += gr.count
		g.tally(gr, now, leaks)
	}
	for id := range due {
		r := g.ended[id]
		if left[id] == 0 {
			delete(g.ended, id) // clean, or what was left has ended after all
			continue
		}
		r.route.leaked += int64(max(0, left[id]-r.left))
		r.left = max(r.left, left[id])
		g.ended[id] = r
	}
	var alerts []Leak
	for key, l := range leaks {
		p := g.places[key]
		l.Requests = len(p.requests)
		if l.Requests >= g.cfg.MinRequests && now.Sub(p.alerted) >= g.cfg.AlertEvery {
			p.alerted = now
			alerts = append(alerts, *l)
		}
	}
	slices.SortFunc(alerts, func(a, b Leak) int { return cmp.Or(b.Goroutines-a.Goroutines, strings.Compare(a.Route, b.Route)) })
	return alerts
}

// due lists the requests whose time is up.
func (g *Guard) due() map[uint64]bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	limit := time.Now().Add(-g.cfg.Grace)
	due := map[uint64]bool{}
	for id, r := range g.ended {
		if r.ended.Before(limit) {
			due[id] = true
		}
	}
	return due
}

// maxPlaces bounds the places that are remembered.
const maxPlaces = 1000

// tally adds a group of goroutines to the leak of its place. g.mu is held.
func (g *Guard) tally(gr group, now time.Time, leaks map[string]*Leak) {
	r := g.ended[gr.request]
	key := r.route.name + "\n" + strings.Join(gr.stack, "\n")
	p := g.places[key]
	if p == nil {
		if len(g.places) >= maxPlaces {
			return
		}
		p = &place{requests: map[uint64]bool{}}
		g.places[key] = p
	}
	p.requests[gr.request] = true
	l := leaks[key]
	if l == nil {
		l = &Leak{Route: r.route.name, Watched: r.route.watched, Stack: gr.stack}
		leaks[key] = l
	}
	l.Goroutines += gr.count
	l.Age = max(l.Age, now.Sub(r.ended))
}

func (g *Guard) ignored(frame string) bool {
	return slices.ContainsFunc(g.cfg.Ignore, func(p string) bool { return strings.HasPrefix(frame, p) })
}

func (g *Guard) alert(l Leak) {
	g.alerts.Add(1)
	trace := ""
	if g.recorder != nil {
		trace = g.recorder.snapshot(g.cfg.Logger)
	}
	if g.cfg.OnLeak != nil {
		g.cfg.OnLeak(l)
	} else {
		g.cfg.Logger.Warn("guard: goroutines outlive their requests", "route", l.Route, "goroutines", l.Goroutines,
			"requests", l.Requests, "watched", l.Watched, "oldest", l.Age.Round(time.Second), "stack", l.Stack, "trace", trace)
	}
	if g.cfg.Panic {
		panic("guard: " + l.String())
	}
}
