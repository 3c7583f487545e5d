package doctor

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/penstockhq/penstock/internal/doctor/goroutine"
)

// Bounds of what is fetched. The runtime's text dump ends at 64 MB.
const (
	maxDump  = 72 << 20
	maxPage  = 1 << 20
	maxText  = 64 << 20 // heap?debug=1 and /metrics, of which only some lines are kept
	maxTrace = 256 << 20
)

// A dump as text stops the target's world for about 45 µs a goroutine (measured with 100,000
// goroutines six calls deep on Go 1.26: 4.6 s; the runtime begins anew with a larger buffer
// until all fits), the binary profile takes 4 µs (0.4 s, nine calls deep). Both may take
// this part of the window together: 3 % of one core.
const (
	dumpCost    = 45 * time.Microsecond
	profileCost = 4 * time.Microsecond
	budget      = 0.03
	fewDumps    = 5 // the least that tell growth from a burst
	fewLooks    = 2 // the number of all goroutines, known at each moment, tells what is between
)

// Config of an examination.
type Config struct {
	Access
	// Window is for how long the target is watched. Defaults to 30 s.
	Window time.Duration
	// CPU is how much of the window a CPU profile is taken. Defaults to a third of the
	// window, at most 10 s; negative for none.
	CPU time.Duration
	// Trace is how long an execution trace is taken, after the window. Defaults to none.
	Trace time.Duration
	// Dump has the goroutines of a target printed as text also where there are so many
	// that this stops it for longer than is otherwise allowed. Defaults to false.
	Dump bool
	// Source is a folder with the target's module, for targets built with -trimpath or
	// elsewhere. Defaults to none: files are looked for under their recorded names.
	Source string
	// Progress is told what is being done. Defaults to nobody.
	Progress func(done, total time.Duration, what string)
}

// Validate says what is wrong with c.
func (c Config) Validate() error {
	switch {
	case c.Window < 0 || (c.Window > 0 && c.Window < 2*time.Second) || c.Window > 24*time.Hour:
		return fmt.Errorf("the window is %v: it may be 2s to 24h", c.Window)
	case c.CPU > c.Window && c.Window > 0:
		return fmt.Errorf("the CPU profile of %v is longer than the window of %v", c.CPU, c.Window)
	case c.Trace < 0 || c.Trace > time.Minute:
		return fmt.Errorf("the trace is %v: it may be up to 1m", c.Trace)
	}
	return nil
}

func (c Config) withDefaults() Config {
	c.Window = cmp.Or(c.Window, 30*time.Second)
	c.CPU = cmp.Or(c.CPU, min(c.Window/3, 10*time.Second))
	if c.Progress == nil {
		c.Progress = func(_, _ time.Duration, _ string) {}
	}
	return c
}

// Capture is what was fetched of a target, before anything is made of it.
type Capture struct {
	Target    string        `json:"target"`
	Started   time.Time     `json:"started"`
	Window    time.Duration `json:"window_ns"`
	Dumps     []Dump        `json:"dumps"`
	Looks     []Look        `json:"looks,omitempty"` // instead of dumps, where there are very many goroutines
	Heaps     []Heap        `json:"heaps"`
	Counts    []Count       `json:"counts"`
	Metrics   []Metrics     `json:"metrics,omitempty"` // before and after
	Missing   []Missing     `json:"missing,omitempty"`
	NoAnswers int           `json:"no_answers,omitempty"` // requests that were not answered in time
	Requests  int           `json:"requests"`
	// Profiles by name, gzipped as the target sent them: "cpu", "heap-before", ….
	Profiles map[string][]byte `json:"-"`
}

// Dump is all goroutines at a time.
type Dump struct {
	At         time.Duration         `json:"at_ns"` // since the beginning
	Truncated  bool                  `json:"truncated,omitempty"`
	Goroutines []goroutine.Goroutine `json:"-"`
	raw        []byte                // gzipped
}

// Heap is the memory statistics at a time.
type Heap struct {
	At    time.Duration `json:"at_ns"`
	Stats MemStats      `json:"stats"`
	// Natural says that no collection was forced for it: what is live is then known of
	// the target's own last collection, by the profile.
	Natural bool `json:"natural,omitempty"`
	// Quiet says that the examination asked for nothing since the measurement before, and
	// for nothing before the next.
	Quiet bool `json:"quiet,omitempty"`
}

// live is what the last collection left.
func (h *Heap) live() float64 {
	if h.Natural {
		return h.Stats.Profiled
	}
	return h.Stats.HeapAlloc
}

// Count is how many goroutines there were, and how long the target took to say so.
type Count struct {
	At         time.Duration `json:"at_ns"`
	Goroutines int           `json:"goroutines"`
	Took       time.Duration `json:"took_ns"`
}

// Missing is something that could not be had, and what its lack means for the findings.
type Missing struct {
	What string `json:"what"`
	Why  string `json:"why"`
	Cost string `json:"cost"`
}

// Take examines a target for the time of cfg.Window and returns what it got. The error
// says that nothing could be had; what only lacks a part is told in Missing.
func Take(ctx context.Context, cfg Config) (*Capture, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	t, err := newTarget(cfg.Access)
	if err != nil {
		return nil, err
	}
	defer t.close()
	c := &capturer{cfg: cfg, target: t, Capture: &Capture{
		Target: t.name, Started: time.Now().UTC(), Window: cfg.Window, Profiles: map[string][]byte{},
	}}
	if err := c.greet(ctx); err != nil {
		return nil, err
	}
	if c.unanswering() {
		return c.Capture, nil
	}
	c.watch(ctx)
	return c.Capture, ctx.Err()
}

// plan is what the number of goroutines allows.
type plan struct {
	made  bool
	every int  // a dump, or else a look, at each of so many moments
	looks bool // the binary profile instead of dumps
	final bool // then with one dump in the end
}

// newPlan decides how often goroutines may be looked at.
func newPlan(goroutines int, window time.Duration, dump bool) plan {
	allowed := func(cost time.Duration) int {
		return int(budget * float64(window) / float64(cost*time.Duration(max(1, goroutines))))
	}
	every := func(times int) int { return (moments + times - 2) / (times - 1) }
	if n := allowed(dumpCost); n >= fewDumps {
		return plan{made: true, every: every(n)}
	}
	return plan{made: true, every: every(max(fewLooks, allowed(profileCost))), looks: true, final: dump || allowed(dumpCost) >= 1}
}

type capturer struct {
	*Capture
	cfg    Config
	target *target
	index  []byte     // the page that lists the profiles
	mu     sync.Mutex // of Missing, Profiles, Requests and NoAnswers
	plan   plan
	paused time.Duration // what dumps have taken
}

func (c *capturer) since() time.Duration { return time.Since(c.Started) }

// greet finds out whether there is somebody, and what it offers.
func (c *capturer) greet(ctx context.Context) error {
	c.cfg.Progress(0, c.cfg.Window, "asking what the target offers")
	const tries = 2
	for range tries {
		page, err := c.fetch(ctx, "", maxPage, 0)
		switch {
		case err == nil:
			c.index = page
			c.Started = time.Now().UTC()
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !timedOut(err):
			var answer *answerError
			if errors.As(err, &answer) && answer.status == 404 {
				return fmt.Errorf("%s has no /debug/pprof/: import _ \"net/http/pprof\" there, or give the address where it is served", c.Target)
			}
			return fmt.Errorf("examine %s: %w", c.Target, err)
		}
	}
	return nil // it let us in and said nothing: that is a finding
}

func (c *capturer) unanswering() bool { return c.index == nil }

// fetch counts what it asks for and what remains unanswered.
func (c *capturer) fetch(ctx context.Context, path string, limit int64, extra time.Duration) ([]byte, error) {
	data, err := c.target.fetch(ctx, path, limit, extra)
	c.count(err)
	return data, err
}

func (c *capturer) count(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Requests++
	if timedOut(err) {
		c.NoAnswers++
	}
}

func (c *capturer) missing(what, cost string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.Missing {
		if m.What == what {
			return
		}
	}
	why := err.Error()
	if timedOut(err) {
		why = fmt.Sprintf("no answer within %v", c.target.timeout)
	}
	c.Missing = append(c.Missing, Missing{What: what, Why: why, Cost: cost})
}

// keep fetches a profile and keeps it under a name.
func (c *capturer) keep(ctx context.Context, name, path, cost string, limit int64, extra time.Duration) {
	data, err := c.fetch(ctx, path, limit, extra)
	if err != nil {
		if ctx.Err() == nil {
			c.missing(name, cost, err)
		}
		return
	}
	c.mu.Lock()
	c.Profiles[name] = data
	c.mu.Unlock()
}

// has tells whether the index page lists a profile.
func (c *capturer) has(profile string) bool {
	return bytes.Contains(c.index, []byte(profile+"?debug="))
}

// What the lack of a profile costs.
const (
	costDump       = "goroutine leaks cannot be found"
	costHeap       = "heap growth cannot be measured or blamed on a line"
	costCPU        = "nothing can be said of where CPU time goes"
	costContention = "waiting for locks is seen only where goroutines were caught at it; runtime.SetMutexProfileFraction(100) in the target turns it on"
	costProof      = "leaks are found by growth and age only, not proven by the runtime (Go 1.26 with GOEXPERIMENT=goroutineleakprofile)"
)

// moments are the steps of the window.
const moments = 12

// watch does all that takes the window.
func (c *capturer) watch(ctx context.Context) {
	var background sync.WaitGroup
	defer background.Wait()
	for i := range moments + 1 {
		at := c.cfg.Window * time.Duration(i) / moments
		if i == moments {
			c.Window += c.extra()
			at = c.Window
		}
		if !sleepUntil(ctx, c.Started.Add(at)) {
			return
		}
		if i > 0 && c.since() > at+c.cfg.Window/moments && i < moments && i != moments/2 {
			continue // a slow target: what was due meanwhile is left out
		}
		c.cfg.Progress(min(at, c.cfg.Window), c.cfg.Window, "watching")
		c.takeQuietly(ctx, i)
		c.takeCount(ctx)
		c.takeGoroutines(ctx, i)
		if i == 0 {
			c.edge(ctx, "before")
		}
		c.takeMemory(ctx, i)
		if i == 0 && c.cfg.CPU > 0 {
			background.Go(func() { c.takeCPU(ctx) })
		}
	}
	c.makeUp(ctx)
	c.keep(ctx, "heap-after", "heap", costHeap, maxProfile, 0)
	c.keep(ctx, "allocs", "allocs", "the saved examination has no profile of allocations of its own", maxProfile, 0)
	c.edge(ctx, "after")
	c.finishGoroutines(ctx)
	background.Wait()
	if c.cfg.Trace > 0 {
		c.cfg.Progress(c.cfg.Window, c.cfg.Window, "taking an execution trace")
		c.keep(ctx, "trace", fmt.Sprintf("trace?seconds=%g", c.cfg.Trace.Seconds()), "no execution trace in the saved examination", maxTrace, c.cfg.Trace)
	}
}

// makeUp takes the dumps for which a slow target, or a busy machine, left no time.
func (c *capturer) makeUp(ctx context.Context) {
	for !c.plan.looks && len(c.Dumps) < fewDumps && c.since() < c.cfg.Window*3/2 {
		before := len(c.Dumps)
		if c.takeDump(ctx); len(c.Dumps) == before {
			return
		}
	}
}

// takeGoroutines looks at the goroutines at a moment, in the way that their number allows.
func (c *capturer) takeGoroutines(ctx context.Context, moment int) {
	if !c.plan.made {
		c.plan = newPlan(0, c.cfg.Window, c.cfg.Dump) // the page does not tell their number
	}
	last := moment == moments
	if last && c.has("goroutineleak") {
		// Before the dump, which then tells which goroutines are proven dead.
		c.keep(ctx, "goroutineleak", "goroutineleak", costProof, maxProfile, 10*time.Second)
	}
	if moment%c.plan.every != 0 && !last {
		return
	}
	if c.plan.looks {
		c.takeLook(ctx)
		return
	}
	if !last && len(c.Dumps) >= fewDumps-1 && c.paused > time.Duration(2*budget*float64(c.cfg.Window)) {
		return // there are many more goroutines than when the plan was made
	}
	begin := time.Now()
	c.takeDump(ctx)
	c.paused += time.Since(begin)
}

// finishGoroutines takes what is taken once, and says what is not.
func (c *capturer) finishGoroutines(ctx context.Context) {
	switch {
	case !c.plan.looks:
		c.keep(ctx, "goroutine", "goroutine", "pprof labels of goroutines are not known", maxProfile, 0)
	case c.plan.final:
		c.takeDump(ctx)
	default:
		c.missing("goroutine text", "ages and creators are not known; --dump takes it", fmt.Errorf(
			"printing so many goroutines stops the target for about %v", (time.Duration(c.lastCount())*dumpCost).Round(100*time.Millisecond)))
	}
	if !c.has("goroutineleak") {
		c.missing("goroutineleak", costProof, errors.New("the target's runtime does not offer it"))
	}
}

// edge takes what is compared between the beginning and the end.
func (c *capturer) edge(ctx context.Context, when string) {
	for _, name := range []string{"mutex", "block"} {
		if !c.has(name) {
			c.missing(name, costContention, errors.New("the target does not list it"))
			continue
		}
		c.keep(ctx, name+"-"+when, name, costContention, maxProfile, 0)
	}
	if m, ok := c.takeMetrics(ctx); ok {
		c.Metrics = append(c.Metrics, m)
	} else if when == "before" {
		c.missing("metrics", "scheduling latency and total lock wait are not known; Prometheus' Go collector at /metrics has them", errors.New("nothing of the runtime at /metrics"))
	}
}

func (c *capturer) takeCPU(ctx context.Context) {
	seconds := max(1, int(c.cfg.CPU.Seconds()))
	c.keep(ctx, "cpu", fmt.Sprintf("profile?seconds=%d", seconds), costCPU, maxProfile, time.Duration(seconds)*time.Second)
}

var countOnIndex = regexp.MustCompile(`<td>(\d+)</td>\s*<td><a href='goroutine\?|(?m)^(\d+)\s+<a href="?goroutine\?`)

// takeCount reads the number of goroutines from the page that lists the profiles: that
// costs the target next to nothing.
func (c *capturer) takeCount(ctx context.Context) {
	begin := time.Now()
	page, err := c.fetch(ctx, "", maxPage, 0)
	if err != nil {
		return // counted; the dumps tell more
	}
	if m := countOnIndex.FindSubmatch(page); m != nil {
		n, _ := strconv.Atoi(string(m[1]) + string(m[2])) // digits only; too many are the largest int
		n = min(n, 1e9)
		c.Counts = append(c.Counts, Count{At: c.since(), Goroutines: n, Took: time.Since(begin)})
		if !c.plan.made {
			c.plan = newPlan(n, c.cfg.Window, c.cfg.Dump)
		}
	}
}

func (c *capturer) lastCount() int {
	if len(c.Counts) == 0 {
		return 0
	}
	return c.Counts[len(c.Counts)-1].Goroutines
}

func (c *capturer) takeLook(ctx context.Context) {
	at := c.since()
	raw, err := c.fetch(ctx, "goroutine", maxProfile, 15*time.Second)
	if err != nil {
		if ctx.Err() == nil {
			c.missing("goroutine", costDump, err)
		}
		return
	}
	c.Looks = append(c.Looks, Look{At: at, raw: raw})
}

func (c *capturer) takeDump(ctx context.Context) {
	at := c.since()
	body, err := c.target.open(ctx, "goroutine?debug=2", maxDump, 30*time.Second)
	if err != nil {
		c.count(err)
		if ctx.Err() == nil {
			c.missing("goroutine", costDump, err)
		}
		return
	}
	var packed bytes.Buffer
	zw, _ := gzip.NewWriterLevel(&packed, gzip.BestSpeed) // the level is a valid one
	d, err := goroutine.Read(io.TeeReader(body, zw))
	err = errors.Join(err, body.Close(), zw.Close())
	c.count(err)
	truncated := errors.Is(err, goroutine.ErrTruncated) || errors.Is(err, errTooLarge) || (d != nil && err != nil)
	if err != nil && !truncated {
		c.missing("goroutine", costDump, err)
		return
	}
	if truncated {
		c.missing("goroutine", "the dump is not whole: what stands after the cut is not examined", err)
	}
	c.Dumps = append(c.Dumps, Dump{At: at, Truncated: truncated, Goroutines: d.Goroutines, raw: packed.Bytes()})
}

// sleepUntil returns false when ctx ended first.
func sleepUntil(ctx context.Context, when time.Time) bool {
	timer := time.NewTimer(time.Until(when))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
