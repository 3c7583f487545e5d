package orderpg

import (
	"cmp"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/internal/order"
	"github.com/penstockhq/penstock/internal/pgdb"
)

// orderRows are new orders as columns, for unnest.
type orderRows struct {
	ids, customers, statuses, currencies, reservations []string
	references, placed                                 []*string
	totals                                             []int64
	expires                                            []time.Time
	hashes                                             [][]byte
	versions                                           []uint64
}

func (rows *orderRows) add(o *order.Order) {
	rows.ids, rows.customers = append(rows.ids, o.ID), append(rows.customers, o.CustomerID)
	rows.statuses = append(rows.statuses, o.Status.String())
	rows.totals, rows.currencies = append(rows.totals, o.Total.Amount), append(rows.currencies, o.Total.Currency)
	rows.reservations, rows.references = append(rows.reservations, o.ReservationID), append(rows.references, pgdb.Optional(o.PaymentReference))
	rows.expires = append(rows.expires, o.HoldExpiresAt)
	var placed *string
	if o.Placed.ReservationID != o.ReservationID {
		placed = &o.Placed.ReservationID
	}
	rows.placed = append(rows.placed, placed)
	rows.hashes, rows.versions = append(rows.hashes, o.KeyHash[:]), append(rows.versions, o.Version)
}

// lineRows are the lines of new orders as columns, for unnest.
type lineRows struct {
	orders, skus, locations []string
	numbers                 []int32
	quantities, prices      []int64
}

func (rows *lineRows) add(o *order.Order) {
	for i, l := range o.Lines {
		rows.orders, rows.numbers = append(rows.orders, o.ID), append(rows.numbers, int32(i+1))
		rows.skus, rows.locations = append(rows.skus, l.SKU), append(rows.locations, l.Location)
		rows.quantities, rows.prices = append(rows.quantities, l.Quantity), append(rows.prices, l.UnitPrice)
	}
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
		return nil, err
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
	return order.None, fmt.Errorf("order status %q is not known", name)
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
	e.Status, err = parseStatus(status)
	return e, err
}
