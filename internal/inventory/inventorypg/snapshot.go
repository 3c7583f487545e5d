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

// CrossingsTrimmed returns the number of the last crossing that was removed.
func (s Snapshot) CrossingsTrimmed(ctx context.Context) (uint64, error) {
	return s.tx.Counter(ctx, pgdb.CounterStockEventsTrimmed)
}

// Numbered returns the numbers that the counters gave to the last entry of the ledger and
// to the last crossing.
func (s Snapshot) Numbered(ctx context.Context) (ledger, crossings uint64, err error) {
	if ledger, err = s.tx.Counter(ctx, pgdb.CounterLedger); err != nil {
		return 0, 0, err
	}
	crossings, err = s.tx.Counter(ctx, pgdb.CounterStockEvents)
	return ledger, crossings, err
}
