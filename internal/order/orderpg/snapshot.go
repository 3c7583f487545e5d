package orderpg

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/internal/order"
	"github.com/penstockhq/penstock/internal/pgdb"
)

// Snapshot reads everything that stores have written, for audits.
type Snapshot struct{ tx pgdb.Snapshot }

// NewSnapshot returns a Snapshot of what tx shows.
func NewSnapshot(tx pgdb.Snapshot) Snapshot { return Snapshot{tx} }

// Followed returns how far the inventory's ledger has been followed.
func (s Snapshot) Followed(ctx context.Context) (uint64, error) {
	return s.tx.Counter(ctx, pgdb.CounterFollowed)
}

// Trimmed returns the number of the last event that was removed.
func (s Snapshot) Trimmed(ctx context.Context) (uint64, error) {
	return s.tx.Counter(ctx, pgdb.CounterOrderEventsTrimmed)
}

// Numbered returns the number that the counter gave to the last event.
func (s Snapshot) Numbered(ctx context.Context) (uint64, error) {
	return s.tx.Counter(ctx, pgdb.CounterOrderEvents)
}

// Orders calls fn for every order, in order of ID.
func (s Snapshot) Orders(ctx context.Context, fn func(*order.Order) error) error {
	return s.tx.Each(ctx, "SELECT "+orderColumns+" FROM orders o ORDER BY o.id", func(rows pgx.Rows) error {
		o, err := scanOrder(rows)
		if err != nil {
			return err
		}
		return fn(o)
	})
}

// Keys calls fn for every idempotency key, in no order.
func (s Snapshot) Keys(ctx context.Context, fn func(order.KeyHash, order.Key) error) error {
	return s.tx.Each(ctx, "SELECT "+keyColumns+" FROM idempotency_keys", func(rows pgx.Rows) error {
		hash, key, err := scanKey(rows)
		if err != nil {
			return err
		}
		return fn(hash, *key)
	})
}

// Events calls fn for every event, oldest first.
func (s Snapshot) Events(ctx context.Context, fn func(order.Event) error) error {
	return s.tx.Each(ctx, "SELECT "+eventColumns+" FROM order_events ORDER BY seq", func(rows pgx.Rows) error {
		e, err := scanEvent(rows)
		if err != nil {
			return err
		}
		return fn(e)
	})
}
