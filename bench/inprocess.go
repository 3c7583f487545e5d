package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstockhq/penstock/internal/groupcommit"
	"github.com/penstockhq/penstock/internal/id"
	"github.com/penstockhq/penstock/internal/inventory"
	"github.com/penstockhq/penstock/internal/inventory/inventorypebble"
	"github.com/penstockhq/penstock/internal/pebbledb"
)

var hot = inventory.Place{SKU: "HOT", Location: inventory.DefaultLocation}

// openInventory opens a fresh store with plenty of the hot SKU.
func openInventory(ctx context.Context, batch groupcommit.Config) (*inventorypebble.Store, func() error, error) {
	dir, err := os.MkdirTemp("", "penstock-bench-")
	if err != nil {
		return nil, nil, err
	}
	db, err := pebbledb.Open(pebbledb.Config{Dir: dir})
	if err != nil {
		return nil, nil, err
	}
	store, err := inventorypebble.Open(inventorypebble.Config{Batch: batch}, db)
	if err != nil {
		return nil, nil, err
	}
	_, err = store.Execute(ctx, []inventory.Command{&inventory.ReceiveCommand{Place: hot, Quantity: inventory.MaxDelta}})
	return store, func() error {
		return errors.Join(store.Stop(context.Background()), db.Close(), os.RemoveAll(dir))
	}, err
}

// reserveRate has callers reserve one unit of the hot SKU each, again and again.
func reserveRate(ctx context.Context, o options, callers int, batch groupcommit.Config) (float64, error) {
	store, closeStore, err := openInventory(ctx, batch)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.took)
	defer cancel()
	rate, err := reserving(ctx, store, callers)
	if err != nil {
		return 0, err
	}
	return rate, closeStore()
}

// reserving has callers reserve one unit of the hot SKU each, again and again until ctx
// ends, and returns how many reservations a second were made.
func reserving(ctx context.Context, store *inventorypebble.Store, callers int) (float64, error) {
	var done atomic.Int64
	var failed atomic.Pointer[error]
	begin := time.Now()
	var callersDone sync.WaitGroup
	for range callers {
		callersDone.Go(func() {
			for ctx.Err() == nil {
				out, err := store.Execute(context.Background(), []inventory.Command{&inventory.ReserveCommand{
					ID: id.New(id.Reservation, time.Now()), TTL: time.Hour, Lines: []inventory.Line{{Place: hot, Quantity: 1}},
				}})
				if err == nil {
					err = out[0].Err
				}
				if err != nil {
					failed.Store(&err)
					return
				}
				done.Add(1)
			}
		})
	}
	callersDone.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return float64(done.Load()) / time.Since(begin).Seconds(), nil
}

func reserveExperiment(ctx context.Context, o options) error {
	const callers = 4096
	single, err := reserveRate(ctx, o, callers, groupcommit.Config{MaxBatch: 1, InFlight: 1, MaxQueue: 1 << 16})
	if err != nil {
		return err
	}
	rows := [][]string{{"one commit each", fmt.Sprint(callers), count(single), "1.0"}}
	for _, n := range []int{1, 64, 1024, callers} {
		rate, err := reserveRate(ctx, o, n, groupcommit.Config{})
		if err != nil {
			return err
		}
		rows = append(rows, []string{"group commit", fmt.Sprint(n), count(rate), fmt.Sprintf("%.1f", rate/single)})
	}
	table([]string{"way", "callers", "durable reservations/s", "ratio"}, rows)
	return nil
}

func inFlightExperiment(ctx context.Context, o options) error {
	var rows [][]string
	for _, callers := range []int{64, 1024, 4096} {
		base := 0.0
		for _, depth := range []int{1, 2, 3} {
			rate, err := reserveRate(ctx, o, callers, groupcommit.Config{InFlight: depth})
			if err != nil {
				return err
			}
			if depth == 1 {
				base = rate
			}
			rows = append(rows, []string{fmt.Sprint(callers), fmt.Sprint(depth), count(rate), fmt.Sprintf("%.2f", rate/base)})
		}
	}
	table([]string{"callers", "batches in flight", "durable reservations/s", "ratio to one"}, rows)
	return nil
}
