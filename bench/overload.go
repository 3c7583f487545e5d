package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"time"
)

// paced returns a pause that lets rate requests a second through, however many
// workers ask. Latency is counted from when a request is sent.
func paced(rate float64) func(context.Context) error {
	var sent atomic.Int64
	begin := time.Now()
	return func(ctx context.Context) error {
		due := begin.Add(time.Duration(float64(sent.Add(1)) / rate * float64(time.Second)))
		wait := time.Until(due)
		if wait <= 0 {
			return nil
		}
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// basketLines is how many lines the larger orders have. Refusing one is cheap next to
// accepting it, so that several times capacity can really be sent.
const basketLines = 50

// basket is one unit each of basketLines SKUs.
func basket(n int64) []byte {
	b := fmt.Appendf(nil, `{"customer_id":"c-%d","lines":[`, n%100_000)
	for i := range basketLines {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `{"sku":"%s","quantity":1}`, skuName(i))
	}
	return append(b, "]}"...)
}

// overloadExperiment finds what the server can take, then offers less and much more.
func overloadExperiment(ctx context.Context, o options) error {
	skus := []string{"HOT"}
	for i := range basketLines {
		skus = append(skus, skuName(i))
	}
	for _, kind := range []struct {
		name string
		body func(n int64) []byte
	}{{"Orders of one line", hotOrder}, {fmt.Sprintf("Orders of %d lines", basketLines), basket}} {
		if err := overloaded(ctx, o, kind.name, kind.body, skus); err != nil {
			return err
		}
	}
	return nil
}

func overloaded(ctx context.Context, o options, name string, body func(n int64) []byte, skus []string) error {
	dir, err := os.MkdirTemp("", "penstock-bench-")
	if err != nil {
		return err
	}
	s, confined, err := startOnOneCore(dir)
	if err != nil {
		return err
	}
	if confined {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(1, runtime.NumCPU()-1)))
	}
	const crowd = 1024
	c := newClient(s.url, crowd)
	if err := c.stock(skus...); err != nil {
		return err
	}
	capacity, err := c.orders(ctx, connections, o.took, body, nil)
	if err != nil {
		return err
	}
	var rows [][]string
	calm := 0.0
	for _, load := range []float64{0.8, 4} {
		workers := connections
		if load > 1 {
			workers = crowd
		}
		got, err := c.orders(ctx, workers, 2*o.took, body, paced(capacity.rate*load))
		if err != nil {
			return err
		}
		resident, err := s.residentBytes()
		if err != nil {
			return err
		}
		p99 := float64(got.latency.ValueAtPercentile(99))
		if calm == 0 {
			calm = p99
		}
		offered := float64(got.accepted+got.refused) / (2 * o.took.Seconds())
		rows = append(rows, []string{
			fmt.Sprintf("%.1f × capacity asked, %.1f × sent", load, offered/capacity.rate), count(got.rate), count(float64(got.refused) / (2 * o.took.Seconds())),
			ms(got.latency, 50), ms(got.latency, 99), fmt.Sprintf("%.1f", p99/calm), ms(got.refusedLatency, 99), fmt.Sprintf("%.0f", resident/1e6),
		})
	}
	fmt.Printf("%s. Capacity: %s accepted orders/s at %d connections; the server has one core to itself: %v; %d connections at 4×.\n\n",
		name, count(capacity.rate), connections, confined, crowd)
	table([]string{"load", "accepted/s", "refused/s", "accepted p50 ms", "accepted p99 ms", "ratio of p99", "refused p99 ms", "resident MB"}, rows)
	fmt.Println()
	return s.discard()
}
