package inventorypg

import (
	"context"

	"github.com/penstockhq/penstock/internal/inventory"
	"github.com/penstockhq/penstock/internal/pgdb"
)

// Source is an inventory that can be copied; each method calls fn for everything, in the
// same order every time.
type Source interface {
	Levels(ctx context.Context, fn func(inventory.Level) error) error
	Reservations(ctx context.Context, fn func(*inventory.Reservation) error) error
	Base(ctx context.Context) (inventory.Base, error)
	Ledger(ctx context.Context, fn func(inventory.Entry) error) error
	Crossings(ctx context.Context, fn func(inventory.Crossing) error) error
	// CrossingsTrimmed returns the number of the last crossing that was removed.
	CrossingsTrimmed(ctx context.Context) (uint64, error)
	Remembered(ctx context.Context, fn func(hash [16]byte, m *inventory.Remembered) error) error
}

// CopyFrom copies an inventory into the database; told is called as it goes on.
func CopyFrom(ctx context.Context, c *pgdb.Copy, from Source, told func(table string, rows int64)) error {
	for _, part := range []func(context.Context, *pgdb.Copy, Source, func(string, int64)) error{
		copyLedger, copyLevels, copyReservations, copyCrossings, copyRemembered,
	} {
		if err := part(ctx, c, from, told); err != nil {
			return err
		}
	}
	return nil
}

func copyLedger(ctx context.Context, c *pgdb.Copy, from Source, told func(string, int64)) error {
	base, err := from.Base(ctx)
	if err == nil {
		err = copyBase(ctx, c, &base, told)
	}
	if err != nil {
		return err
	}
	columns := []string{"seq", "time", "kind", "sku", "location", "policy", "quantity", "reservation_id", "order_id", "reference", "reason"}
	numbers := pgdb.Numbers{Counter: pgdb.CounterLedger, Removed: base.Seq, Trimmed: pgdb.CounterLedgerTrimmed}
	return c.Part(ctx, "stock_ledger", columns, numbers, func(add func([]any) error) error {
		return from.Ledger(ctx, func(e inventory.Entry) error {
			return add([]any{
				e.Seq, e.Time, kindName(e.Kind), e.Place.SKU, e.Place.Location, e.Policy.String(), e.Quantity,
				pgdb.Optional(e.ReservationID), pgdb.Optional(e.OrderID), pgdb.Optional(e.Reference), pgdb.Optional(e.Reason),
			})
		})
	}, told)
}

// copyBase copies what the removed part of the ledger came to.
func copyBase(ctx context.Context, c *pgdb.Copy, base *inventory.Base, told func(string, int64)) error {
	err := c.Part(ctx, "stock_base", []string{"sku", "location", "on_hand", "reserved", "version"}, pgdb.Numbers{}, func(add func([]any) error) error {
		for _, l := range base.Levels {
			if err := add([]any{l.SKU, l.Location, l.OnHand, l.Reserved, l.Version}); err != nil {
				return err
			}
		}
		return nil
	}, told)
	if err != nil {
		return err
	}
	return c.Part(ctx, "reservations_base", []string{"reservation_id", "order_id", "open", "committed"}, pgdb.Numbers{}, func(add func([]any) error) error {
		for _, h := range base.Holds {
			if err := add([]any{h.ReservationID, pgdb.Optional(h.OrderID), h.Open, h.Committed}); err != nil {
				return err
			}
		}
		return nil
	}, told)
}

func copyLevels(ctx context.Context, c *pgdb.Copy, from Source, told func(string, int64)) error {
	columns := []string{"sku", "location", "on_hand", "reserved", "track", "version"}
	return c.Part(ctx, "stock", columns, pgdb.Numbers{}, func(add func([]any) error) error {
		return from.Levels(ctx, func(l inventory.Level) error {
			// Only the policy "track" sells below zero; what never did gets the mark when it is sold so.
			return add([]any{l.SKU, l.Location, l.OnHand, l.Reserved, l.Available() < 0, l.Version})
		})
	}, told)
}

func copyReservations(ctx context.Context, c *pgdb.Copy, from Source, told func(string, int64)) error {
	columns := []string{
		"id", "status", "order_id", "reference", "key", "skus", "locations", "quantities", "committed", "policies",
		"created_at", "expires_at", "closed_at", "version",
	}
	return c.Part(ctx, "reservations", columns, pgdb.Numbers{}, func(add func([]any) error) error {
		return from.Reservations(ctx, func(r *inventory.Reservation) error { return add(reservationValues(r)) })
	}, told)
}

func reservationValues(r *inventory.Reservation) []any {
	return []any{
		r.ID, r.Status.String(), pgdb.Optional(r.OrderID), pgdb.Optional(r.Reference), key(r),
		ofLines(r, func(l *inventory.Line) string { return l.SKU }), ofLines(r, func(l *inventory.Line) string { return l.Location }),
		ofLines(r, func(l *inventory.Line) int64 { return l.Quantity }), committed(r), policies(r),
		r.CreatedAt, r.ExpiresAt, closedAt(r), r.Version,
	}
}

func copyCrossings(ctx context.Context, c *pgdb.Copy, from Source, told func(string, int64)) error {
	columns := []string{"seq", "time", "depleted", "sku", "location", "on_hand", "reserved", "version"}
	removed, err := from.CrossingsTrimmed(ctx)
	if err != nil {
		return err
	}
	numbers := pgdb.Numbers{Counter: pgdb.CounterStockEvents, Removed: removed, Trimmed: pgdb.CounterStockEventsTrimmed}
	return c.Part(ctx, "stock_events", columns, numbers, func(add func([]any) error) error {
		return from.Crossings(ctx, func(x inventory.Crossing) error {
			l := &x.Level
			return add([]any{x.Seq, x.Time, x.Depleted, l.SKU, l.Location, l.OnHand, l.Reserved, l.Version})
		})
	}, told)
}

func copyRemembered(ctx context.Context, c *pgdb.Copy, from Source, told func(string, int64)) error {
	columns := []string{"key_hash", "fingerprint", "reservation_id", "sku", "location", "on_hand", "reserved", "version", "created_at"}
	now := c.DB().Now()
	return c.Part(ctx, "stock_keys", columns, pgdb.Numbers{}, func(add func([]any) error) error {
		return from.Remembered(ctx, func(hash [16]byte, m *inventory.Remembered) error {
			l := &m.Level
			return add([]any{hash[:], m.Fingerprint[:], pgdb.Optional(m.ReservationID), pgdb.Optional(l.SKU), pgdb.Optional(l.Location), l.OnHand, l.Reserved, l.Version, now})
		})
	}, told)
}
