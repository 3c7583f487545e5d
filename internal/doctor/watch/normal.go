// Package watch learns what is normal for a program, by the hour of the week, and says
// when it leaves that, with the finding behind it.
//
// Samples are light (doctor.Prober); a full examination is made only when something left
// its band. What a reader would get wrong: a band is made of medians and of the median
// distance from them, not of means and standard deviations, so that the very outage that
// is to be seen does not widen the band for the next one.
package watch

import (
	"math"
	"slices"
	"time"

	"github.com/penstockhq/penstock/internal/doctor"
)

// Metrics that are learnt.
const (
	Goroutines = "goroutines"
	Heap       = "heap_bytes"
	GCShare    = "gc_share"
	Latency    = "latency_seconds"
)

// Metrics lists them.
func Metrics() []string { return []string{Goroutines, Heap, GCShare, Latency} }

// valueOf reads a metric of a sample.
func valueOf(l doctor.Light, metric string) float64 {
	switch metric {
	case Goroutines:
		return l.Goroutines
	case Heap:
		return l.Heap
	case GCShare:
		return l.GCShare
	}
	return l.Latency
}

const (
	hoursOfWeek = 7 * 24
	// blockTime is what one remembered value stands for: the median of its samples.
	blockTime = 5 * time.Minute
	// keepBlocks of each hour are four weeks.
	keepBlocks = 4 * int(time.Hour/blockTime)
	// enoughBlocks are an hour. With less there is no band.
	enoughBlocks = int(time.Hour / blockTime)
	// guessed is how much wider a band is that is not of its own hour: on its first day a
	// program's lunchtime is news, and no alert.
	guessed = 3
	// spreads is how many (normal) standard deviations a band reaches. With thousands of
	// samples a day and values that are anything but normal, three would ring daily.
	spreads = 6
)

// floors are the least half widths of bands: a share of the median, and an absolute one.
var floors = map[string]struct{ share, least float64 }{
	Goroutines: {0.25, 20}, Heap: {0.25, 8 << 20}, GCShare: {0.25, 0.05}, Latency: {1, 0.05},
}

// Band is the range that is normal.
type Band struct {
	Low    float64 `json:"low"`
	Median float64 `json:"median"`
	High   float64 `json:"high"`
	Known  bool    `json:"known"` // false while too little has been learnt
}

// Outside tells on which side of the band v is: -1, 0 or 1.
func (b Band) Outside(v float64) int {
	switch {
	case !b.Known:
		return 0
	case v < b.Low:
		return -1
	case v > b.High:
		return 1
	}
	return 0
}

// Normal is what was learnt of one target. It is saved as JSON.
type Normal struct {
	// Hours are, by metric and hour of the week from Monday 0:00 UTC, the medians of the
	// last blocks, the newest last.
	Hours map[string][][]float64 `json:"hours"`
	// Open is the block in the making.
	Open  map[string][]float64 `json:"open"`
	Begun time.Time            `json:"begun"` // of the open block
}

func newNormal() *Normal {
	n := &Normal{Hours: map[string][][]float64{}, Open: map[string][]float64{}}
	for _, m := range Metrics() {
		n.Hours[m] = make([][]float64, hoursOfWeek)
	}
	return n
}

// hourOf is the hour of the week.
func hourOf(t time.Time) int {
	t = t.UTC()
	return (int(t.Weekday())+6)%7*24 + t.Hour()
}

// Learn takes in a sample. Samples come in the order of their times.
func (n *Normal) Learn(at time.Time, l doctor.Light) {
	if block := at.Truncate(blockTime); !block.Equal(n.Begun) {
		n.close()
		n.Begun = block
	}
	for _, m := range Metrics() {
		if len(n.Open[m]) < 1000 {
			n.Open[m] = append(n.Open[m], valueOf(l, m))
		}
	}
}

// close turns the open block into one remembered value.
func (n *Normal) close() {
	hour := hourOf(n.Begun)
	for _, m := range Metrics() {
		if len(n.Open[m]) == 0 {
			continue
		}
		n.Hours[m][hour] = append(n.Hours[m][hour], median(n.Open[m]))
		if more := len(n.Hours[m][hour]) - keepBlocks; more > 0 {
			n.Hours[m][hour] = slices.Delete(n.Hours[m][hour], 0, more)
		}
		n.Open[m] = n.Open[m][:0]
	}
}

// Band is the normal range of a metric at a time: by what was seen in that hour of the
// week; while that is less than an hour's worth, by the same hour of other days, and else
// by all that was seen, both in a wider band.
func (n *Normal) Band(metric string, at time.Time) Band {
	hour := hourOf(at)
	seen := n.Hours[metric][hour]
	wider := 1.0
	if len(seen) < enoughBlocks {
		wider = guessed
		seen = nil
		for day := range 7 {
			seen = append(seen, n.Hours[metric][day*24+hour%24]...)
		}
	}
	if len(seen) < enoughBlocks {
		seen = slices.Concat(n.Hours[metric]...)
	}
	if len(seen) < enoughBlocks {
		return Band{}
	}
	mid := median(seen)
	distances := make([]float64, len(seen))
	for i, v := range seen {
		distances[i] = math.Abs(v - mid)
	}
	// 1.4826 makes a standard deviation of the median distance, for normal values.
	half := spreads * 1.4826 * median(distances)
	floor := floors[metric]
	half = wider * max(half, floor.share*mid, floor.least)
	return Band{Low: max(0, mid-half), Median: mid, High: mid + half, Known: true}
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if len(v)%2 == 1 {
		return v[len(v)/2]
	}
	return (v[len(v)/2-1] + v[len(v)/2]) / 2
}
