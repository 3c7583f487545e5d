package inventorypg

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/internal/inventory"
	"github.com/penstockhq/penstock/internal/pgdb"
)

// Snapshot reads everything that stores have written, for audits.
type Snapshot struct{ tx pgdb.Snapshot }

// NewSnapshot returns a Snapshot of what tx shows.
func NewSnapshot(tx pgdb.Snapshot) Snapshot { return Snapshot{tx} }

// Levels calls fn for every level, in order of place.
func (s Snapshot) Levels(ctx context.Context, fn func(inventory.Level) error) error {
	return s.tx.Each(ctx, "SELECT "+levelColumns+" FROM stock ORDER BY sku, location", func(rows pgx.Rows) error {
		l, err := scanLevel(rows)
		if err != nil {
			return err
		}
		return fn(l)
	})
}

// Reservations calls fn for every reservation, in no order.
func (s Snapshot) Reservations(ctx context.Context, fn func(*inventory.Reservation) error) error {
	return s.tx.Each(ctx, "SELECT "+reservationColumns+" FROM reservations", func(rows pgx.Rows) error {
		r, err := scanReservation(rows)
		if err != nil {
			return err
		}
		return fn(r)
	})
}

// Ledger calls fn for every entry, oldest first.
func (s Snapshot) Ledger(ctx context.Context, fn func(inventory.Entry) error) error {
	return s.tx.Each(ctx, "SELECT "+entryColumns+" FROM stock_ledger ORDER BY seq", func(rows pgx.Rows) error {
		e, err := scanEntry(rows)
		if err != nil {
			return err
		}
		return fn(e)
	})
}

// Crossings calls fn for every crossing, oldest first.
func (s Snapshot) Crossings(ctx context.Context, fn func(inventory.Crossing) error) error {
	return s.tx.Each(ctx, "SELECT "+crossingColumns+" FROM stock_events ORDER BY seq", func(rows pgx.Rows) error {
		c, err := scanCrossing(rows)
		if err != nil {
			return err
		}
		return fn(c)
	})
}

// Base returns what the part of the ledger that was removed came to.
func (s Snapshot) Base(ctx context.Context) (base inventory.Base, err error) {
	if base.Seq, err = s.tx.Counter(ctx, pgdb.CounterLedgerTrimmed); err != nil {
		return base, err
	}
	err = s.tx.Each(ctx, "SELECT "+levelColumns+" FROM stock_base", func(rows pgx.Rows) error {
		l, err := scanLevel(rows)
		base.Levels = append(base.Levels, l)
		return err
	})
	if err != nil {
		return base, err
	}
	err = s.tx.Each(ctx, "SELECT reservation_id, coalesce(order_id, ''), open, committed FROM reservations_base", func(rows pgx.Rows) error {
		var h inventory.BaseHold
		err := rows.Scan(&h.ReservationID, &h.OrderID, &h.Open, &h.Committed)
		base.Holds = append(base.Holds, h)
		return err
	})
	return base, err
}

// Numbered returns the numbers that the counters gave to the last entry of the ledger and
// to the last crossing, and the number of the last crossing that was removed.
func (s Snapshot) Numbered(ctx context.Context) (ledger, crossings, removed uint64, err error) {
	for counter, value := range map[string]*uint64{
		pgdb.CounterLedger: &ledger, pgdb.CounterStockEvents: &crossings, pgdb.CounterStockEventsTrimmed: &removed,
	} {
		if *value, err = s.tx.Counter(ctx, counter); err != nil {
			return 0, 0, 0, err
		}
	}
	return ledger, crossings, removed, nil
}
