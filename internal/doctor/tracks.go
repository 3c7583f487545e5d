package doctor

import (
	"slices"
	"strings"
	"time"

	"github.com/penstockhq/penstock/internal/doctor/goroutine"
)

// This file turns dumps into stays: how long each goroutine was at each place. Goroutines
// keep their number for life and numbers are not given out twice, so that from dump to
// dump one sees who came, who stayed and who went. Counts alone cannot tell a leak from a
// queue: in both, many wait at one place.

// placeKey is what goroutines are grouped by.
type placeKey struct {
	cause   Cause
	frame   Frame  // where its program is to be blamed
	created string // function that started it
}

// place is a group of goroutines that were at one place at some time.
type place struct {
	placeKey
	createdBy Frame
	stack     *goroutine.Stack // of one of them
	state     string
	counts    []int // in each dump
	leaked    int   // in the last dump, by the runtime's proof
	stays     []stay
	open      map[uint64]int // goroutine → index of its stay that reaches the last dump seen
}

// stay is a time that a goroutine was at one place without a break.
type stay struct {
	id          uint64
	first, last int                  // dumps
	born        bool                 // the goroutine itself is new since the dump before first
	g           *goroutine.Goroutine // at last
}

// tracks is what dumps tell together.
type tracks struct {
	code  code
	times []time.Duration
	dumps []Dump
	keys  map[stackState]placeKey
	all   map[placeKey]*place
	// families are goroutines started at one place in the code, wherever they are.
	families map[family]*place
	entry    map[stackState]family
	last     map[uint64]*goroutine.Goroutine // of the last dump
}

type stackState struct {
	stack *goroutine.Stack
	state string
}

// family is where goroutines come from and what they run.
type family struct {
	created Frame
	entry   string
}

func newTracks(dumps []Dump) *tracks {
	t := &tracks{
		dumps: dumps, keys: map[stackState]placeKey{}, all: map[placeKey]*place{},
		families: map[family]*place{}, entry: map[stackState]family{}, last: map[uint64]*goroutine.Goroutine{},
	}
	if len(dumps) == 0 {
		return t
	}
	t.code = newCode(dumps[0].Goroutines)
	seen := map[uint64]bool{}
	for i, d := range dumps {
		t.times = append(t.times, d.At)
		for j := range d.Goroutines {
			t.add(i, &d.Goroutines[j], seen)
		}
		for j := range d.Goroutines {
			seen[d.Goroutines[j].ID] = true
		}
	}
	final := dumps[len(dumps)-1].Goroutines
	for i := range final {
		t.last[final[i].ID] = &final[i]
	}
	return t
}

// add takes in a goroutine of dump i.
func (t *tracks) add(i int, g *goroutine.Goroutine, seen map[uint64]bool) {
	ss := stackState{g.Stack, g.State}
	key, known := t.keys[ss]
	if !known {
		if isOwn(g.Stack.Frames) {
			key.cause = "" // of the examination
		} else {
			key = placeKey{causeOf(g.State, g.Stack.Frames), g.Stack.Frames[t.code.blame(g.Stack.Frames)], g.Stack.CreatedBy.Func}
		}
		t.keys[ss] = key
		frames := g.Stack.Frames
		t.entry[ss] = family{g.Stack.CreatedBy, frames[len(frames)-1].Func}
	}
	if key.cause == "" {
		return
	}
	p := t.all[key]
	if p == nil {
		p = newPlace(key, g, len(t.dumps))
		t.all[key] = p
	}
	p.visit(i, g, i > 0 && !seen[g.ID])
	if i == len(t.dumps)-1 && g.Leaked {
		p.leaked++
	}
	f := t.entry[ss]
	kin := t.families[f]
	if kin == nil {
		kin = newPlace(key, g, len(t.dumps))
		t.families[f] = kin
	}
	kin.visit(i, g, i > 0 && !seen[g.ID])
}

func newPlace(key placeKey, g *goroutine.Goroutine, dumps int) *place {
	return &place{placeKey: key, createdBy: g.Stack.CreatedBy, stack: g.Stack, state: g.State, counts: make([]int, dumps), open: map[uint64]int{}}
}

// visit notes that g is here in dump i. Dumps come in order.
func (p *place) visit(i int, g *goroutine.Goroutine, born bool) {
	p.counts[i]++
	if at, here := p.open[g.ID]; here && p.stays[at].last >= i-1 {
		p.stays[at].last, p.stays[at].g = i, g
		return
	}
	p.open[g.ID] = len(p.stays)
	p.stays = append(p.stays, stay{id: g.ID, first: i, last: i, born: born, g: g})
}

// final are the stays that reach the last dump.
func (p *place) final() []stay {
	return slices.DeleteFunc(slices.Clone(p.stays), func(s stay) bool { return s.last != len(p.counts)-1 })
}

// growth is what the comings and goings at a place amount to.
type growth struct {
	leaking   bool
	certain   bool // many, all the time, and none went
	survivors int  // came during the window and are there for longer than any who went
	perMinute float64
}

// measure decides whether those who come to a place stay for good.
//
// What speaks for a leak is not that the place fills but that it fills all the time and
// with goroutines that stay longer than those who leave. A burst comes in one part of the
// window; a pool that grows to its size stops growing; what is slow but finishes leaves,
// so that who is left is younger than those who went.
func (t *tracks) measure(p *place) growth {
	k := len(t.times) - 1
	if k < fewDumps-1 {
		return growth{}
	}
	window := t.times[k] - t.times[0]
	if window <= 0 {
		return growth{}
	}
	g := growth{perMinute: float64(p.counts[k]-p.counts[0]) / window.Minutes()}
	if g.perMinute <= 0 || p.counts[k]-p.counts[0] < 3 {
		return g
	}
	left, stayed := t.departures(p)
	interval := window / time.Duration(k)
	minAge := interval
	if len(left)*20 > len(left)+stayed {
		// One in ten of those who left may have been there for longer.
		slices.Sort(left)
		minAge += left[len(left)*9/10] * 3 / 2
	}
	horizon := window - minAge
	if horizon < window/4 {
		return g
	}
	// Looks are not quite even: the last that counts may be a little late, and a quarter may
	// have one more of them than another.
	quarter := func(look int) (q int, counts bool) {
		came := t.times[look] - t.times[0]
		return max(0, min(3, int(4*(came-interval)/max(1, horizon-interval)))), look > 0 && came <= horizon+interval/4
	}
	var quarters, looks [4]int
	for i := range k {
		if q, counts := quarter(i); counts {
			looks[q]++
		}
	}
	born := 0
	for _, s := range p.stays {
		q, counts := quarter(s.first)
		if s.last != k || s.first == k || !counts {
			continue
		}
		g.survivors++
		if s.born {
			born++
		}
		quarters[q]++
	}
	if g.survivors < 3 || born*2 < g.survivors {
		return g
	}
	filled := 0
	for _, n := range quarters {
		if n > 0 {
			filled++
		}
	}
	late := quarters[2] + quarters[3]
	early := quarters[0] + quarters[1]
	// In the last quarter half as many came with each look as before, or more.
	goesOn := 2*quarters[3]*(looks[0]+looks[1]+looks[2]) >= (early+quarters[2])*looks[3]
	g.leaking = filled >= 3 && late*3 >= early && (goesOn || g.survivors < 12)
	g.certain = g.leaking && filled == 4 && g.survivors >= 8 && len(left)*20 <= stayed+len(left)
	return g
}

// departures lists for how long those stayed who left, as far as the dumps show it, and
// how many did not leave.
func (t *tracks) departures(p *place) (left []time.Duration, stayed int) {
	k := len(t.times) - 1
	for _, s := range p.stays {
		if s.last == k {
			stayed++
			continue
		}
		left = append(left, t.times[s.last]-t.times[s.first])
	}
	return left, stayed
}

// orphaned tells whether whoever started g has gone on, so that nobody is known to wait
// for g. The main goroutine's children are meant to live.
func (t *tracks) orphaned(g *goroutine.Goroutine) (orphan, known bool) {
	if g.Creator == 0 {
		return false, false
	}
	if g.Creator == 1 {
		return false, true
	}
	creator := t.last[g.Creator]
	if creator == nil {
		return true, true
	}
	for _, f := range creator.Stack.Frames {
		if f.Func == g.Stack.CreatedBy.Func || strings.HasPrefix(f.Func, g.Stack.CreatedBy.Func+".func") {
			return false, true
		}
	}
	return true, true
}

// ageing decides whether the members of a place, who were all there before the window
// began, came one after the other and have waited ever since. Workers of a pool wait for
// as long too, but who waits longest is then not who was made first, or all were made at
// once.
func (t *tracks) ageing(p *place) (leaking, certain bool) {
	if byDesign(p.cause, p.stack.Frames) || p.cause == Spin || p.cause == Other {
		return false, false
	}
	left, _ := t.departures(p)
	if len(left) > 0 {
		return false, false
	}
	// The runtime counts from the first collection that found one waiting, which in a quiet
	// program comes every two minutes: those of the last ones count as 0.
	old := slices.DeleteFunc(p.final(), func(s stay) bool { return s.first > 0 })
	if len(old) < 3 || len(old)*2 < p.counts[len(p.counts)-1] {
		return false, false
	}
	slices.SortFunc(old, func(a, b stay) int { return int(int64(a.id) - int64(b.id)) })
	ages := map[int]bool{}
	orphans, inversions := 0, 0
	for i, s := range old {
		ages[s.g.Minutes] = true
		if orphan, known := t.orphaned(s.g); orphan || !known {
			orphans++
		}
		if i > 0 && s.g.Minutes > old[i-1].g.Minutes {
			inversions++
		}
	}
	if orphans*5 < len(old)*4 || t.besideConnections(old) {
		return false, false
	}
	stuck := p.cause == ChanSend || p.cause == WaitGroup || p.cause.isLock()
	switch {
	case len(ages) >= 3 && old[0].g.Minutes >= 2 && inversions*20 <= len(old):
		return true, len(ages) >= 5 && len(old) >= 5
	case len(ages) == 2 && old[0].g.Minutes >= 2 && inversions == 0 && t.spreadOut(old):
		return true, false
	case stuck && old[len(old)-1].g.Minutes >= 2:
		// Nobody parks by design where it is somebody else's turn to act.
		return true, false
	}
	return false, false
}

// spreadOut tells from the numbers of goroutines whether they came one by one through the
// life of a program in which others came and went between them, up to now. Those of a pool
// were started at once, or while it filled. This helps where few ages are known, as in a
// quiet program. stays are in the order of their numbers.
func (t *tracks) spreadOut(stays []stay) bool {
	// Processors take numbers in bundles of 16, so that those of the same moment differ too.
	const apart = 500
	if len(stays) < 4 {
		return false
	}
	newest := stays[len(stays)-1].id
	for id := range t.last {
		newest = max(newest, id)
	}
	half := (newest - stays[0].id) / 2
	together := 0
	for i := range stays {
		next := newest
		if i+1 < len(stays) {
			next = stays[i+1].id
		}
		gap := next - stays[i].id
		if gap > half {
			return false
		}
		if gap < apart && i+1 < len(stays) {
			together++
		}
	}
	return together*4 <= len(stays) // two may come soon after each other
}

// besideConnections tells whether most of those who stay have a sibling, started by the
// same goroutine, that reads from a connection: they last for as long as that does.
func (t *tracks) besideConnections(stays []stay) bool {
	reads := map[uint64]bool{}
	for _, g := range t.last {
		if g.Creator > 1 && causeOf(g.State, g.Stack.Frames) == IO {
			reads[g.Creator] = true
		}
	}
	beside := 0
	for _, s := range stays {
		if reads[s.g.Creator] {
			beside++
		}
	}
	return beside*2 > len(stays)
}
