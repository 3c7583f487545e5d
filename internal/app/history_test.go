package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/api/gen/oas"
	"github.com/penstockhq/penstock/internal/app/audit"
	"github.com/penstockhq/penstock/internal/inventory"
	"github.com/penstockhq/penstock/internal/inventory/inventorypebble"
	"github.com/penstockhq/penstock/internal/pebbledb"
	"github.com/penstockhq/penstock/internal/testkit"
)

// trimAll removes all history that may go, and returns how many entries of the ledger and
// events are left.
func trimAll(t *testing.T, r *run) (left int64) {
	t.Helper()
	ctx := context.Background()
	if _, err := r.backend.trim(ctx, time.Nanosecond); err != nil {
		t.Fatal(err)
	}
	report, err := r.backend.audit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return report.Checked.Ledger + report.Checked.OrderEvents + report.Checked.StockEvents
}

// allTrimmed waits until all that has happened is followed and removed.
func allTrimmed(t *testing.T, r *run) {
	t.Helper()
	settled(t, r)
	until(t, "the ledger being followed and removed", func() bool { return trimAll(t, r) == 0 })
}

func TestHistory_WhatIsRemovedLeavesBalancesThatCanBeProven(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, open opener) {
		t.Helper()
		ctx, r := context.Background(), open(nil)
		r.shop(map[string]int64{"A": 1000, "B": 3})
		var waiting []oas.Order
		step := 0
		work := func() {
			for i := range 20 {
				step++
				o := r.mustPlace(key(step), want("A", 2))
				switch i % 4 {
				case 0:
					waiting = append(waiting, o) // paid in a later round, when its beginning is gone
				case 1:
					if _, err := r.client.CancelOrder(ctx, oas.CancelOrderParams{ID: o.ID}); err != nil {
						t.Fatal(err)
					}
				default:
					if _, err := r.pay(o.ID, "pay-"+o.ID); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		work()
		r.mustPlace("the-last-of-b", want("B", 3)) // an event of stock that is gone
		first, err := r.client.ListEvents(ctx, oas.ListEventsParams{Limit: oas.NewOptInt(1)})
		if err != nil {
			t.Fatal(err)
		}
		told := map[string]bool{}
		for round := range 3 {
			settled(t, r)
			for _, e := range read(t, r) {
				if told[e.ID] {
					t.Fatalf("event %s is told twice", e.ID)
				}
				told[e.ID] = true
			}
			allTrimmed(t, r)
			r.verified() // with nothing but the base
			if round == 1 {
				r.stop()
				r = open(nil)
			}
			for _, o := range waiting[:2] {
				if paid, err := r.pay(o.ID, fmt.Sprint("late-", round)); err != nil || paid.Status != oas.OrderStatusPaid {
					t.Fatal(paid, err)
				}
			}
			waiting = waiting[2:]
			work()
		}
		settled(t, r)

		_, err = r.client.ListEvents(ctx, oas.ListEventsParams{After: oas.NewOptString(first.Next)})
		refused(t, err, http.StatusGone, "events-removed")
		page, err := r.client.ListEvents(ctx, oas.ListEventsParams{Limit: oas.NewOptInt(1)})
		if err != nil || len(page.Events) != 1 || told[page.Events[0].ID] {
			t.Fatalf("from the beginning there are %v, %v", page, err)
		}
		if _, err = r.client.ListEvents(ctx, oas.ListEventsParams{After: oas.NewOptString(page.Next)}); err != nil {
			t.Fatalf("reading on from what is left: %v", err)
		}
	})
}

func TestHistory_ALossOfPowerWhileItIsRemovedLosesNothing(t *testing.T) {
	t.Parallel()
	d := newDisk()
	r := start(t, d.fs, nil)
	r.shop(map[string]int64{"A": 1_000_000})
	c := newCustomers(t, r)
	c.come(4, "A")
	for removed := (inventory.Base{}); removed.Seq < 300; {
		if _, err := r.backend.trim(context.Background(), time.Nanosecond); err != nil {
			t.Fatal(err)
		}
		removed = baseIn(t, d.afterCrash())
		c.acknowledge(1)
	}
	c.leave(r)
	again := start(t, d.afterCrash(), nil)
	c.kept(again)
	again.verified()
}

// baseIn audits the folder and returns what the removed part of its ledger came to.
func baseIn(t *testing.T, fs vfs.FS) inventory.Base {
	t.Helper()
	db, err := pebbledb.Open(pebbledb.Config{Dir: "data", FS: fs, MinFreeBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	report, err1 := audit.Folder(context.Background(), db)
	base, err2 := inventorypebble.Snapshot{R: db}.Base(context.Background())
	if err := errors.Join(err1, err2, db.Close()); err != nil || !report.OK {
		t.Fatalf("after a loss of power: %+v, %v", report, err)
	}
	return base
}

// cutInTheMiddle sells, removes all history, an open reservation's beginning with it, and
// sells on.
func cutInTheMiddle(t *testing.T, r *run) {
	t.Helper()
	r.shop(map[string]int64{"A": 10, "B": 1})
	paid := r.mustPlace("paid", want("A", 2))
	if _, err := r.pay(paid.ID, "p"); err != nil {
		t.Fatal(err)
	}
	r.mustPlace("open", want("A", 3))
	allTrimmed(t, r)
	r.mustPlace("after", want("A", 1))
	r.mustPlace("last", want("B", 1))
	settled(t, r)
}

func TestHistory_DamageShowsAlsoWhereItWasRemovedFromAFolder(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	r := start(t, fs, nil)
	cutInTheMiddle(t, r)
	r.stop()
	findsEveryLoss(t, fs, map[string]string{
		"ib": "stock", "ih": "reservation", "il": "ledger", "ie": "stock events", "oe": "events",
	})
}

func TestHistory_WhatIsNotRightIsNotRemoved(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]struct {
		prefix, want string
		copied       bool // the last row is in the place of the first; otherwise that is gone
	}{
		"an entry is gone":         {"il", "entry 2 follows entry 0", false},
		"an event is gone":         {"ie", "no stock event tells in its place that A", false},
		"an event tells of others": {"ie", "no stock event tells in its place that A", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, vfs.NewMem(), nil)
			r.shop(map[string]int64{"A": 1})
			r.mustPlace("last", want("A", 1))
			until(t, "the ledger being followed", func() bool {
				followed, err := r.orders.Followed(context.Background())
				return err == nil && followed == 2
			})
			db := r.backend.(*folder).db
			rows := rowsOf(t, db, damage.prefix)
			keys := slices.Sorted(maps.Keys(rows))
			err := db.Delete([]byte(keys[0]), nil)
			if damage.copied {
				err = db.Set([]byte(keys[0]), rows[keys[len(keys)-1]], nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			before := rowsOf(t, db, "i")
			if _, err := r.backend.trim(context.Background(), time.Nanosecond); err == nil || !contains(err, damage.want) {
				t.Errorf("removed from a damaged folder: %v", err)
			}
			if after := rowsOf(t, db, "i"); !maps.EqualFunc(before, after, bytes.Equal) {
				t.Errorf("there was %q and is %q", before, after)
			}
		})
	}
}

func TestHistory_DamageShowsAlsoWhereItWasRemovedFromPostgreSQL(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]string{
		"a level":                   "UPDATE stock SET on_hand = on_hand + 1 WHERE sku = 'A'",
		"a base":                    "UPDATE stock_base SET reserved = reserved + 1 WHERE sku = 'A'",
		"an open reservation":       "UPDATE reservations SET quantities = '{7}' WHERE status = 'active'",
		"the base of one":           "DELETE FROM reservations_base",
		"a status":                  "UPDATE orders SET status = 'cancelled' WHERE status = 'reserved'",
		"a ledger entry is gone":    "DELETE FROM stock_ledger WHERE seq = (SELECT min(seq) FROM stock_ledger)",
		"an event is gone":          "DELETE FROM order_events WHERE seq = (SELECT min(seq) FROM order_events)",
		"an event of stock is gone": "DELETE FROM stock_events",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, ctx := testkit.Database(t), context.Background()
			r := startOn(t, url, nil)
			cutInTheMiddle(t, r)
			conn, err := pgx.Connect(ctx, url)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(ctx)
			if done, err := conn.Exec(ctx, damage); err != nil || done.RowsAffected() == 0 {
				t.Fatal(done, err)
			}
			report, err := r.backend.audit(ctx)
			if err != nil || report.OK {
				t.Fatalf("the damage is not found: %+v, %v", report, err)
			}
		})
	}
}
