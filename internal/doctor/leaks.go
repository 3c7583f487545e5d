package doctor

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/google/pprof/profile"

	"github.com/penstockhq/penstock/internal/doctor/goroutine"
)

// Confidence is how sure a finding is. What is "low" is shown and does not fail an
// examination.
type Confidence string

// The confidences.
const (
	High   Confidence = "high"
	Medium Confidence = "medium"
	Low    Confidence = "low"
)

// Leak is a group of goroutines that do not end.
type Leak struct {
	ID    string `json:"id"` // the same in every examination of the same leak
	Cause Cause  `json:"cause"`
	// Function, File and Line are where the program's own code is blocked.
	Function        string     `json:"function"`
	File            string     `json:"file"`
	Line            int        `json:"line"`
	Source          string     `json:"source,omitempty"` // the line itself, where the file is at hand
	State           string     `json:"state"`            // as the runtime says it
	Goroutines      int        `json:"goroutines"`
	GrowthPerMinute float64    `json:"growth_per_minute"`
	OldestMinutes   int        `json:"oldest_minutes,omitempty"`
	Confidence      Confidence `json:"confidence"`
	Proven          bool       `json:"proven,omitempty"` // by the runtime: nothing can wake them
	CreatedBy       Frame      `json:"created_by"`
	Explanation     string     `json:"explanation"`
	Fix             string     `json:"fix"`
	Evidence        []string   `json:"evidence"`
	// Behind are other places where goroutines wait because of this one.
	Behind []Behind `json:"behind,omitempty"`
	Stack  []Frame  `json:"stack"`
	Counts []int    `json:"counts"` // with those behind, at the times of the looks

	place *place
}

// Behind is a group of goroutines that wait for a leak.
type Behind struct {
	Cause      Cause  `json:"cause"`
	Function   string `json:"function"`
	File       string `json:"file"`
	Line       int    `json:"line"`
	Goroutines int    `json:"goroutines"`
	Why        string `json:"why"`
}

// leakFinder puts together what dumps and profiles say.
type leakFinder struct {
	*tracks
	src      *sources
	profiles []*profile.Profile // heap after, CPU: they know who calls what
	long     bool               // the window is long enough to call a lock stuck
	leaks    []*Leak
	seen     map[*place]bool
}

// findLeaks lists the leaks, the worst first.
func findLeaks(t *tracks, src *sources, profiles, looks []*profile.Profile, c *Capture) []*Leak {
	f := &leakFinder{tracks: t, src: src, profiles: profiles, seen: map[*place]bool{}}
	switch {
	case len(looks) > 1:
		t.code = codeOf(looks)
		for _, p := range sortedPlaces(countPlaces(looks, t.code)) {
			f.judgeCounts(p, c)
		}
		if len(t.dumps) > 0 {
			f.addAges(t.dumps[len(t.dumps)-1])
		}
	case len(t.times) > 1:
		f.long = t.times[len(t.times)-1]-t.times[0] >= 4*time.Second
		for _, p := range sortedPlaces(t.all) {
			f.judge(p)
		}
		for _, p := range sortedPlaces(t.families) {
			f.judgeFamily(p)
		}
	}
	f.tellStories()
	for _, l := range f.leaks {
		f.describe(l)
	}
	slices.SortStableFunc(f.leaks, func(a, b *Leak) int {
		return cmp.Or(cmp.Compare(rank(b.Confidence), rank(a.Confidence)), cmp.Compare(b.GrowthPerMinute, a.GrowthPerMinute),
			cmp.Compare(b.Goroutines, a.Goroutines), strings.Compare(a.ID, b.ID))
	})
	return f.leaks
}

func rank(c Confidence) int { return slices.Index([]Confidence{Low, Medium, High}, c) }

// sortedPlaces lists places in an order that does not change from run to run.
func sortedPlaces[K comparable](m map[K]*place) []*place {
	all := make([]*place, 0, len(m))
	for _, p := range m {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *place) int {
		return cmp.Or(cmp.Compare(b.counts[len(b.counts)-1], a.counts[len(a.counts)-1]),
			strings.Compare(a.frame.File, b.frame.File), cmp.Compare(a.frame.Line, b.frame.Line),
			strings.Compare(string(a.cause), string(b.cause)), strings.Compare(a.created, b.created),
			strings.Compare(a.state, b.state))
	})
	return all
}

// judge decides on one place.
func (f *leakFinder) judge(p *place) {
	now := p.counts[len(p.counts)-1]
	if now == 0 || (p.cause == Spin && p.leaked == 0) {
		return // who runs is judged by its family
	}
	g := f.measure(p)
	if p.leaked > 0 {
		f.add(p, p.leaked, g, High, "the runtime proved that nothing can wake them").Proven = true
		return
	}
	if g.leaking {
		if f.ownedByClients(p) && !g.certain {
			return
		}
		confidence := Medium
		if g.certain {
			confidence = High
		}
		f.add(p, now, g, confidence, fmt.Sprintf("%d came during the window and none of them left, while none stayed as long who did leave", g.survivors))
		return
	}
	if leaking, certain := f.ageing(p); leaking {
		confidence := Medium
		if certain {
			confidence = High
		}
		f.add(p, now, g, confidence, "they came one after the other before the window, have waited ever since, and those who started them are gone")
		return
	}
	if stuck := f.stuckAtLock(p); stuck > 0 {
		f.add(p, stuck, g, High, fmt.Sprintf("waited for the same lock in all %d looks", len(p.counts)))
	}
}

// ownedByClients tells whether goroutines live as long as somebody's connection.
func (f *leakFinder) ownedByClients(p *place) bool {
	return f.code.owner(p.frame) == ownRuntime && byDesign(p.cause, p.stack.Frames)
}

// stuckAtLock counts those who waited for a lock during the whole of a long window, if
// nobody got it meanwhile. To be seen at it in every look is not enough: a busy lock has
// the same goroutines in its queue again and again.
func (f *leakFinder) stuckAtLock(p *place) int {
	if !p.cause.isLock() || !f.long || len(p.counts) < 3 {
		return 0
	}
	n := 0
	for _, s := range p.stays {
		if s.last < len(p.counts)-1 {
			return 0
		}
		if s.first == 0 {
			n++
		}
	}
	return n
}

// judgeFamily looks for goroutines that come and never end although they move about:
// those who poll, sleep and spin. Places that were found already are left out.
func (f *leakFinder) judgeFamily(kin *place) {
	g := f.measure(kin)
	if !g.leaking || byDesign("", kin.stack.Frames) {
		return
	}
	// Where are its members most of the time?
	observed := map[*place]int{}
	members := map[uint64]bool{}
	for _, s := range kin.final() {
		members[s.id] = true
	}
	running, total := 0, 0
	for _, p := range f.all {
		for _, s := range p.stays {
			if members[s.id] {
				n := s.last - s.first + 1
				observed[p] += n
				total += n
				if p.cause == Spin {
					running += n
				}
			}
		}
	}
	covered := 0
	for p, n := range observed {
		if f.seen[p] {
			covered += n
		}
	}
	if total == 0 || covered*2 >= total {
		return
	}
	var most *place
	for p, n := range observed {
		isRunning := p.cause == Spin
		if isRunning != (running*5 >= total*2) {
			continue
		}
		if most == nil || n > observed[most] || (n == observed[most] && p.frame.Line < most.frame.Line) {
			most = p
		}
	}
	if most == nil || f.seen[most] || (most.cause == IO && f.code.owner(most.frame) == ownRuntime) {
		return
	}
	confidence := Medium
	if g.certain {
		confidence = High
	}
	l := f.add(most, kin.counts[len(kin.counts)-1], g, confidence,
		fmt.Sprintf("%d were started during the window and none of them ended; they move about, mostly they are here", g.survivors))
	l.Counts = kin.counts
}

func (f *leakFinder) add(p *place, n int, g growth, c Confidence, evidence string) *Leak {
	f.seen[p] = true
	l := &Leak{
		Cause: p.cause, Function: p.frame.Func, File: p.frame.File, Line: p.frame.Line, State: p.state, Goroutines: n,
		GrowthPerMinute: g.perMinute, Confidence: c, CreatedBy: p.createdBy, Stack: p.stack.Frames, Counts: p.counts,
		Evidence: []string{evidence}, place: p,
	}
	for _, s := range p.final() {
		l.OldestMinutes = max(l.OldestMinutes, s.g.Minutes)
	}
	f.leaks = append(f.leaks, l)
	return l
}

// describe completes a leak with what its code says and what is known of its cause.
func (f *leakFinder) describe(l *Leak) {
	if w := findLibraryWait(l.State, l.Stack); w != nil && f.code.owner(Frame{Func: l.Function, File: l.File}) != ownUser {
		of := w.entries
		at, share := f.callers(of)
		if at.Func == "" && len(w.users) > 0 {
			of = w.users
			at, share = f.callers(of)
		}
		if at.Func != "" {
			l.Function, l.File, l.Line = at.Func, at.File, at.Line
			l.Evidence = append(l.Evidence, fmt.Sprintf("the waiting goroutine is the library's; %.0f %% of what calls %s is here", 100*share, ShortName(of[0])))
			if share < 0.6 && l.Confidence == High && !l.Proven {
				l.Confidence = Medium
			}
		}
	}
	at := Frame{Func: l.Function, File: l.File, Line: l.Line}
	l.Source = f.src.line(at)
	if (l.Cause == ChanRecv || l.Cause == Select) && f.src.waitsForTimer(at) {
		l.Cause = Timer
	}
	explain(l)
	h := fnv.New64a()
	fmt.Fprint(h, l.Cause, l.Function, l.CreatedBy.Func)
	l.ID = fmt.Sprintf("%s-%08x", l.Cause, uint32(h.Sum64()))
}

// callers finds the program's own function that calls one of entries the most: by memory
// that is held, by allocations, by CPU time and by goroutines that were caught at it.
func (f *leakFinder) callers(entries []string) (at Frame, share float64) {
	weights := map[Frame]float64{}
	weigh := func(frames []Frame, weight float64) {
		if by := f.callerOf(entries, frames); by.Func != "" {
			weights[by] += weight
		}
	}
	// What is still held weighs more than what only passed through.
	for _, p := range f.profiles {
		for name, weight := range map[string]float64{"inuse_objects": 1e6, "alloc_objects": 1, "cpu": 1e-6} {
			if col, err := column(p, name); err == nil {
				var frames []Frame
				for _, s := range p.Sample {
					frames = sampleFrames(s, frames)
					weigh(frames, weight*float64(s.Value[col]))
				}
			}
		}
	}
	if len(weights) == 0 {
		for i := range f.dumps {
			for j := range f.dumps[i].Goroutines {
				weigh(f.dumps[i].Goroutines[j].Stack.Frames, 1)
			}
		}
	}
	total, most := 0.0, 0.0
	for frame, w := range weights {
		total += w
		if w > most || (w == most && frame.Line < at.Line) {
			at, most = frame, w
		}
	}
	if total == 0 {
		return Frame{}, 0
	}
	return at, most / total
}

// callerOf finds the innermost of the program's own frames, or of a dependency's, that
// called one of entries.
func (f *leakFinder) callerOf(entries []string, frames []Frame) Frame {
	for i, frame := range slices.Backward(frames) {
		if !slices.ContainsFunc(entries, func(e string) bool { return strings.HasPrefix(frame.Func, e) }) {
			continue
		}
		if rest := frames[i+1:]; len(rest) > 0 {
			if by := rest[f.code.blame(rest)]; f.code.owner(by) != ownRuntime {
				return by
			}
		}
		return Frame{}
	}
	return Frame{}
}

// members are the goroutines of a leak in the last dump.
func (l *Leak) members() []*goroutine.Goroutine {
	final := l.place.final()
	all := make([]*goroutine.Goroutine, len(final))
	for i, s := range final {
		all[i] = s.g
	}
	return all
}
