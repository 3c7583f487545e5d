package orderpg

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/internal/order"
	"github.com/penstockhq/penstock/internal/pgdb"
)

// insertOrders queues the insertion of new orders with their lines, in the order of their
// IDs: they go to the ends of three indexes then, and a look-up of where they go is saved.
func insertOrders(w *pgdb.Writes, made []*order.Order, now time.Time) {
	type O = *order.Order
	slices.SortFunc(made, func(a, b O) int { return cmp.Compare(a.ID, b.ID) })
	pgdb.Insert(w, "orders",
		pgdb.Each("id", "text", pgdb.Of(made, func(o O) string { return o.ID })),
		pgdb.Each("customer_id", "text", pgdb.Of(made, func(o O) string { return o.CustomerID })),
		pgdb.Alike("status", "text", pgdb.Of(made, func(o O) string { return o.Status.String() })),
		pgdb.Alike("total", "bigint", pgdb.Of(made, func(o O) int64 { return o.Total.Amount })),
		pgdb.Alike("currency", "text", pgdb.Of(made, func(o O) string { return o.Total.Currency })),
		pgdb.Each("reservation_id", "text", pgdb.Of(made, func(o O) string { return o.ReservationID })),
		pgdb.AlikeText("payment_reference", pgdb.Of(made, func(o O) string { return o.PaymentReference })),
		pgdb.Alike("hold_expires_at", "timestamptz", pgdb.Of(made, func(o O) time.Time { return o.HoldExpiresAt })),
		pgdb.AlikeText("placed_reservation_id", pgdb.Of(made, placedReservation)),
		pgdb.Each("key_hash", "bytea", pgdb.Of(made, func(o O) []byte { return o.KeyHash[:] })),
		pgdb.Alike("version", "bigint", pgdb.Of(made, func(o O) uint64 { return o.Version })),
		pgdb.One("created_at", "timestamptz", now),
		pgdb.One("updated_at", "timestamptz", now),
	)
	var lines []line
	for _, o := range made {
		for i := range o.Lines {
			lines = append(lines, line{o.ID, int32(i + 1), &o.Lines[i]})
		}
	}
	pgdb.Insert(w, "order_lines",
		pgdb.Each("order_id", "text", pgdb.Of(lines, func(l line) string { return l.order })),
		pgdb.Alike("line", "integer", pgdb.Of(lines, func(l line) int32 { return l.number })),
		pgdb.Alike("sku", "text", pgdb.Of(lines, func(l line) string { return l.SKU })),
		pgdb.Alike("location", "text", pgdb.Of(lines, func(l line) string { return l.Location })),
		pgdb.Alike("quantity", "bigint", pgdb.Of(lines, func(l line) int64 { return l.Quantity })),
		pgdb.Alike("unit_price", "bigint", pgdb.Of(lines, func(l line) int64 { return l.UnitPrice })),
	)
}

// line is a line of an order; its number begins with 1.
type line struct {
	order  string
	number int32
	*order.Line
}

// placedReservation returns the reservation that an order was placed with, "" where it
// still has that.
func placedReservation(o *order.Order) string {
	if o.Placed.ReservationID == o.ReservationID {
		return ""
	}
	return o.Placed.ReservationID
}

// orderColumns are an order's, its lines as arrays.
const orderColumns = `o.id, o.customer_id, o.status, o.total, o.currency, o.reservation_id, o.payment_reference, o.hold_expires_at,
	o.placed_reservation_id, o.key_hash, o.created_at, o.updated_at, o.version,
	ARRAY(SELECT l.sku FROM order_lines l WHERE l.order_id = o.id ORDER BY l.line),
	ARRAY(SELECT l.location FROM order_lines l WHERE l.order_id = o.id ORDER BY l.line),
	ARRAY(SELECT l.quantity FROM order_lines l WHERE l.order_id = o.id ORDER BY l.line),
	ARRAY(SELECT l.unit_price FROM order_lines l WHERE l.order_id = o.id ORDER BY l.line)`

func scanOrder(row pgx.Row) (*order.Order, error) {
	var o order.Order
	var status string
	var reference, placed *string
	var hash []byte
	var skus, locations []string
	var quantities, prices []int64
	err := row.Scan(&o.ID, &o.CustomerID, &status, &o.Total.Amount, &o.Total.Currency, &o.ReservationID, &reference, &o.HoldExpiresAt,
		&placed, &hash, &o.CreatedAt, &o.UpdatedAt, &o.Version, &skus, &locations, &quantities, &prices)
	if err != nil {
		return nil, fmt.Errorf("read order: %w", err)
	}
	o.HoldExpiresAt, o.CreatedAt, o.UpdatedAt = o.HoldExpiresAt.UTC(), o.CreatedAt.UTC(), o.UpdatedAt.UTC()
	o.PaymentReference = pgdb.Text(reference)
	o.Placed = order.Placement{ReservationID: cmp.Or(pgdb.Text(placed), o.ReservationID), HoldExpiresAt: o.HoldExpiresAt}
	copy(o.KeyHash[:], hash)
	if o.Status, err = parseStatus(status); err != nil {
		return nil, fmt.Errorf("order %s: %w", o.ID, err)
	}
	o.Lines = make([]order.Line, len(skus))
	for i := range skus {
		o.Lines[i] = order.Line{SKU: skus[i], Location: locations[i], Quantity: quantities[i], UnitPrice: prices[i]}
	}
	return &o, nil
}

func parseStatus(name string) (order.Status, error) {
	for _, s := range order.Statuses {
		if s.String() == name {
			return s, nil
		}
	}
	return order.None, fmt.Errorf("status %q is not known", name)
}

func scanKey(row pgx.Row) (hash order.KeyHash, key *order.Key, err error) {
	var raw, fingerprint []byte
	key = &order.Key{}
	if err := row.Scan(&raw, &fingerprint, &key.OrderID); err != nil {
		return hash, nil, fmt.Errorf("read key: %w", err)
	}
	copy(hash[:], raw)
	copy(key.Fingerprint[:], fingerprint)
	return hash, key, nil
}

const eventColumns = "seq, time, order_id, version, status"

func scanEvent(row pgx.Row) (order.Event, error) {
	var e order.Event
	var status string
	if err := row.Scan(&e.Seq, &e.Time, &e.OrderID, &e.Version, &status); err != nil {
		return e, fmt.Errorf("read event: %w", err)
	}
	e.Time = e.Time.UTC()
	var err error
	if e.Status, err = parseStatus(status); err != nil {
		return e, fmt.Errorf("event %d: %w", e.Seq, err)
	}
	return e, nil
}
