package app

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/api/gen/oas"
	"github.com/penstockhq/penstock/internal/inventory/inventorypg"
	"github.com/penstockhq/penstock/internal/order/orderpg"
	"github.com/penstockhq/penstock/internal/testkit"
)

// trimAll removes all history that may go, and returns how many rows of the ledger and of the
// orders' events are left.
func trimAll(t *testing.T, r *run, url string) (ledger, events int) {
	t.Helper()
	p := r.backend.(*postgres)
	stock, orders := r.inventory.(*inventorypg.Store), r.orders.(*orderpg.Store)
	ctx := context.Background()
	if err := p.trim(ctx, time.Nanosecond, stock, orders); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	err = conn.QueryRow(ctx, "SELECT (SELECT count(*) FROM stock_ledger), (SELECT count(*) FROM order_events)").Scan(&ledger, &events)
	if err != nil {
		t.Fatal(err)
	}
	return ledger, events
}

func TestHistory_WhatIsRemovedLeavesBalancesThatCanBeProven(t *testing.T) {
	t.Parallel()
	url, ctx := testkit.Database(t), context.Background()
	r := startOn(t, url, nil)
	r.shop(map[string]int64{"A": 1000, "B": 3})
	var open []oas.Order
	step := 0
	work := func() {
		for i := range 20 {
			step++
			o := r.mustPlace(key(step), want("A", 2))
			switch i % 4 {
			case 0:
				open = append(open, o) // paid in a later round, when its beginning is gone
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
	for round := range 3 {
		settled(t, r)
		until(t, "the ledger being followed and removed", func() bool {
			ledger, events := trimAll(t, r, url)
			return ledger == 0 && events == 0
		})
		settled(t, r) // with nothing but the base
		for _, o := range open[:2] {
			if paid, err := r.pay(o.ID, fmt.Sprint("late-", round)); err != nil || paid.Status != oas.OrderStatusPaid {
				t.Fatal(paid, err)
			}
		}
		open = open[2:]
		work()
	}
	settled(t, r)

	_, err = r.client.ListEvents(ctx, oas.ListEventsParams{After: oas.NewOptString(first.Next)})
	refused(t, err, http.StatusGone, "events-removed")
	page, err := r.client.ListEvents(ctx, oas.ListEventsParams{Limit: oas.NewOptInt(1)})
	if err != nil || len(page.Events) != 1 {
		t.Fatalf("from the beginning there are %v, %v", page, err)
	}
	if _, err = r.client.ListEvents(ctx, oas.ListEventsParams{After: oas.NewOptString(page.Next)}); err != nil {
		t.Fatalf("reading on from what is left: %v", err)
	}
}

func TestHistory_DamageShowsAlsoWhereHistoryWasRemoved(t *testing.T) {
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
			r.shop(map[string]int64{"A": 10, "B": 1})
			paid := r.mustPlace("paid", want("A", 2))
			if _, err := r.pay(paid.ID, "p"); err != nil {
				t.Fatal(err)
			}
			r.mustPlace("open", want("A", 3))
			settled(t, r)
			until(t, "the ledger being followed and removed", func() bool {
				ledger, events := trimAll(t, r, url)
				return ledger == 0 && events == 0
			})
			r.mustPlace("after", want("A", 1))
			r.mustPlace("last", want("B", 1))
			settled(t, r)
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
