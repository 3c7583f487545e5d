package orderpg

import (
	"context"

	"github.com/penstockhq/penstock/internal/order"
	"github.com/penstockhq/penstock/internal/pgdb"
)

// Source are orders that can be copied; each method calls fn for everything, in the same
// order every time.
type Source interface {
	Orders(ctx context.Context, fn func(*order.Order) error) error
	Keys(ctx context.Context, fn func(order.KeyHash, order.Key) error) error
	Events(ctx context.Context, fn func(order.Event) error) error
	// Trimmed returns the number of the last event that was removed.
	Trimmed(ctx context.Context) (uint64, error)
}

// CopyFrom copies orders into the database; told is called as it goes on.
func CopyFrom(ctx context.Context, c *pgdb.Copy, from Source, told func(table string, rows int64)) error {
	for _, part := range []func(context.Context, *pgdb.Copy, Source, func(string, int64)) error{
		copyOrders, copyLines, copyKeys, copyEvents,
	} {
		if err := part(ctx, c, from, told); err != nil {
			return err
		}
	}
	return nil
}

func copyOrders(ctx context.Context, c *pgdb.Copy, from Source, told func(string, int64)) error {
	columns := []string{
		"id", "customer_id", "status", "total", "currency", "reservation_id", "payment_reference", "hold_expires_at",
		"placed_reservation_id", "key_hash", "created_at", "updated_at", "version",
	}
	return c.Part(ctx, "orders", columns, pgdb.Numbers{}, func(add func([]any) error) error {
		return from.Orders(ctx, func(o *order.Order) error {
			return add([]any{
				o.ID, o.CustomerID, o.Status.String(), o.Total.Amount, o.Total.Currency, o.ReservationID, pgdb.Optional(o.PaymentReference), o.HoldExpiresAt,
				pgdb.Optional(placedReservation(o)), o.KeyHash[:], o.CreatedAt, o.UpdatedAt, o.Version,
			})
		})
	}, told)
}

func copyLines(ctx context.Context, c *pgdb.Copy, from Source, told func(string, int64)) error {
	columns := []string{"order_id", "line", "sku", "location", "quantity", "unit_price"}
	return c.Part(ctx, "order_lines", columns, pgdb.Numbers{}, func(add func([]any) error) error {
		return from.Orders(ctx, func(o *order.Order) error {
			for i, l := range o.Lines {
				if err := add([]any{o.ID, i + 1, l.SKU, l.Location, l.Quantity, l.UnitPrice}); err != nil {
					return err
				}
			}
			return nil
		})
	}, told)
}

func copyKeys(ctx context.Context, c *pgdb.Copy, from Source, told func(string, int64)) error {
	columns := []string{"key_hash", "fingerprint", "order_id", "created_at"}
	now := c.DB().Now()
	return c.Part(ctx, "idempotency_keys", columns, pgdb.Numbers{}, func(add func([]any) error) error {
		return from.Keys(ctx, func(hash order.KeyHash, k order.Key) error {
			return add([]any{hash[:], k.Fingerprint[:], k.OrderID, now})
		})
	}, told)
}

func copyEvents(ctx context.Context, c *pgdb.Copy, from Source, told func(string, int64)) error {
	columns := []string{"seq", "time", "order_id", "version", "status"}
	removed, err := from.Trimmed(ctx)
	if err != nil {
		return err
	}
	numbers := pgdb.Numbers{Counter: pgdb.CounterOrderEvents, Removed: removed, Trimmed: pgdb.CounterOrderEventsTrimmed}
	return c.Part(ctx, "order_events", columns, numbers, func(add func([]any) error) error {
		return from.Events(ctx, func(e order.Event) error {
			return add([]any{e.Seq, e.Time, e.OrderID, e.Version, e.Status.String()})
		})
	}, told)
}
