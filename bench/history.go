package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/penstockhq/penstock/internal/groupcommit"
	"github.com/penstockhq/penstock/internal/id"
	"github.com/penstockhq/penstock/internal/inventory"
	"github.com/penstockhq/penstock/internal/inventory/inventorypebble"
)

// historyExperiment measures a store while parts of its ledger are removed, in turns with
// the same store left alone, so that what its growth costs falls on both.
func historyExperiment(ctx context.Context, o options) error {
	store, closeStore, err := openInventory(ctx, groupcommit.Config{})
	if err != nil {
		return err
	}
	entries := uint64(o.scale(900_000, 48_000))
	if err := fillLedger(ctx, store, int(entries)); err != nil {
		return err
	}
	const callers, turns = 1024, 3
	old, took, removed := time.Now(), time.Duration(0), int64(0)
	var alone, beside []float64
	for turn := range uint64(turns) {
		idle, cancel := context.WithTimeout(ctx, o.took)
		rate, err := reserving(idle, store, callers)
		if cancel(); err != nil {
			return err
		}
		alone = append(alone, rate)

		removing, done := context.WithCancel(ctx)
		begin, trimmed := time.Now(), make(chan error, 1)
		go func() { // ends with the removal, which is waited for
			defer done()
			n, err := store.Trim(ctx, old, entries*(turn+1)/turns)
			removed += n
			trimmed <- err
		}()
		rate, err = reserving(removing, store, callers)
		if err = errors.Join(err, <-trimmed); err != nil {
			return err
		}
		beside, took = append(beside, rate), took+time.Since(begin)
	}
	table([]string{"1,024 callers, one hot SKU", "reservations/s, median", "ratio", "turn by turn"}, [][]string{
		{"left alone", count(median(alone)), "1.00", eachCount(alone)},
		{"while old entries are removed", count(median(beside)), fmt.Sprintf("%.2f", median(beside)/median(alone)), eachCount(beside)},
	})
	fmt.Printf("\nRemoved were %s entries, %s/s.\n", count(float64(removed)), count(float64(removed)/took.Seconds()))
	return closeStore()
}

func eachCount(rates []float64) string {
	var all []string
	for _, rate := range rates {
		all = append(all, count(rate))
	}
	return strings.Join(all, " ")
}

// fillLedger makes so many entries of the ledger: half of them hold a unit, and half give
// it back.
func fillLedger(ctx context.Context, store *inventorypebble.Store, entries int) error {
	const chunk = 4000
	for made := 0; made < entries; made += 2 * chunk {
		var holds, releases []inventory.Command
		for range chunk {
			rsv := id.New(id.Reservation, time.Now())
			holds = append(holds, &inventory.ReserveCommand{ID: rsv, TTL: time.Hour, Lines: []inventory.Line{{Place: hot, Quantity: 1}}})
			releases = append(releases, &inventory.ReleaseCommand{ID: rsv})
		}
		for _, cmds := range [][]inventory.Command{holds, releases} {
			out, err := store.Execute(ctx, cmds)
			if err != nil {
				return err
			}
			for _, o := range out {
				if o.Err != nil {
					return o.Err
				}
			}
		}
	}
	return nil
}
