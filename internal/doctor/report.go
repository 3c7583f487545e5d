package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Verdict sums an examination up.
type Verdict string

// The verdicts.
const (
	Leaking      Verdict = "leaking"  // goroutines or memory
	Degraded     Verdict = "degraded" // time or memory go where they need not
	Healthy      Verdict = "healthy"
	Unresponsive Verdict = "unresponsive"
)

// Report is what an examination found. Its JSON is described by schema.json.
type Report struct {
	Target        string     `json:"target"`
	Started       time.Time  `json:"started"`
	WindowSeconds float64    `json:"window_seconds"`
	GoVersion     string     `json:"go_version,omitempty"`
	Verdict       Verdict    `json:"verdict"`
	Findings      []Finding  `json:"findings"`
	Leaks         []*Leak    `json:"leaks"`
	Heap          HeapReport `json:"heap"`
	CPU           CPUReport  `json:"cpu"`
	Contention    Contention `json:"contention"`
	GC            GCReport   `json:"gc"`
	Scheduling    Scheduling `json:"scheduling"`
	Timeline      Timeline   `json:"timeline"`
	Unavailable   []Missing  `json:"unavailable"`
}

// Kind is what a finding is about. --fail-on takes these.
type Kind string

// The kinds of findings, the most harmful first.
const (
	KindUnresponsive Kind = "unresponsive"
	KindLeak         Kind = "leak"
	KindHeap         Kind = "heap"
	KindContention   Kind = "contention"
	KindCPU          Kind = "cpu"
	KindGC           Kind = "gc"
)

// Kinds lists all of them.
func Kinds() []Kind {
	return []Kind{KindUnresponsive, KindLeak, KindHeap, KindContention, KindCPU, KindGC}
}

// Finding is one line of the summary; the parts of the report have the rest.
type Finding struct {
	Kind       Kind       `json:"kind"`
	ID         string     `json:"id"` // the same in every examination with the same finding
	Title      string     `json:"title"`
	Function   string     `json:"function,omitempty"`
	File       string     `json:"file,omitempty"`
	Line       int        `json:"line,omitempty"`
	Confidence Confidence `json:"confidence"`
	// Amount is what compare compares: goroutines/min of a leak, bytes/min of a heap,
	// percent of CPU time, seconds of waiting a minute.
	Amount float64 `json:"amount"`
	Unit   string  `json:"unit"`
	// Noise is how much Amount may differ between examinations of the same program.
	Noise float64 `json:"noise"`
}

// Site is a place in the code and what falls on it; each list uses one of the amounts.
type Site struct {
	Function         string  `json:"function"`
	File             string  `json:"file"`
	Line             int     `json:"line"`
	Source           string  `json:"source,omitempty"`
	Percent          float64 `json:"percent,omitempty"`
	BytesPerMinute   float64 `json:"bytes_per_minute,omitempty"`
	Seconds          float64 `json:"seconds,omitempty"`
	ObjectsPerSecond float64 `json:"objects_per_second,omitempty"`
	What             string  `json:"what,omitempty"` // "map", "slice"
}

// Pattern is a known way to waste, recognised by where the samples fell.
type Pattern struct {
	ID          string     `json:"id"` // "json-reflection", "sprintf", …
	Title       string     `json:"title"`
	Function    string     `json:"function"`
	File        string     `json:"file"`
	Line        int        `json:"line"`
	Source      string     `json:"source,omitempty"`
	Percent     float64    `json:"percent"` // of the CPU time
	Confidence  Confidence `json:"confidence"`
	Evidence    string     `json:"evidence"`
	Explanation string     `json:"explanation"`
	Fix         string     `json:"fix"`
}

// Timeline is what is drawn over time; the lists are parallel to their seconds.
type Timeline struct {
	GoroutineSeconds []float64 `json:"goroutine_seconds"`
	Goroutines       []int     `json:"goroutines"`
	HeapSeconds      []float64 `json:"heap_seconds"`
	HeapBytes        []float64 `json:"heap_bytes"`
	StackBytes       []float64 `json:"stack_bytes"`
	Collections      []float64 `json:"collections"`
	DumpSeconds      []float64 `json:"dump_seconds"` // of the counts of leaks
}

// Scheduling is how long those who could run had to wait.
type Scheduling struct {
	Runnable float64 `json:"runnable"`                    // goroutines that wanted a core, on average
	Delay99  float64 `json:"delay_p99_ms,omitempty"`      // from the target's metrics
	Answer   float64 `json:"answer_median_ms"`            // to a page of next to no work
	Latency  float64 `json:"http_p99_ms,omitempty"`       // of the target's own requests, from its metrics
	Mutex    float64 `json:"lock_wait_s_per_s,omitempty"` // seconds that goroutines waited for locks a second
}

// Analyse makes a report of what was fetched. source is Config.Source.
func Analyse(c *Capture, source string) *Report {
	r := &Report{
		Target: c.Target, Started: c.Started, WindowSeconds: c.Window.Seconds(),
		Findings: []Finding{}, Leaks: []*Leak{}, Unavailable: slices.Clone(c.Missing),
	}
	if r.Unavailable == nil {
		r.Unavailable = []Missing{}
	}
	a := &analysis{Capture: c, Report: r, src: newSources(source), tracks: newTracks(c.Dumps)}
	a.before, a.after, a.cpu = a.profile("heap-before"), a.profile("heap-after"), a.profile("cpu")
	r.Leaks = append(r.Leaks, findLeaks(a.tracks, a.src, compact(a.after, a.cpu), a.looks(), c)...)
	a.heap()
	a.cpuTime()
	a.contention()
	a.collector()
	a.schedule()
	a.timeline()
	a.sumUp()
	return r
}

// Failing lists the findings of the given kinds that are sure enough to fail.
func (r *Report) Failing(kinds []Kind) []Finding {
	var all []Finding
	for _, f := range r.Findings {
		if f.Confidence != Low && slices.Contains(kinds, f.Kind) {
			all = append(all, f)
		}
	}
	return all
}

func (a *analysis) sumUp() {
	r := a.Report
	if a.NoAnswers > 0 && a.NoAnswers*2 >= a.Requests {
		r.Findings = append(r.Findings, Finding{
			Kind: KindUnresponsive, ID: "unresponsive", Confidence: High, Amount: float64(a.NoAnswers), Unit: "requests",
			Title: fmt.Sprintf("%d of %d requests were not answered in time: something keeps the scheduler, the network or the whole process from running", a.NoAnswers, a.Requests),
		})
	}
	for _, l := range r.Leaks {
		n := l.Goroutines
		for _, b := range l.Behind {
			n += b.Goroutines
		}
		title := fmt.Sprintf("%d goroutines leak", n)
		if n == 1 {
			title = "a goroutine leaks"
		}
		if l.GrowthPerMinute > 0 {
			title += fmt.Sprintf(", %s more a minute", quantity(l.GrowthPerMinute))
		}
		r.Findings = append(r.Findings, Finding{
			Kind: KindLeak, ID: l.ID, Title: title + ": " + string(l.Cause), Function: l.Function, File: l.File, Line: l.Line,
			Confidence: l.Confidence, Amount: l.GrowthPerMinute, Unit: "goroutines/min", Noise: 0.5 * l.GrowthPerMinute,
		})
	}
	a.heapFinding()
	if f := a.Contention.finding(); f != nil {
		r.Findings = append(r.Findings, *f)
	}
	for _, p := range r.CPU.Patterns {
		r.Findings = append(r.Findings, Finding{
			Kind: KindCPU, ID: p.ID + ":" + p.Function, Title: fmt.Sprintf("%s: %.0f %% of the CPU time", p.Title, p.Percent),
			Function: p.Function, File: p.File, Line: p.Line, Confidence: p.Confidence, Amount: p.Percent, Unit: "% CPU", Noise: max(3, p.Percent/4),
		})
	}
	if f := a.GC.finding(); f != nil {
		r.Findings = append(r.Findings, *f)
	}
	slices.SortStableFunc(r.Findings, func(x, y Finding) int {
		return cmp.Or(boolFirst(x.Confidence != Low, y.Confidence != Low),
			cmp.Compare(slices.Index(Kinds(), x.Kind), slices.Index(Kinds(), y.Kind)))
	})
	r.Verdict = verdictOf(r.Findings)
}

func boolFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func verdictOf(findings []Finding) Verdict {
	v := Healthy
	for _, f := range findings {
		switch {
		case f.Confidence == Low:
		case f.Kind == KindUnresponsive:
			return Unresponsive
		case f.Kind == KindLeak || f.Kind == KindHeap:
			v = Leaking
		case v == Healthy:
			v = Degraded
		}
	}
	return v
}

// quantity writes a number with as many digits as mean something.
func quantity(n float64) string {
	switch {
	case n >= 10:
		return fmt.Sprintf("%.0f", n)
	case n >= 1:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", n), ".0")
	}
	return fmt.Sprintf("%.2g", n)
}

// Size writes bytes for people.
func Size(n float64) string {
	for _, u := range []struct {
		unit string
		of   float64
	}{{"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}} {
		if n >= u.of || n <= -u.of {
			return fmt.Sprintf("%.1f %s", n/u.of, u.unit)
		}
	}
	return fmt.Sprintf("%.0f B", n)
}
