package doctor

import (
	"cmp"
	"slices"
	"strings"

	"github.com/google/pprof/profile"
)

// analysis is a report in the making.
type analysis struct {
	*Capture
	*Report
	src                *sources
	tracks             *tracks
	before, after, cpu *profile.Profile // nil if they are not to be had
}

// profile parses what was fetched under a name; what cannot be parsed is told among what
// is missing.
func (a *analysis) profile(name string) *profile.Profile {
	raw := a.Profiles[name]
	if raw == nil {
		return nil
	}
	p, err := parseProfile(raw)
	if err != nil {
		a.Unavailable = append(a.Unavailable, Missing{What: name, Why: err.Error(), Cost: "it is not examined"})
		return nil
	}
	return p
}

// looks parses the binary profiles of goroutines.
func (a *analysis) looks() []*profile.Profile {
	var all []*profile.Profile
	for _, l := range a.Looks {
		p, err := parseProfile(l.raw)
		if err != nil {
			a.Unavailable = append(a.Unavailable, Missing{What: "goroutine", Why: err.Error(), Cost: costDump})
			return nil
		}
		all = append(all, p)
	}
	return all
}

func compact(all ...*profile.Profile) []*profile.Profile {
	return slices.DeleteFunc(all, func(p *profile.Profile) bool { return p == nil })
}

// sums adds a column of a profile up by place: key says which place the frames of a sample
// count for, none for "".
func sums(p *profile.Profile, name string, key func(frames []Frame) Frame) map[Frame]float64 {
	all := map[Frame]float64{}
	if p == nil {
		return all
	}
	col, err := column(p, name)
	if err != nil {
		return all
	}
	var frames []Frame
	for _, s := range p.Sample {
		frames = sampleFrames(s, frames)
		if len(frames) == 0 {
			continue
		}
		if f := key(frames); f.Func != "" {
			all[f] += float64(s.Value[col])
		}
	}
	return all
}

// owned is a key for sums: the innermost frame of the program's own code, or none.
func (a *analysis) owned(frames []Frame) Frame {
	f := frames[a.tracks.code.blame(frames)]
	if a.tracks.code.owner(f) == ownRuntime || isOwn(frames) {
		return Frame{}
	}
	return f
}

// minus subtracts what there was before.
func minus(after, before map[Frame]float64) map[Frame]float64 {
	for f, v := range before {
		after[f] -= v
	}
	return after
}

// topCount is how many sites a list has.
const topCount = 5

// topSites lists the largest, with their amounts set by set.
func (a *analysis) topSites(m map[Frame]float64, set func(s *Site, v float64)) []Site {
	frames := make([]Frame, 0, len(m))
	for f, v := range m {
		if v > 0 {
			frames = append(frames, f)
		}
	}
	slices.SortFunc(frames, func(x, y Frame) int {
		return cmp.Or(cmp.Compare(m[y], m[x]), strings.Compare(x.Func, y.Func), cmp.Compare(x.Line, y.Line))
	})
	sites := make([]Site, 0, topCount)
	for _, f := range frames[:min(topCount, len(frames))] {
		s := Site{Function: f.Func, File: f.File, Line: f.Line, Source: a.src.line(f)}
		set(&s, m[f])
		sites = append(sites, s)
	}
	return sites
}

func (a *analysis) timeline() {
	t := Timeline{GoroutineSeconds: []float64{}, Goroutines: []int{}, HeapSeconds: []float64{}, HeapBytes: []float64{}, StackBytes: []float64{}, Collections: []float64{}, DumpSeconds: []float64{}}
	for _, c := range a.Counts {
		t.GoroutineSeconds = append(t.GoroutineSeconds, c.At.Seconds())
		t.Goroutines = append(t.Goroutines, c.Goroutines)
	}
	for _, l := range a.Looks {
		t.DumpSeconds = append(t.DumpSeconds, l.At.Seconds())
	}
	for _, d := range a.Dumps {
		if len(a.Looks) > 0 {
			break // the one dump is not among the counts of leaks
		}
		t.DumpSeconds = append(t.DumpSeconds, d.At.Seconds())
		if len(a.Counts) == 0 {
			t.GoroutineSeconds = append(t.GoroutineSeconds, d.At.Seconds())
			t.Goroutines = append(t.Goroutines, len(d.Goroutines))
		}
	}
	for i := range a.Heaps {
		h := &a.Heaps[i]
		t.HeapSeconds = append(t.HeapSeconds, h.At.Seconds())
		t.HeapBytes = append(t.HeapBytes, h.live())
		t.StackBytes = append(t.StackBytes, h.Stats.StackInuse)
		t.Collections = append(t.Collections, h.Stats.NumGC)
	}
	a.Timeline = t
}

func (a *analysis) schedule() {
	s := &a.Scheduling
	runnable := 0
	for i := range a.Dumps {
		for j := range a.Dumps[i].Goroutines {
			if g := &a.Dumps[i].Goroutines[j]; g.State == "runnable" && !isOwn(g.Stack.Frames) {
				runnable++
			}
		}
	}
	s.Runnable = float64(runnable) / float64(max(1, len(a.Dumps)))
	var took []float64
	for _, c := range a.Counts {
		took = append(took, c.Took.Seconds()*1000)
	}
	s.Answer = median(took)
	if len(a.Metrics) == 2 {
		first, last := a.Metrics[0], a.Metrics[1]
		a.GoVersion = last.GoVersion
		if q, ok := quantile(first.SchedDelays, last.SchedDelays, 0.99); ok {
			s.Delay99 = q * 1000
		}
		if q, ok := quantile(first.HTTP, last.HTTP, 0.99); ok {
			s.Latency = q * 1000
		}
		if d := (last.At - first.At).Seconds(); d > 0 {
			s.Mutex = max(0, last.MutexWait-first.MutexWait) / d
		}
	}
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return v[len(v)/2]
}
