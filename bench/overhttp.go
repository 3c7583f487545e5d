package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const connections = 256

func fresh(flags ...string) (*server, error) {
	dir, err := os.MkdirTemp("", "penstock-bench-")
	if err != nil {
		return nil, err
	}
	return startServer(dir, flags...)
}

// freshShop starts a server on an empty folder with plenty of one SKU, and a client of it.
func freshShop() (*server, *client, error) {
	s, err := fresh()
	if err != nil {
		return nil, nil, err
	}
	c := newClient(s.url, connections)
	if err := c.stock("HOT"); err != nil {
		return nil, nil, errors.Join(err, s.discard())
	}
	return s, c, nil
}

// discard stops the server and removes its data.
func (s *server) discard() error { return errors.Join(s.stop(), os.RemoveAll(s.dir)) }

// httpExperiment measures both servers in turns, so that what the machine does meanwhile
// falls on both. The row of each is its turn with the median rate.
func httpExperiment(ctx context.Context, o options) error {
	var base, got []result
	for range o.scale(3, 1) {
		empty, err := startServer("")
		if err != nil {
			return err
		}
		r, err := newClient(empty.url, connections).orders(ctx, connections, o.took, hotOrder, nil)
		if err = errors.Join(err, empty.stop()); err != nil {
			return err
		}
		base = append(base, r)
		s, c, err := freshShop()
		if err != nil {
			return err
		}
		r, err = c.orders(ctx, connections, 2*o.took, hotOrder, nil)
		if err = errors.Join(err, s.discard()); err != nil {
			return err
		}
		got = append(got, r)
	}
	ratios := ""
	for i := range got {
		ratios += fmt.Sprintf(" %.2f", got[i].rate/base[i].rate)
	}
	middle := func(all []result) result {
		slices.SortFunc(all, func(a, b result) int { return cmp.Compare(a.rate, b.rate) })
		return all[len(all)/2]
	}
	bare, orders := middle(base), middle(got)
	row := func(name string, r result, turns string) []string {
		return []string{name, count(r.rate), ms(r.latency, 50), ms(r.latency, 99), ms(r.latency, 99.9), fmt.Sprintf("%.2f", r.rate/bare.rate), turns}
	}
	table([]string{"server, 256 connections", "answers/s", "p50 ms", "p99 ms", "p99.9 ms", "ratio", "turn by turn"}, [][]string{
		row("empty net/http handler", bare, ""), row("penstock, POST /v1/orders, durable", orders, strings.TrimSpace(ratios)),
	})
	return nil
}

// batchBody is a batch of orders with their keys.
func batchBody(buf *bytes.Buffer, orders int, sku func(i int) string) {
	buf.Reset()
	buf.WriteString(`{"orders":[`)
	for i := range orders {
		if i > 0 {
			buf.WriteByte(',')
		}
		n := keys.Add(1)
		line := append(buf.AvailableBuffer(), `{"idempotency_key":"batch-`...)
		line = strconv.AppendInt(line, n, 10)
		line = append(line, `","customer_id":"c-`...)
		line = strconv.AppendInt(line, n%100_000, 10)
		line = append(line, `","lines":[{"sku":"`...)
		line = append(line, sku(i)...)
		buf.Write(append(line, `","quantity":1}]}`...))
	}
	buf.WriteString(`]}`)
}

// batches places batches until took is over or total orders are placed, and returns how
// many were accepted a second.
func batches(ctx context.Context, c *client, workers, size int, took time.Duration, total int64) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, took)
	defer cancel()
	var accepted atomic.Int64
	var mu sync.Mutex
	var failure error
	var running sync.WaitGroup
	begin := time.Now()
	for range workers {
		running.Go(func() {
			var buf bytes.Buffer
			for ctx.Err() == nil && (total == 0 || accepted.Load() < total) {
				batchBody(&buf, size, func(int) string { return "HOT" })
				err := c.do("POST", "/v1/orders/batch", "", buf.Bytes(), func(status int, answer []byte) {
					ok := int64(bytes.Count(answer, []byte(`{"status":201`)))
					accepted.Add(ok)
					if ok != int64(size) {
						mu.Lock()
						failure = fmt.Errorf("a batch of %d: status %d, %d accepted: %.300s", size, status, ok, answer)
						mu.Unlock()
						cancel()
					}
				})
				if err != nil {
					mu.Lock()
					failure = err
					mu.Unlock()
					cancel()
				}
			}
		})
	}
	running.Wait()
	return float64(accepted.Load()) / time.Since(begin).Seconds(), failure
}

func batchExperiment(ctx context.Context, o options) error {
	var rows [][]string
	for _, workers := range []int{2, 4, 8} {
		s, c, err := freshShop()
		if err != nil {
			return err
		}
		rate, err := batches(ctx, c, workers, 500, 2*o.took, 0)
		if err = errors.Join(err, s.discard()); err != nil {
			return err
		}
		rows = append(rows, []string{strconv.Itoa(workers), count(rate)})
	}
	table([]string{"connections, 500 orders a request", "durable accepted orders/s"}, rows)
	return nil
}

// spread places total orders in batches, each of one unit of what next says.
func spread(ctx context.Context, c *client, total int64, next func() string) error {
	var failure error
	var buf bytes.Buffer
	for placed := int64(0); placed < total && failure == nil; placed += 500 {
		batchBody(&buf, 500, func(int) string { return next() })
		err := c.do("POST", "/v1/orders/batch", "", buf.Bytes(), func(status int, answer []byte) {
			if ok := bytes.Count(answer, []byte(`{"status":201`)); ok != 500 {
				failure = fmt.Errorf("a batch of 500: status %d, %d accepted: %.300s", status, ok, answer)
			}
		})
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
	}
	return failure
}
