package inventorypg

import (
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/internal/inventory"
	"github.com/penstockhq/penstock/internal/pgdb"
)

// reservationRows are reservations as columns, for unnest. Arrays of arrays go as the
// text of array literals, because unnest would flatten them.
type reservationRows struct {
	ids, statuses               []string
	orders, references          []*string
	keys                        [][]byte
	skus, locations, quantities []string
	committed, policies         []*string
	created, expires            []time.Time
	closed                      []*time.Time
	versions                    []uint64
}

func (rows *reservationRows) add(r *inventory.Reservation) {
	rows.ids = append(rows.ids, r.ID)
	rows.statuses = append(rows.statuses, r.Status.String())
	rows.orders = append(rows.orders, pgdb.Optional(r.OrderID))
	rows.references = append(rows.references, pgdb.Optional(r.Reference))
	var key []byte
	if r.Key != "" {
		key = []byte(r.Key)
	}
	rows.keys = append(rows.keys, key)
	rows.skus = append(rows.skus, literal(r.Lines, func(b []byte, l *inventory.Line) []byte { return appendQuoted(b, l.SKU) }))
	rows.locations = append(rows.locations, literal(r.Lines, func(b []byte, l *inventory.Line) []byte { return appendQuoted(b, l.Location) }))
	rows.quantities = append(rows.quantities, literal(r.Lines, func(b []byte, l *inventory.Line) []byte { return strconv.AppendInt(b, l.Quantity, 10) }))
	rows.committed = append(rows.committed, nil)
	if r.Status == inventory.Committed {
		sold := literal(r.Lines, func(b []byte, l *inventory.Line) []byte { return strconv.AppendInt(b, l.Committed, 10) })
		rows.committed[len(rows.committed)-1] = &sold
	}
	rows.policies = append(rows.policies, policyLiteral(r.Lines))
	rows.created, rows.expires = append(rows.created, r.CreatedAt), append(rows.expires, r.ExpiresAt)
	var closed *time.Time
	if !r.ClosedAt.IsZero() {
		closed = &r.ClosedAt
	}
	rows.closed = append(rows.closed, closed)
	rows.versions = append(rows.versions, r.Version)
}

// policyLiteral returns the lines' policies, nil when all are Reserve.
func policyLiteral(lines []inventory.Line) *string {
	for _, l := range lines {
		if l.Policy != inventory.Reserve {
			all := literal(lines, func(b []byte, l *inventory.Line) []byte { return append(b, l.Policy.String()...) })
			return &all
		}
	}
	return nil
}

// literal writes an array literal with an element for each line.
func literal(lines []inventory.Line, element func([]byte, *inventory.Line) []byte) string {
	b := append(make([]byte, 0, 2+16*len(lines)), '{')
	for i := range lines {
		if i > 0 {
			b = append(b, ',')
		}
		b = element(b, &lines[i])
	}
	return string(append(b, '}'))
}

func appendQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}

const reservationColumns = "id, status, order_id, reference, key, skus, locations, quantities, committed, policies, created_at, expires_at, closed_at, version"

func scanReservation(row pgx.Row) (*inventory.Reservation, error) {
	var r inventory.Reservation
	var status string
	var order, reference *string
	var key []byte
	var skus, locations, policies []string
	var quantities, committed []int64
	var closed *time.Time
	err := row.Scan(&r.ID, &status, &order, &reference, &key, &skus, &locations, &quantities, &committed, &policies,
		&r.CreatedAt, &r.ExpiresAt, &closed, &r.Version)
	if err != nil {
		return nil, fmt.Errorf("read reservation: %w", err)
	}
	r.OrderID, r.Reference, r.Key = pgdb.Text(order), pgdb.Text(reference), string(key)
	r.CreatedAt, r.ExpiresAt = r.CreatedAt.UTC(), r.ExpiresAt.UTC()
	if closed != nil {
		r.ClosedAt = closed.UTC()
	}
	if r.Status, err = parseStatus(status); err != nil {
		return nil, err
	}
	if len(locations) != len(skus) || len(quantities) != len(skus) || committed != nil && len(committed) != len(skus) || policies != nil && len(policies) != len(skus) {
		return nil, fmt.Errorf("reservation %s has arrays of different lengths", r.ID)
	}
	r.Lines = make([]inventory.Line, len(skus))
	for i := range skus {
		l := &r.Lines[i]
		l.SKU, l.Location, l.Quantity = skus[i], locations[i], quantities[i]
		if committed != nil {
			l.Committed = committed[i]
		}
		if policies != nil {
			if l.Policy, err = inventory.ParsePolicy(policies[i]); err != nil {
				return nil, fmt.Errorf("reservation %s: %w", r.ID, err)
			}
		}
	}
	return &r, nil
}

func parseStatus(name string) (inventory.Status, error) {
	for s := inventory.Active; s <= inventory.Expired; s++ {
		if s.String() == name {
			return s, nil
		}
	}
	return 0, fmt.Errorf("reservation status %q is not known", name)
}

// levelRows are levels as columns, for unnest.
type levelRows struct {
	skus, locations  []string
	onHand, reserved []int64
	versions         []uint64
	track            []bool

	wasOnHand, wasReserved []int64
	wasVersions            []uint64
}

// was adds what the level was before.
func (rows *levelRows) was(l *inventory.Level) {
	rows.wasOnHand, rows.wasReserved = append(rows.wasOnHand, l.OnHand), append(rows.wasReserved, l.Reserved)
	rows.wasVersions = append(rows.wasVersions, l.Version)
}

func (rows *levelRows) add(l *inventory.Level, track bool) {
	rows.skus, rows.locations = append(rows.skus, l.SKU), append(rows.locations, l.Location)
	rows.onHand, rows.reserved = append(rows.onHand, l.OnHand), append(rows.reserved, l.Reserved)
	rows.versions, rows.track = append(rows.versions, l.Version), append(rows.track, track)
}

func (rows *levelRows) args() []any {
	return []any{rows.skus, rows.locations, rows.onHand, rows.reserved, rows.versions, rows.track}
}

const entryColumns = "seq, time, kind, sku, location, policy, quantity, reservation_id, order_id, reference, reason"

func scanEntry(row pgx.Row) (inventory.Entry, error) {
	var e inventory.Entry
	var kind, policy string
	var id, order, reference, reason *string
	err := row.Scan(&e.Seq, &e.Time, &kind, &e.Place.SKU, &e.Place.Location, &policy, &e.Quantity, &id, &order, &reference, &reason)
	if err != nil {
		return e, fmt.Errorf("read ledger: %w", err)
	}
	e.Time = e.Time.UTC()
	e.ReservationID, e.OrderID, e.Reference, e.Reason = pgdb.Text(id), pgdb.Text(order), pgdb.Text(reference), pgdb.Text(reason)
	if e.Kind, err = parseKind(kind); err != nil {
		return e, err
	}
	if e.Policy, err = inventory.ParsePolicy(policy); err != nil {
		return e, fmt.Errorf("ledger entry %d: %w", e.Seq, err)
	}
	return e, nil
}

const crossingColumns = "seq, time, depleted, sku, location, on_hand, reserved, version"

func scanCrossing(row pgx.Row) (inventory.Crossing, error) {
	var c inventory.Crossing
	l := &c.Level
	if err := row.Scan(&c.Seq, &c.Time, &c.Depleted, &l.SKU, &l.Location, &l.OnHand, &l.Reserved, &l.Version); err != nil {
		return c, fmt.Errorf("read stock event: %w", err)
	}
	c.Time = c.Time.UTC()
	return c, nil
}
