package doctor

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// HeapReport is how the live heap moves.
type HeapReport struct {
	// Slope is how fast what is left after a collection grows, and Uncertainty the half
	// width of its 90 % interval (Student's t), both in bytes a minute.
	Slope       float64 `json:"slope_bytes_per_minute"`
	Uncertainty float64 `json:"uncertainty"`
	Verdict     string  `json:"verdict"` // "growing", "flat" or "unknown"
	// Kind says what grows: "cache", "map", "slice", "objects" or "goroutines". Where the
	// heap is flat, "stacks" says that goroutine stacks grow instead, and "pacing" that
	// the process is large all the same.
	Kind        string `json:"kind,omitempty"`
	Explanation string `json:"explanation,omitempty"`
	Fix         string `json:"fix,omitempty"`
	// StackSlope is how fast goroutine stacks grow, in bytes a minute.
	StackSlope float64    `json:"stack_slope_bytes_per_minute"`
	LiveBytes  float64    `json:"live_bytes"` // after the last collection
	Confidence Confidence `json:"confidence,omitempty"`
	Top        []Site     `json:"top"`
}

// What is never called growth: less is what a program's own statistics, logs and connection
// buffers do.
const (
	minHeapSlope  = 512 << 10 // bytes a minute
	minHeapGrowth = 192 << 10 // bytes
)

// growthOf is the slope from which a heap with so many live bytes is called growing, in
// bytes a minute.
func growthOf(live float64) float64 { return max(minHeapSlope, 0.01*live) }

// studentT90 are the 95th percentiles of Student's t for 1, 2, … degrees of freedom, which
// give two-sided intervals of 90 % (any table of the distribution).
var studentT90 = []float64{6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812}

// fitLine fits a line by least squares and returns its slope with the half width of the
// 90 % interval. Three points are the least that have an uncertainty.
func fitLine(x, y []float64) (slope, uncertainty float64, ok bool) {
	n := float64(len(x))
	if n < 3 {
		return 0, 0, false
	}
	var mx, my, sxx, sxy, sse float64
	for i := range x {
		mx += x[i] / n
		my += y[i] / n
	}
	for i := range x {
		sxx += (x[i] - mx) * (x[i] - mx)
		sxy += (x[i] - mx) * (y[i] - my)
	}
	if sxx == 0 {
		return 0, 0, false
	}
	slope = sxy / sxx
	for i := range x {
		e := y[i] - my - slope*(x[i]-mx)
		sse += e * e
	}
	t := studentT90[min(len(x)-2, len(studentT90))-1]
	return slope, t * math.Sqrt(sse/(n-2)/sxx), true
}

func (a *analysis) heap() {
	h := &a.Heap
	h.Top, h.Verdict = []Site{}, "unknown"
	if len(a.Heaps) == 0 {
		return
	}
	lastHeap := &a.Heaps[len(a.Heaps)-1]
	h.LiveBytes = lastHeap.live()
	minutes, live := liveHeaps(a.Heaps)
	var ok bool
	if h.Slope, h.Uncertainty, ok = fitLine(minutes, live); !ok {
		a.boundHeap()
		return
	}
	var at, stacks []float64
	for i := range a.Heaps {
		at = append(at, a.Heaps[i].At.Minutes())
		stacks = append(stacks, a.Heaps[i].Stats.StackInuse)
	}
	var stackUncertainty float64
	h.StackSlope, stackUncertainty, _ = fitLine(at, stacks)
	n := len(live)
	h.Verdict = "flat"
	last := (live[n-1] - live[n-2]) / (minutes[n-1] - minutes[n-2])
	// Of twenty programs whose heap is unsteady, the interval of one is above zero by chance.
	if h.Slope > 2*h.Uncertainty && h.Slope > growthOf(live[0]) && last > 0.3*h.Slope && live[n-1]-live[0] > minHeapGrowth && a.isHeld(h.Slope*(minutes[n-1]-minutes[0])) {
		h.Verdict, h.Confidence = "growing", Medium
		if h.Uncertainty < h.Slope/4 && n >= 5 {
			h.Confidence = High
		}
	}
	if a.Heaps[0].Natural && h.Verdict == "flat" && h.Slope+h.Uncertainty > 10*growthOf(h.LiveBytes) {
		h.Verdict = "unknown" // the collections before the window were of another time of its life
	}
	a.heapSites()
	if h.Verdict == "growing" {
		a.heapKind()
		return
	}
	if m := len(stacks); h.StackSlope-stackUncertainty > minHeapSlope && stacks[m-1] > stacks[m-2] {
		h.Kind = "stacks"
		h.Explanation = fmt.Sprintf("The heap is flat, but goroutine stacks grow by %s a minute, to %s: there are more and more goroutines, or they recurse deeper.", Size(h.StackSlope), Size(stacks[m-1]))
		h.Fix = "See the leaks, if there are any; else look where goroutines are started without a bound."
		return
	}
	if next := lastHeap.Stats.NextGC; h.LiveBytes > 8<<20 && next > 3*h.LiveBytes {
		h.Kind = "pacing"
		h.Explanation = fmt.Sprintf("The live heap is flat at %s, but the next collection comes only at %s: GOGC is about %.0f, so garbage may take that much before it is collected.",
			Size(h.LiveBytes), Size(next), 100*(next/h.LiveBytes-1))
		h.Fix = "If memory is short, set GOMEMLIMIT to what the process may take; it bounds the garbage and keeps GOGC for the rest of the time."
	}
}

// liveHeaps lists what was live after collections, and when they were. Where the target's
// own serve, all are told by the profile, and by the target's clock.
func liveHeaps(heaps []Heap) (minutes, live []float64) {
	natural := slices.ContainsFunc(heaps, func(h Heap) bool { return h.Natural })
	for i := range heaps {
		h := &heaps[i]
		switch {
		case !natural:
			minutes = append(minutes, h.At.Minutes())
			live = append(live, h.Stats.HeapAlloc)
		case h.Stats.LastGC == 0:
		default:
			at := (h.Stats.LastGC - heaps[0].Stats.LastGC) / float64(time.Minute)
			if n := len(minutes); n == 0 || at > minutes[n-1] {
				minutes = append(minutes, at)
				live = append(live, h.Stats.Profiled)
			}
		}
	}
	return minutes, live
}

// boundHeap judges a heap of which too few collections are known by what was allocated.
func (a *analysis) boundHeap() {
	rate, ok := ownRate(a.Heaps)
	if last := &a.Heaps[len(a.Heaps)-1]; ok && last.Natural && !canHaveGrown(a.Heaps) {
		a.Heap.Verdict, a.Heap.Uncertainty = "flat", rate
	}
}

// isHeld tells whether the profile, which knows nothing of garbage, has seen the heap grow.
// Between a collection and the reading of the statistics the program goes on: one that
// allocates a gigabyte a second has made ten megabytes of garbage on a busy machine.
func (a *analysis) isHeld(growth float64) bool {
	first, last := &a.Heaps[0], &a.Heaps[len(a.Heaps)-1]
	sampling := last.Stats.Sampling
	if sampling == 0 {
		return true // not known
	}
	held := last.Stats.Profiled - first.Stats.Profiled
	if last.Natural || first.Natural {
		// All is by the profile: what comes and goes is sampled anew each time.
		return held > math.Sqrt(last.Stats.Profiled*sampling)
	}
	const reading = 0.01 // seconds
	garbage := (last.Stats.TotalAlloc - first.Stats.TotalAlloc) / (last.At - first.At).Seconds() * reading
	if growth < 8*sampling {
		return garbage < growth/2 // too little to be sampled well
	}
	return held > growth/3
}

// heapSites lists where what is held now and was not held before has been allocated.
func (a *analysis) heapSites() {
	if a.after == nil || a.before == nil || len(a.Heaps) < 2 {
		return
	}
	times, _ := liveHeaps(a.Heaps)
	if len(times) < 2 {
		return
	}
	minutes := times[len(times)-1] - times[0]
	grown := minus(sums(a.after, "inuse_space", a.owned), sums(a.before, "inuse_space", a.owned))
	a.Heap.Top = a.topSites(grown, func(s *Site, v float64) {
		s.BytesPerMinute = v / minutes
		s.What, _ = a.src.allocatesFor(Frame{Func: s.Function, File: s.File, Line: s.Line})
	})
}

// heapKind says what grows.
func (a *analysis) heapKind() {
	h := &a.Heap
	if l := a.holdsGrowth(); l != nil {
		h.Kind = "goroutines"
		h.Explanation = fmt.Sprintf("The growth of %s a minute is what the leaking goroutines in %s hold; it ends with them.", Size(h.Slope), ShortName(l.Function))
		h.Fix = "Mend the leak of goroutines first."
		return
	}
	if len(h.Top) == 0 {
		h.Kind = "objects"
		h.Explanation = fmt.Sprintf("What is left after each collection grows by %s a minute, too little in this window for the sampled profile to say where it was allocated.", Size(h.Slope))
		h.Fix = "Examine again with a longer --window."
		return
	}
	top := h.Top[0]
	where := ShortName(top.Function)
	_, fillsMap := a.src.allocatesFor(Frame{Func: top.Function, File: top.File, Line: top.Line})
	sites := top.BytesPerMinute
	switch {
	case top.What == "map":
		h.Kind = "map"
		h.Explanation = fmt.Sprintf("A map that %s fills grows by %s a minute. Nothing is deleted from it, or what is deleted comes back under new keys.", where, Size(sites))
		h.Fix = "Delete what is done with; where keys come from outside, bound their number."
	case fillsMap && top.What == "":
		h.Kind = "cache"
		h.Explanation = fmt.Sprintf("%s puts %s a minute into a map and nothing takes it out: a cache without a bound.", where, Size(sites))
		h.Fix = "Bound it by number or bytes and throw out the least recently used, or give entries a time to live."
	case top.What == "slice":
		h.Kind = "slice"
		h.Explanation = fmt.Sprintf("%s appends to a slice that is kept, %s a minute, and nothing shortens it.", where, Size(sites))
		h.Fix = "Hand the slice on and begin a new one, or keep the last N in a ring."
	default:
		h.Kind = "objects"
		h.Explanation = fmt.Sprintf("%s makes objects that stay reachable, %s a minute: something keeps a list of them, or small parts keep large buffers alive.", where, Size(sites))
		h.Fix = "Look for what holds them: a package variable, a list of callbacks, a context, or a small slice or string of a large buffer (strings.Clone, bytes.Clone)."
	}
}

// holdsGrowth finds the leak whose goroutines hold what the heap grows by, if one does.
func (a *analysis) holdsGrowth() *Leak {
	const little = 64 << 10 // that a goroutine may hold without its site being known
	h := &a.Heap
	for _, l := range a.Leaks {
		if l.Confidence == Low || l.GrowthPerMinute <= 0 {
			continue
		}
		if h.StackSlope > h.Slope {
			return l
		}
		if len(h.Top) == 0 {
			if h.Slope < little*l.GrowthPerMinute {
				return l
			}
			continue
		}
		// What is put into a map or a list is held by that, wherever it stands.
		if top := h.Top[0]; top.What == "" && (l.Function == top.Function || l.CreatedBy.Func == top.Function) {
			return l
		}
	}
	return nil
}

func (a *analysis) heapFinding() {
	h := a.Heap
	if h.Verdict != "growing" || h.Kind == "goroutines" {
		return
	}
	f := Finding{
		Kind: KindHeap, ID: "heap-growth", Confidence: h.Confidence, Amount: h.Slope, Unit: "bytes/min", Noise: h.Uncertainty,
		Title: fmt.Sprintf("the heap grows by %s/min ± %s: %s", Size(h.Slope), Size(h.Uncertainty), h.Kind),
	}
	if len(h.Top) > 0 {
		f.Function, f.File, f.Line = h.Top[0].Function, h.Top[0].File, h.Top[0].Line
		f.ID += ":" + f.Function
	}
	a.Findings = append(a.Findings, f)
}
