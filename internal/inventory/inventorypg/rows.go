package inventorypg

import (
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/internal/inventory"
	"github.com/penstockhq/penstock/internal/pgdb"
)

// insertReservations queues the insertion of new reservations. Nearly all are active, have
// one line, and no reference or policies of their own.
func insertReservations(w *pgdb.Writes, made []*inventory.Reservation) {
	type R = *inventory.Reservation
	pgdb.Insert(w, "reservations",
		pgdb.Each("id", "text", pgdb.Of(made, func(r R) string { return r.ID })),
		pgdb.Alike("status", "text", pgdb.Of(made, func(r R) string { return r.Status.String() })),
		pgdb.Each("order_id", "text", pgdb.Of(made, func(r R) *string { return pgdb.Optional(r.OrderID) })),
		pgdb.AlikeText("reference", pgdb.Of(made, func(r R) string { return r.Reference })),
		pgdb.AlikeBytes("key", pgdb.Of(made, key)),
		pgdb.Lists("skus", "text", pgdb.Of(made, func(r R) []string { return ofLines(r, func(l *inventory.Line) string { return l.SKU }) }), textLiteral),
		pgdb.Lists("locations", "text", pgdb.Of(made, func(r R) []string { return ofLines(r, func(l *inventory.Line) string { return l.Location }) }), textLiteral),
		pgdb.Lists("quantities", "bigint", pgdb.Of(made, func(r R) []int64 { return ofLines(r, func(l *inventory.Line) int64 { return l.Quantity }) }), numberLiteral),
		pgdb.Lists("committed", "bigint", pgdb.Of(made, committed), numberLiteral),
		pgdb.Lists("policies", "text", pgdb.Of(made, policies), textLiteral),
		pgdb.Alike("created_at", "timestamptz", pgdb.Of(made, func(r R) time.Time { return r.CreatedAt })),
		pgdb.Alike("expires_at", "timestamptz", pgdb.Of(made, func(r R) time.Time { return r.ExpiresAt })),
		pgdb.Alike("closed_at", "timestamptz", pgdb.Of(made, closedAt)),
		pgdb.Alike("version", "bigint", pgdb.Of(made, func(r R) uint64 { return r.Version })),
	)
}

func ofLines[T any](r *inventory.Reservation, get func(*inventory.Line) T) []T {
	values := make([]T, len(r.Lines))
	for i := range r.Lines {
		values[i] = get(&r.Lines[i])
	}
	return values
}

// key returns the reservation's key, nil for none.
func key(r *inventory.Reservation) []byte {
	if r.Key == "" {
		return nil
	}
	return []byte(r.Key)
}

// closedAt returns when the reservation ended, nil while it is active.
func closedAt(r *inventory.Reservation) *time.Time {
	if r.ClosedAt.IsZero() {
		return nil
	}
	return &r.ClosedAt
}

// committed returns the units sold of each line, nil for a reservation that was not committed.
func committed(r *inventory.Reservation) []int64 {
	if r.Status != inventory.Committed {
		return nil
	}
	return ofLines(r, func(l *inventory.Line) int64 { return l.Committed })
}

// committedLiteral is committed in PostgreSQL's syntax.
func committedLiteral(r *inventory.Reservation) *string {
	if r.Status != inventory.Committed {
		return nil
	}
	text := numberLiteral(committed(r))
	return &text
}

// policies returns the lines' policies, nil when all are Reserve.
func policies(r *inventory.Reservation) []string {
	for _, l := range r.Lines {
		if l.Policy != inventory.Reserve {
			return ofLines(r, func(l *inventory.Line) string { return l.Policy.String() })
		}
	}
	return nil
}

func numberLiteral(values []int64) string {
	return literal(values, func(b []byte, v int64) []byte { return strconv.AppendInt(b, v, 10) })
}

func textLiteral(values []string) string { return literal(values, appendQuoted) }

// literal writes an array literal.
func literal[T any](values []T, element func([]byte, T) []byte) string {
	b := append(make([]byte, 0, 2+16*len(values)), '{')
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = element(b, v)
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
		return nil, fmt.Errorf("reservation %s: %w", r.ID, err)
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
	return 0, fmt.Errorf("status %q is not known", name)
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
		return e, fmt.Errorf("ledger entry %d: %w", e.Seq, err)
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
