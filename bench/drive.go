package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// placer places the n-th order, of one unit of the given SKU, and reports whether it was
// accepted; sold out is no error. Its client's number lets it keep something for each.
type placer func(ctx context.Context, client int, n int64, sku string) (accepted bool, err error)

// demand is what the clients of a run want.
type demand struct {
	clients int
	took    time.Duration
	skus    int  // "HOT" for 1, else that many of equal popularity
	sellOut bool // stop when something is refused
}

func (d demand) sku(random *rand.Rand) string {
	if d.skus == 1 {
		return "HOT"
	}
	return skuName(random.IntN(d.skus))
}

// drive runs closed-loop clients against place.
func drive(ctx context.Context, d demand, place placer) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, d.took)
	defer cancel()
	all := result{latency: histogram(), refusedLatency: histogram()}
	var mu sync.Mutex
	var failure error
	var running sync.WaitGroup
	var n atomic.Int64
	begin := time.Now()
	for client := range d.clients {
		running.Go(func() {
			mine := result{latency: histogram()}
			random := rand.New(rand.NewPCG(uint64(client), 1))
			for ctx.Err() == nil {
				sent := time.Now()
				ok, err := place(ctx, client, n.Add(1), d.sku(random))
				if err != nil {
					if ctx.Err() == nil {
						mu.Lock()
						failure = err
						mu.Unlock()
						cancel()
					}
					break
				}
				if !ok {
					mine.refused++
					if d.sellOut {
						break
					}
					continue
				}
				mine.accepted++
				_ = mine.latency.RecordValue(time.Since(sent).Microseconds()) // beyond a minute does not happen
			}
			mu.Lock()
			defer mu.Unlock()
			all.accepted += mine.accepted
			all.refused += mine.refused
			all.latency.Merge(mine.latency)
		})
	}
	running.Wait()
	all.rate = float64(all.accepted) / time.Since(begin).Seconds()
	return all, failure
}

// snapshot is a result on its way from one process to another.
type snapshot struct {
	Accepted, Refused int64
	Rate              float64
	Latency           *hdrhistogram.Snapshot
	Error             string
}

func (s snapshot) result() result {
	return result{accepted: s.Accepted, refused: s.Refused, rate: s.Rate, latency: hdrhistogram.Import(s.Latency)}
}
