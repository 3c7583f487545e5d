package doctor

import (
	"fmt"
	"slices"
)

// GCReport is what the garbage collector does and what makes it do so.
type GCReport struct {
	CyclesPerMinute float64 `json:"cycles_per_minute"` // those that the examination forced left out
	// Percent of the CPU time in use that collecting took: background marking, assists
	// and sweeping. AllocPercent is what allocating took besides.
	Percent      float64 `json:"cpu_percent"`
	AllocPercent float64 `json:"alloc_percent"`
	AllocRate    float64 `json:"alloc_bytes_per_second"`
	ObjectRate   float64 `json:"alloc_objects_per_second"`
	ObjectSize   float64 `json:"mean_object_bytes"`
	MaxPause     float64 `json:"max_pause_ms"` // of the last 256 collections
	GOGC         float64 `json:"gogc_estimate,omitempty"`
	// Top are the places with the most objects allocated.
	Top         []Site     `json:"top"`
	Confidence  Confidence `json:"confidence,omitempty"`
	Explanation string     `json:"explanation,omitempty"`
	Fix         string     `json:"fix,omitempty"`
}

// gcPercent is from which share of the CPU time the collector is a finding. At GOGC=100 a
// program that allocates moderately spends 2 to 10 %.
const gcPercent = 25

// churnPercent is from which share of allocating and collecting together small objects
// are a finding.
const churnPercent = 40

func (a *analysis) collector() {
	g := &a.GC
	g.Top = []Site{}
	if n := len(a.Heaps); n >= 2 {
		first, last := a.Heaps[0], a.Heaps[n-1]
		d := (last.At - first.At).Seconds()
		g.CyclesPerMinute = max(0, (last.Stats.NumGC-first.Stats.NumGC)-(last.Stats.NumForcedGC-first.Stats.NumForcedGC)) / d * 60
		g.AllocRate = max(0, last.Stats.TotalAlloc-first.Stats.TotalAlloc) / d
		g.ObjectRate = max(0, last.Stats.Mallocs-first.Stats.Mallocs) / d
		g.MaxPause = last.Stats.MaxPause / 1e6
		if g.ObjectRate > 0 {
			g.ObjectSize = g.AllocRate / g.ObjectRate
		}
		if live := last.live(); live > 8<<20 {
			g.GOGC = 100 * (last.Stats.NextGC/live - 1)
		}
		if a.after != nil && a.before != nil {
			made := minus(sums(a.after, "alloc_objects", a.owned), sums(a.before, "alloc_objects", a.owned))
			g.Top = a.topSites(made, func(s *Site, v float64) { s.ObjectsPerSecond = v / d })
		}
	}
	if a.cpu == nil || a.CPU.Cores == 0 {
		return
	}
	share := func(in func(string) bool) float64 {
		got := sums(a.cpu, "cpu", func(frames []Frame) Frame {
			if slices.ContainsFunc(frames, func(f Frame) bool { return in(f.Func) }) {
				return Frame{Func: "x"}
			}
			return Frame{}
		})
		return 100 * got[Frame{Func: "x"}] / 1e9 / (a.CPU.Cores * a.CPU.Seconds)
	}
	collecting := hasPrefix("runtime.gcBgMarkWorker", "runtime.gcAssistAlloc", "runtime.bgsweep", "runtime.bgscavenge", "runtime.gcStart")
	g.Percent = share(collecting)
	g.AllocPercent = max(0, share(hasPrefix("runtime.mallocgc", "runtime.newobject", "runtime.growslice"))-share(hasPrefix("runtime.gcAssistAlloc")))
	a.judgeCollector()
}

// judgeCollector decides whether collecting, or allocating small things, takes too much.
func (a *analysis) judgeCollector() {
	g := &a.GC
	cores := a.CPU.Cores / 100
	churn := a.surely(g.Percent+g.AllocPercent) >= churnPercent && g.ObjectSize <= 128 && g.ObjectRate > 500_000 && (g.Percent+g.AllocPercent)*cores >= 0.2
	pressed := a.surely(g.Percent) >= gcPercent && g.Percent*cores >= 0.2
	if g.CyclesPerMinute < 30 || (!churn && !pressed) {
		return
	}
	g.Confidence = Medium
	if g.Percent > 1.5*gcPercent {
		g.Confidence = High
	}
	where := "the program"
	if len(g.Top) > 0 {
		where = ShortName(g.Top[0].Function)
	}
	g.Explanation = fmt.Sprintf("Allocating takes %.0f %% of the CPU time and collecting the garbage %.0f %%, %.0f times a minute: of %s objects a second, of %.0f bytes on average, most are made in %s.",
		g.AllocPercent, g.Percent, g.CyclesPerMinute, quantity(g.ObjectRate), g.ObjectSize, where)
	if a.Heaps[len(a.Heaps)-1].live() < 64<<20 {
		g.Explanation += " The live heap is small, so that little garbage suffices for the next collection."
		g.Fix = "Raise GOGC, or set GOMEMLIMIT and GOGC=off; and reuse what is allocated most (buffers, slices, sync.Pool)."
		return
	}
	g.Fix = "Reuse what is allocated most (buffers, slices, sync.Pool), keep values instead of pointers in large tables, and allocate slices at their final size."
}

func (g *GCReport) finding() *Finding {
	if g.Explanation == "" {
		return nil
	}
	percent := g.Percent + g.AllocPercent
	f := &Finding{
		Kind: KindGC, ID: "gc-pressure", Confidence: g.Confidence, Amount: percent, Unit: "% CPU", Noise: max(4, percent/4),
		Title: fmt.Sprintf("allocating and collecting garbage take %.0f %% of the CPU time", percent),
	}
	if len(g.Top) > 0 {
		f.Function, f.File, f.Line = g.Top[0].Function, g.Top[0].File, g.Top[0].Line
		f.ID += ":" + f.Function
	}
	return f
}
