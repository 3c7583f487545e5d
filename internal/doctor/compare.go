package doctor

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Comparison says what became of the findings of an examination.
type Comparison struct {
	Before  string   `json:"before"` // verdicts
	After   string   `json:"after"`
	Changes []Change `json:"changes"`
	Worse   bool     `json:"worse"`
}

// Change is what became of one finding.
type Change struct {
	// What is "gone", "better", "same", "worse" or "new".
	What    string  `json:"what"`
	Finding Finding `json:"finding"` // as it is now, or was if it is gone
	Was     float64 `json:"was"`     // amounts, in the finding's unit
	Is      float64 `json:"is"`
	Note    string  `json:"note,omitempty"`
}

// Compare says what went, what stayed and what came between two examinations. Amounts that
// differ by less than their noise count as the same; so do findings of low confidence that
// come or go.
func Compare(before, after *Report) Comparison {
	c := Comparison{Before: string(before.Verdict), After: string(after.Verdict), Changes: []Change{}}
	old := map[string]Finding{}
	for _, f := range before.Findings {
		old[f.ID] = f
	}
	for _, f := range after.Findings {
		was, known := old[f.ID]
		delete(old, f.ID)
		ch := Change{Finding: f, Was: was.Amount, Is: f.Amount}
		switch noise := math.Max(f.Noise, was.Noise); {
		case !known && f.Confidence == Low:
			ch.What, ch.Note = "same", "new, but not sure enough to count"
		case !known:
			ch.What = "new"
			ch.Note = belowBefore(before, f)
		case f.Amount > was.Amount+noise && f.Confidence != Low:
			ch.What = "worse"
		case f.Amount < was.Amount-noise:
			ch.What = "better"
		default:
			ch.What = "same"
		}
		c.Worse = c.Worse || ch.What == "new" || ch.What == "worse"
		c.Changes = append(c.Changes, ch)
	}
	for _, f := range old {
		ch := Change{What: "gone", Finding: f, Was: f.Amount}
		if after.Verdict == Unresponsive {
			ch.What, ch.Note = "same", "the target does not answer, so nothing can be said"
		}
		if lacks := after.lacks(f.Kind); lacks != "" {
			ch.What, ch.Note = "same", "the later examination lacks "+lacks
		}
		c.Changes = append(c.Changes, ch)
	}
	order := []string{"new", "worse", "same", "better", "gone"}
	slices.SortStableFunc(c.Changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.What), slices.Index(order, b.What)), strings.Compare(a.Finding.ID, b.Finding.ID))
	})
	return c
}

// lacks tells what an examination would have needed to see a finding of a kind.
func (r *Report) lacks(k Kind) string {
	needs := map[Kind]string{KindLeak: "goroutine", KindHeap: "heap", KindCPU: "cpu", KindGC: "cpu"}[k]
	for _, m := range r.Unavailable {
		if needs != "" && m.What == needs {
			return needs
		}
	}
	return ""
}

// belowBefore notes where a finding is not quite new: what it is about was there before
// below the level of a finding.
func belowBefore(before *Report, f Finding) string {
	var was float64
	switch f.Kind {
	case KindHeap:
		was = before.Heap.Slope
	case KindGC:
		was = before.GC.Percent
	case KindContention:
		was = before.Contention.Seconds / max(before.WindowSeconds, 1) * 60
	case KindLeak, KindCPU, KindUnresponsive:
		return ""
	}
	if was <= 0 {
		return ""
	}
	return fmt.Sprintf("before: %s %s, below a finding", quantity(was), f.Unit)
}
