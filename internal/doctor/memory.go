package doctor

import (
	"context"
	"errors"
	"slices"
	"time"
)

// This file measures the heap without being a burden. Right after a collection the live
// heap is known to the byte, and a small heap is collected in milliseconds: there each
// measurement forces a collection. A heap of gigabytes takes seconds of CPU time for that.
// There the target's own collections serve, of which the sampled profile keeps what was
// live; one is forced only where too few came by themselves and where enough was allocated
// that the heap could have grown.

// heapMoments are when the heap is measured: not in the first third after the beginning,
// when a CPU profile is taken and its buffers lie on the heap.
var heapMoments = []int{0, 5, 6, 9, moments}

// quietSteps begin where the target's own rate of allocation is measured: between two
// readings with nothing else of the examination in between.
var quietSteps = []int{4, 10}

// largeHeap is from where on a collection costs too much to be forced for each measurement:
// about 0.1 s of CPU time.
const largeHeap = 256 << 20

// sparing tells whether the target's own collections serve.
func (c *capturer) sparing() bool {
	return len(c.Heaps) > 0 && c.Heaps[0].Natural
}

// takeQuietly reads the statistics at the end of a quiet step, before anything else is
// asked at that moment, and again at once: the difference is what a reading takes.
func (c *capturer) takeQuietly(ctx context.Context, moment int) {
	if c.sparing() && slices.Contains(quietSteps, moment-1) {
		before := len(c.Heaps)
		c.takeHeap(ctx, false)
		if c.takeHeap(ctx, false); len(c.Heaps) == before+2 {
			c.Heaps[before].Quiet = true
		}
	}
}

// hugeHeap is from where on two forced collections are more than 3 % of two cores in half
// a minute.
const hugeHeap = 1 << 30

// extra is by how much the window grows because a huge heap is collected by force: so that
// what that costs is spread over more time.
func (c *capturer) extra() time.Duration {
	forced := slices.ContainsFunc(c.Heaps, func(h Heap) bool { return !h.Natural })
	if !c.sparing() || !forced || c.Heaps[0].live() < hugeHeap {
		return 0
	}
	return c.cfg.Window * 45 / 100
}

// takeMemory measures the heap at the moments that are for it.
func (c *capturer) takeMemory(ctx context.Context, moment int) {
	if moment == 0 {
		c.firstHeap(ctx)
		c.keep(ctx, "heap-before", "heap", costHeap, maxProfile, 0)
		return
	}
	due := slices.Contains(heapMoments, moment)
	if !c.sparing() {
		if due && (moment%(moments/2) == 0 || len(c.Heaps) == 0 || c.Heaps[0].Stats.HeapAlloc < largeHeap) {
			c.takeHeap(ctx, true)
		}
		return
	}
	if due || slices.Contains(quietSteps, moment) {
		c.takeHeap(ctx, false)
	}
	wanted := map[int]int{moments / 2: 2, moments: 3}[moment]
	if collections(c.Heaps) < wanted && canHaveGrown(c.Heaps) {
		c.takeHeap(ctx, true)
	}
}

// firstHeap measures the heap for the first time and finds out how it is to be measured.
func (c *capturer) firstHeap(ctx context.Context) {
	c.takeHeap(ctx, false)
	if len(c.Heaps) == 0 {
		return
	}
	s := c.Heaps[0].Stats
	if s.HeapAlloc >= largeHeap && s.LastGC > 0 && s.Profiled >= 0.4*s.HeapAlloc {
		return // else the last collection was before most of it was made, or there is no profile
	}
	times := 2 // pools keep what they hold for one collection more
	if s.HeapAlloc >= largeHeap {
		times = 1
	}
	for range times {
		c.Heaps = nil
		c.takeHeap(ctx, true)
	}
}

// collections counts the collections that measurements tell of.
func collections(heaps []Heap) int {
	ends := map[float64]bool{}
	for i := range heaps {
		if last := heaps[i].Stats.LastGC; last > 0 {
			ends[last] = true
		}
	}
	return len(ends)
}

// canHaveGrown tells whether the target allocates so much that its heap could have grown
// by what is called growth. What the examination makes it allocate is left out: to list
// 100,000 goroutines takes more than many a program does meanwhile.
func canHaveGrown(heaps []Heap) bool {
	first, last := &heaps[0], &heaps[len(heaps)-1]
	threshold := max(minHeapGrowth, growthOf(first.live())*(last.At-first.At).Minutes())
	if last.Stats.TotalAlloc-first.Stats.TotalAlloc < threshold {
		return false
	}
	rate, ok := ownRate(heaps)
	return !ok || rate*(last.At-first.At).Minutes() > threshold
}

// ownRate is how fast the target allocates of its own, in bytes a minute.
func ownRate(heaps []Heap) (rate float64, ok bool) {
	var bytes, minutes float64
	for i := 1; i < len(heaps); i++ {
		if heaps[i].Quiet && i+1 < len(heaps) {
			reading := heaps[i+1].Stats.TotalAlloc - heaps[i].Stats.TotalAlloc
			bytes += max(0, heaps[i].Stats.TotalAlloc-heaps[i-1].Stats.TotalAlloc-reading)
			minutes += (heaps[i].At - heaps[i-1].At).Minutes()
		}
	}
	return bytes / max(minutes, 1e-9), minutes > 0
}

func (c *capturer) takeHeap(ctx context.Context, collect bool) {
	path := "heap?debug=1"
	if collect {
		path = "heap?gc=1&debug=1"
	}
	body, err := c.target.open(ctx, path, maxText, 30*time.Second)
	if err != nil {
		c.count(err)
		if ctx.Err() == nil {
			c.missing("heap", costHeap, err)
		}
		return
	}
	at := c.since() // after the headers: the collection is done
	stats, err := readMemStats(body)
	err = errors.Join(err, body.Close())
	c.count(err)
	if err != nil {
		c.missing("heap", costHeap, err)
		return
	}
	c.Heaps = append(c.Heaps, Heap{At: at, Stats: stats, Natural: !collect})
}
