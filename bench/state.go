package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/penstockhq/penstock/internal/catalogue"
	"github.com/penstockhq/penstock/internal/catalogue/cataloguepebble"
	"github.com/penstockhq/penstock/internal/inventory"
	"github.com/penstockhq/penstock/internal/inventory/inventorypebble"
	"github.com/penstockhq/penstock/internal/pebbledb"
)

// storedExperiment measures a full server against empty ones, in turns, so that what the
// machine does meanwhile falls on both.
func storedExperiment(ctx context.Context, o options) error {
	total := int64(o.scale(2_000_000, 20_000))
	full, filled, settled, err := fill(ctx, total)
	if err != nil {
		return err
	}
	var emptySingle, emptyBatched, fullSingle, fullBatched []float64
	for range o.scale(3, 1) {
		empty, err := fresh()
		if err != nil {
			return err
		}
		single, batched, err := rates(ctx, empty, o)
		if err = errors.Join(err, empty.discard()); err != nil {
			return err
		}
		emptySingle, emptyBatched = append(emptySingle, single), append(emptyBatched, batched)
		if _, err := full.settle(ctx); err != nil {
			return err
		}
		if single, batched, err = rates(ctx, full, o); err != nil {
			return err
		}
		fullSingle, fullBatched = append(fullSingle, single), append(fullBatched, batched)
	}
	if err := full.discard(); err != nil {
		return err
	}
	row := func(name string, empty, full []float64) []string {
		var ratios []string
		for i := range empty {
			ratios = append(ratios, fmt.Sprintf("%.2f", full[i]/empty[i]))
		}
		return []string{name, count(median(empty)), count(median(full)), fmt.Sprintf("%.2f", median(full)/median(empty)), strings.Join(ratios, " ")}
	}
	table([]string{"orders/s, median", "empty store", fmt.Sprintf("%s orders stored", count(float64(total))), "ratio", "turn by turn"}, [][]string{
		row("POST /v1/orders, 256 connections", emptySingle, fullSingle),
		row("POST /v1/orders/batch, 500 each", emptyBatched, fullBatched),
	})
	fmt.Printf("\nFilling took %.0f s, at %s orders/s; then %.0f s until compaction had caught up.\n",
		filled.Seconds(), count(float64(total)/filled.Seconds()), settled.Seconds())
	return nil
}

// fill starts a server and has it take so many orders.
func fill(ctx context.Context, total int64) (s *server, filled, settled time.Duration, err error) {
	s, c, err := freshShop()
	if err != nil {
		return nil, 0, 0, err
	}
	begin := time.Now()
	if _, err := batches(ctx, c, 4, 500, time.Hour, total); err != nil {
		return nil, 0, 0, err
	}
	filled = time.Since(begin)
	settled, err = s.settle(ctx)
	return s, filled, settled, err
}

// rates measures orders one by one, and in batches of 500.
func rates(ctx context.Context, s *server, o options) (single, batched float64, err error) {
	c := newClient(s.url, connections)
	if err := c.stock("HOT"); err != nil {
		return 0, 0, err
	}
	got, err := c.orders(ctx, connections, o.took, hotOrder, nil)
	if err != nil {
		return 0, 0, err
	}
	batched, err = batches(ctx, c, 4, 500, o.took, 0)
	return got.rate, batched, err
}

func median(v []float64) float64 {
	sorted := slices.Sorted(slices.Values(v))
	return sorted[len(sorted)/2]
}

// settle waits until no compaction has run for a second.
func (s *server) settle(ctx context.Context) (time.Duration, error) {
	begin, quiet := time.Now(), 0
	for quiet < 10 {
		res, err := http.Get(s.ops + "/metrics")
		if err != nil {
			return 0, err
		}
		body, err := io.ReadAll(res.Body)
		if err = errors.Join(err, res.Body.Close(), ctx.Err()); err != nil {
			return 0, err
		}
		if quiet++; !bytes.Contains(body, []byte("\npenstock_storage_compactions_running 0\n")) {
			quiet = 0
		}
		time.Sleep(100 * time.Millisecond)
	}
	return time.Since(begin), nil
}

// fillSKUs writes n SKUs with stock straight into a data folder.
func fillSKUs(ctx context.Context, dir string, n int) error {
	db, err := pebbledb.Open(pebbledb.Config{Dir: dir})
	if err != nil {
		return err
	}
	skus, err := cataloguepebble.Open(cataloguepebble.Config{}, db)
	if err != nil {
		return err
	}
	stock, err := inventorypebble.Open(inventorypebble.Config{}, db)
	if err != nil {
		return err
	}
	const chunk = 4000
	for at := 0; at < n && err == nil; at += chunk {
		var puts []catalogue.Put
		var cmds []inventory.Command
		for i := at; i < min(at+chunk, n); i++ {
			code := sku(i)
			puts = append(puts, catalogue.Put{SKU: catalogue.SKU{
				Code: code, Title: "A title of the usual length, number " + code, Amount: 185, Currency: "GBP", Policy: "reserve",
			}})
			cmds = append(cmds, &inventory.ReceiveCommand{
				Place: inventory.Place{SKU: code, Location: inventory.DefaultLocation}, Quantity: 1000, Reference: "po-1",
			})
		}
		if _, err = skus.Put(ctx, puts); err == nil {
			_, err = stock.Execute(ctx, cmds)
		}
	}
	return errors.Join(err, skus.Stop(ctx), stock.Stop(ctx), db.Close())
}

func sku(i int) string { return fmt.Sprintf("SKU-%07d", i) }

// memoryExperiment measures a server with many SKUs, then also with many orders.
func memoryExperiment(ctx context.Context, o options) error {
	skus, orders := o.scale(1_000_000, 20_000), int64(o.scale(1_000_000, 20_000))
	dir, err := os.MkdirTemp("", "penstock-bench-")
	if err != nil {
		return err
	}
	if err := fillSKUs(ctx, dir, skus); err != nil {
		return err
	}
	var rows [][]string
	measure := func(what string) error {
		s, err := startServer(dir)
		if err != nil {
			return err
		}
		resident, err := s.residentBytes()
		rows = append(rows, []string{what, fmt.Sprintf("%.0f", resident/1e6), fmt.Sprintf("%.2f", s.readyTook.Seconds())})
		return errors.Join(err, s.stop())
	}
	if err := measure(fmt.Sprintf("%s SKUs in stock", count(float64(skus)))); err != nil {
		return err
	}
	s, err := startServer(dir)
	if err != nil {
		return err
	}
	var next atomic.Int64
	if err := spread(ctx, newClient(s.url, connections), orders, func() string { return sku(int(next.Add(7919) % int64(skus))) }); err != nil {
		return err
	}
	resident, err := s.residentBytes()
	rows = append(rows, []string{fmt.Sprintf("the same, right after taking %s orders", count(float64(orders))), fmt.Sprintf("%.0f", resident/1e6), ""})
	if err = errors.Join(err, s.stop()); err != nil {
		return err
	}
	if err := measure(fmt.Sprintf("%s SKUs and %s orders, all of them open", count(float64(skus)), count(float64(orders)))); err != nil {
		return err
	}
	table([]string{"data folder", "resident MB", "start-up s"}, rows)
	return os.RemoveAll(dir)
}
