package doctor

import (
	"fmt"
	"math"
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

// minHeapSlope is what is never called growth: less is what a program's own statistics,
// logs and connection buffers do, in bytes a minute.
const minHeapSlope = 512 << 10

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
	var minutes, live, stacks []float64
	for _, x := range a.Heaps {
		minutes = append(minutes, x.At.Minutes())
		live = append(live, x.Stats.HeapAlloc)
		stacks = append(stacks, x.Stats.StackInuse)
	}
	var ok bool
	if h.Slope, h.Uncertainty, ok = fitLine(minutes, live); !ok {
		return
	}
	var stackUncertainty float64
	h.StackSlope, stackUncertainty, _ = fitLine(minutes, stacks)
	n := len(live)
	h.LiveBytes = live[n-1]
	h.Verdict = "flat"
	last := (live[n-1] - live[n-2]) / (minutes[n-1] - minutes[n-2])
	if h.Slope-h.Uncertainty > 0 && h.Slope > max(minHeapSlope, 0.01*live[0]) && last > 0.3*h.Slope && live[n-1]-live[0] > 192<<10 {
		h.Verdict, h.Confidence = "growing", Medium
		if h.Uncertainty < h.Slope/2 && n >= 5 {
			h.Confidence = High
		}
	}
	a.heapSites()
	if h.Verdict == "growing" {
		a.heapKind()
		return
	}
	if h.StackSlope-stackUncertainty > minHeapSlope && stacks[n-1] > stacks[n-2] {
		h.Kind = "stacks"
		h.Explanation = fmt.Sprintf("The heap is flat, but goroutine stacks grow by %s a minute, to %s: there are more and more goroutines, or they recurse deeper.", Size(h.StackSlope), Size(stacks[n-1]))
		h.Fix = "See the leaks, if there are any; else look where goroutines are started without a bound."
		return
	}
	if stats := a.Heaps[n-1].Stats; stats.HeapAlloc > 8<<20 && stats.NextGC > 3*stats.HeapAlloc {
		h.Kind = "pacing"
		h.Explanation = fmt.Sprintf("The live heap is flat at %s, but the next collection comes only at %s: GOGC is about %.0f, so garbage may take that much before it is collected.",
			Size(stats.HeapAlloc), Size(stats.NextGC), 100*(stats.NextGC/stats.HeapAlloc-1))
		h.Fix = "If memory is short, set GOMEMLIMIT to what the process may take; it bounds the garbage and keeps GOGC for the rest of the time."
	}
}

// heapSites lists where what is held now and was not held before has been allocated.
func (a *analysis) heapSites() {
	if a.after == nil || a.before == nil || len(a.Heaps) < 2 {
		return
	}
	minutes := (a.Heaps[len(a.Heaps)-1].At - a.Heaps[0].At).Minutes()
	grown := minus(sums(a.after, "inuse_space", a.owned), sums(a.before, "inuse_space", a.owned))
	a.Heap.Top = a.topSites(grown, func(s *Site, v float64) {
		s.BytesPerMinute = v / minutes
		s.What, _ = a.src.allocatesFor(Frame{Func: s.Function, File: s.File, Line: s.Line})
	})
}

// heapKind says what grows.
func (a *analysis) heapKind() {
	h := &a.Heap
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
	for _, l := range a.Leaks {
		if l.Confidence != Low && (l.Function == top.Function || l.CreatedBy.Func == top.Function || h.StackSlope > h.Slope) {
			h.Kind = "goroutines"
			h.Explanation = fmt.Sprintf("The growth of %s a minute is what the leaking goroutines in %s hold; it ends with them.", Size(h.Slope), ShortName(l.Function))
			h.Fix = "Mend the leak of goroutines first."
			return
		}
	}
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
