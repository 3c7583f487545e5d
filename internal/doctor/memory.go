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

// largeHeap is from where on a collection costs too much to be forced for each measurement:
// about 0.1 s of CPU time.
const largeHeap = 256 << 20

// sparing tells whether the target's own collections serve.
func (c *capturer) sparing() bool {
	return len(c.Heaps) > 0 && c.Heaps[0].Natural
}

// takeMemory measures the heap at the moments that are for it.
func (c *capturer) takeMemory(ctx context.Context, moment int) {
	if !slices.Contains(heapMoments, moment) {
		return
	}
	if moment == 0 {
		c.firstHeap(ctx)
		c.keep(ctx, "heap-before", "heap", costHeap, maxProfile, 0)
		return
	}
	if !c.sparing() {
		if moment%(moments/2) == 0 || len(c.Heaps) == 0 || c.Heaps[0].Stats.HeapAlloc < largeHeap {
			c.takeHeap(ctx, true)
		}
		return
	}
	c.takeHeap(ctx, false)
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
	if s.HeapAlloc >= largeHeap && s.LastGC > 0 && s.Profiled >= s.HeapAlloc/10 {
		return
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

// canHaveGrown tells whether so much was allocated between the first measurement and the
// last that the heap could have grown by what is called growth.
func canHaveGrown(heaps []Heap) bool {
	first, last := &heaps[0], &heaps[len(heaps)-1]
	allocated := last.Stats.TotalAlloc - first.Stats.TotalAlloc
	return allocated > max(minHeapGrowth, growthOf(first.live())*(last.At-first.At).Minutes())
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
