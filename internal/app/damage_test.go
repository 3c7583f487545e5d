package app

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/internal/testkit"
)

func TestVerify_FindsWhatNoConstraintOfTheDatabaseRefuses(t *testing.T) {
	t.Parallel()
	url, ctx := testkit.Database(t), context.Background()
	r := startOn(t, url, nil)
	r.shop(map[string]int64{"A": 10})
	paid := r.mustPlace("paid", want("A", 2))
	if _, err := r.pay(paid.ID, "p"); err != nil {
		t.Fatal(err)
	}
	open := r.mustPlace("open", want("A", 3))
	settled(t, r)
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	exec := func(sql string) (rows int64) {
		t.Helper()
		done, err := conn.Exec(ctx, sql)
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		return done.RowsAffected()
	}
	tables := []string{"orders", "order_lines", "order_events", "idempotency_keys", "reservations", "stock", "stock_ledger", "counters"}
	for _, table := range tables {
		exec("CREATE TABLE saved_" + table + " AS TABLE " + table)
	}
	for damage, says := range map[string]string{
		"UPDATE orders SET status = 'lost' WHERE status = 'reserved'":                                              open.ID,
		"UPDATE orders SET customer_id = '' WHERE status = 'paid'":                                                 paid.ID,
		"UPDATE orders SET currency = '' WHERE status = 'paid'":                                                    paid.ID,
		"UPDATE orders SET total = -total WHERE status = 'paid'":                                                   paid.ID,
		"UPDATE orders SET version = 0 WHERE status = 'paid'":                                                      paid.ID,
		"WITH o AS (UPDATE orders SET total = -total) UPDATE order_lines SET unit_price = -unit_price":             paid.ID,
		"UPDATE order_events SET status = 'lost' WHERE seq = 1":                                                    "event 1",
		"UPDATE order_events SET seq = -seq":                                                                       "",
		"UPDATE reservations SET status = 'lost' WHERE status = 'committed'":                                       paid.ReservationID,
		"UPDATE stock SET version = 0":                                                                             "stock: A at main",
		"UPDATE stock_ledger SET kind = 'lost' WHERE seq = 2":                                                      "entry 2",
		"UPDATE stock_ledger SET seq = -seq WHERE seq = 2":                                                         "",
		"UPDATE idempotency_keys SET key_hash = '' WHERE order_id = (SELECT id FROM orders WHERE status = 'paid')": paid.ID,
		"UPDATE counters SET value = -1 WHERE name = 'ledger'":                                                     "ledger",
		"UPDATE counters SET value = value - 1 WHERE name = 'ledger'":                                              "ledger",
		"UPDATE counters SET value = value + 1 WHERE name = 'stock_events'":                                        "stock events",
		"UPDATE counters SET value = value - 1 WHERE name = 'order_events'":                                        "events",
	} {
		if exec(damage) == 0 {
			t.Errorf("%s damages nothing", damage)
		}
		report, err := r.backend.audit(ctx)
		if err == nil && report.OK || !strings.Contains(fmt.Sprint(report, err), says) {
			t.Errorf("%s: %+v, %v; want %q to be named", damage, report, err, says)
		}
		for _, table := range tables {
			exec("DELETE FROM " + table)
			exec("INSERT INTO " + table + " TABLE saved_" + table)
		}
	}
	r.verified()
}
