package orderpg

import (
	"bytes"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/internal/order"
	"github.com/penstockhq/penstock/internal/pgdb"
)

// Batch is one batch of commands on its way; it is a pgdb.Work, and a part of another
// where orders are committed together with their reservations.
type Batch struct {
	store *Store
	cmds  []order.Command
	out   []order.Outcome
	rows  rows
	book  order.Book // after Decide
}

// NewBatch returns a batch of cmds whose answers go to out.
func (s *Store) NewBatch(cmds []order.Command, out []order.Outcome) *Batch {
	return &Batch{store: s, cmds: cmds, out: out}
}

// Narrow has Decide decide these commands instead, which must be among those that were read for.
func (b *Batch) Narrow(cmds []order.Command, out []order.Outcome) { b.cmds, b.out = cmds, out }

// Knows reports whether Read has found something under the key. It looks only after a conflict.
func (b *Batch) Knows(hash order.KeyHash) bool { return b.rows.keys[hash] != nil }

// rows is what was read for a batch, as a Book reads it.
type rows struct {
	orders map[string]*order.Order
	keys   map[order.KeyHash]*order.Key
}

func (r *rows) Order(id string) (*order.Order, error) { return r.orders[id], nil }

func (r *rows) Key(hash order.KeyHash) (*order.Key, error) { return r.keys[hash], nil }

// Read queues the orders that commands change, locked in order, and after a conflict the
// keys and the orders that they stand for.
func (b *Batch) Read(read *pgx.Batch, again bool) {
	b.rows = rows{orders: map[string]*order.Order{}, keys: map[order.KeyHash]*order.Key{}}
	var ids []string
	var hashes [][]byte
	for _, cmd := range b.cmds {
		switch c := cmd.(type) {
		case *order.StepCommand:
			ids = append(ids, c.ID)
		case *order.CreateCommand:
			hashes = append(hashes, c.Order.KeyHash[:])
		}
	}
	if again && len(hashes) > 0 {
		read.Queue("SELECT "+keyColumns+" FROM idempotency_keys WHERE key_hash = ANY($1)", hashes).Query(b.readKeys)
		read.Queue("SELECT "+orderColumns+` FROM orders o
			WHERE o.id IN (SELECT order_id FROM idempotency_keys WHERE key_hash = ANY($1))`, hashes).Query(b.readOrders)
	}
	if len(ids) > 0 {
		read.Queue("SELECT "+orderColumns+" FROM orders o WHERE o.id = ANY($1) ORDER BY o.id FOR UPDATE", ids).Query(b.readOrders)
	}
}

func (b *Batch) readKeys(found pgx.Rows) error {
	for found.Next() {
		hash, key, err := scanKey(found)
		if err != nil {
			return err
		}
		b.rows.keys[hash] = key
	}
	return found.Err()
}

func (b *Batch) readOrders(found pgx.Rows) error {
	for found.Next() {
		o, err := scanOrder(found)
		if err != nil {
			return err
		}
		b.rows.orders[o.ID] = o
	}
	return found.Err()
}

// Decide decides every command and queues what changed.
func (b *Batch) Decide(write *pgx.Batch) error {
	b.book = order.Book{Rows: &b.rows, Expect: len(b.cmds), Now: b.store.cfg.Now().UTC().Truncate(time.Microsecond)}
	for i, cmd := range b.cmds {
		var err error
		if b.out[i], err = b.book.Do(cmd); err != nil {
			return err
		}
	}
	b.writeKeys(write, &b.book)
	b.writeOrders(write, &b.book)
	return nil
}

// Number queues what the counters number. Their rows are locked from there on, so it
// comes last.
func (b *Batch) Number(write *pgx.Batch) {
	if b.book.Followed > 0 {
		write.Queue("UPDATE counters SET value = greatest(value, $1) WHERE name = $2", b.book.Followed, pgdb.CounterFollowed)
	}
	b.writeEvents(write, &b.book)
}

// Committed has nothing to remember.
func (b *Batch) Committed() {}

// writeKeys comes first and in order: in its index two processes may meet.
func (b *Batch) writeKeys(write *pgx.Batch, book *order.Book) {
	n := len(book.Keys)
	if n == 0 {
		return
	}
	sorted := make([]order.KeyHash, 0, n)
	for hash := range book.Keys {
		sorted = append(sorted, hash)
	}
	slices.SortFunc(sorted, func(a, b order.KeyHash) int { return bytes.Compare(a[:], b[:]) })
	hashes, fingerprints, ids := make([][]byte, n), make([][]byte, n), make([]string, n)
	for i := range sorted {
		key := book.Keys[sorted[i]]
		hashes[i], fingerprints[i], ids[i] = sorted[i][:], key.Fingerprint[:], key.OrderID
	}
	write.Queue(`INSERT INTO idempotency_keys (key_hash, fingerprint, order_id, created_at)
		SELECT *, $4::timestamptz FROM unnest($1::bytea[], $2::bytea[], $3::text[])`, hashes, fingerprints, ids, book.Now)
}

func (b *Batch) writeOrders(write *pgx.Batch, book *order.Book) {
	var made orderRows
	var lines lineRows
	var ids, statuses, reservations, references = []string(nil), []string(nil), []string(nil), []*string(nil)
	var versions []uint64
	for _, c := range book.Changes {
		o := c.Order
		if c.Before == order.None {
			made.add(o)
			lines.add(o)
			continue
		}
		ids, statuses, versions = append(ids, o.ID), append(statuses, o.Status.String()), append(versions, o.Version)
		reservations, references = append(reservations, o.ReservationID), append(references, pgdb.Optional(o.PaymentReference))
	}
	if len(made.ids) > 0 {
		write.Queue(`INSERT INTO orders (id, customer_id, status, total, currency, reservation_id, payment_reference, hold_expires_at,
				placed_reservation_id, key_hash, version, created_at, updated_at)
			SELECT *, $12::timestamptz, $12::timestamptz FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[],
				$7::text[], $8::timestamptz[], $9::text[], $10::bytea[], $11::bigint[])`,
			made.ids, made.customers, made.statuses, made.totals, made.currencies, made.reservations, made.references, made.expires,
			made.placed, made.hashes, made.versions, book.Now)
		write.Queue(`INSERT INTO order_lines (order_id, line, sku, location, quantity, unit_price)
			SELECT * FROM unnest($1::text[], $2::int[], $3::text[], $4::text[], $5::bigint[], $6::bigint[])`,
			lines.orders, lines.numbers, lines.skus, lines.locations, lines.quantities, lines.prices)
	}
	if len(ids) > 0 {
		write.Queue(`UPDATE orders o SET status = u.status, version = u.version, payment_reference = u.reference, updated_at = $6,
				placed_reservation_id = CASE WHEN o.reservation_id = u.reservation_id THEN o.placed_reservation_id
					ELSE coalesce(o.placed_reservation_id, o.reservation_id) END,
				reservation_id = u.reservation_id
			FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[]) u(id, status, version, reference, reservation_id)
			WHERE o.id = u.id`, ids, statuses, versions, references, reservations, book.Now)
	}
}

func (b *Batch) writeEvents(write *pgx.Batch, book *order.Book) {
	n := len(book.Events)
	if n == 0 {
		return
	}
	ids, versions, statuses := make([]string, n), make([]uint64, n), make([]string, n)
	for i := range book.Events {
		e := &book.Events[i]
		ids[i], versions[i], statuses[i] = e.OrderID, e.Version, e.Status.String()
	}
	write.Queue(`WITH c AS (UPDATE counters SET value = value + $5 WHERE name = $6 RETURNING value - $5 AS base)
		INSERT INTO order_events (seq, time, order_id, version, status)
		SELECT c.base + u.n, $4::timestamptz, u.order_id, u.version, u.status
		FROM c, unnest($1::text[], $2::bigint[], $3::text[]) WITH ORDINALITY u(order_id, version, status, n)`,
		ids, versions, statuses, book.Now, int64(n), pgdb.CounterOrderEvents)
}
