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

// Decide decides every command.
func (b *Batch) Decide() error {
	b.book = order.Book{Rows: &b.rows, Expect: len(b.cmds), Now: b.store.cfg.Now().UTC().Truncate(time.Microsecond)}
	for i, cmd := range b.cmds {
		var err error
		if b.out[i], err = b.book.Do(cmd); err != nil {
			return err
		}
	}
	return nil
}

// Write queues what changed.
func (b *Batch) Write(w *pgdb.Writes) {
	b.writeKeys(w, &b.book)
	b.writeOrders(w, &b.book)
}

// Number queues what the counters number. Their rows are locked from there on, so it
// comes last.
func (b *Batch) Number(w *pgdb.Writes) {
	if b.book.Followed > 0 {
		w.Queue("UPDATE counters SET value = greatest(value, $1) WHERE name = $2", b.book.Followed, pgdb.CounterFollowed)
	}
	b.writeEvents(w, &b.book)
}

// Committed has nothing to remember.
func (b *Batch) Committed() {}

// writeKeys comes first and in order: in its index two processes may meet.
func (b *Batch) writeKeys(w *pgdb.Writes, book *order.Book) {
	n := len(book.Keys)
	if n == 0 {
		return
	}
	sorted := make([]order.KeyHash, 0, n)
	for hash := range book.Keys {
		sorted = append(sorted, hash)
	}
	slices.SortFunc(sorted, func(a, b order.KeyHash) int { return bytes.Compare(a[:], b[:]) })
	type H = order.KeyHash
	pgdb.Insert(w, "idempotency_keys",
		pgdb.Each("key_hash", "bytea", pgdb.Of(sorted, func(h H) []byte { return h[:] })),
		pgdb.Each("fingerprint", "bytea", pgdb.Of(sorted, func(h H) []byte { return book.Keys[h].Fingerprint[:] })),
		pgdb.Each("order_id", "text", pgdb.Of(sorted, func(h H) string { return book.Keys[h].OrderID })),
		pgdb.One("created_at", "timestamptz", book.Now),
	)
}

func (b *Batch) writeOrders(w *pgdb.Writes, book *order.Book) {
	var made []*order.Order
	var ids, statuses, reservations, references = []string(nil), []string(nil), []string(nil), []*string(nil)
	var versions []uint64
	for _, c := range book.Changes {
		o := c.Order
		if c.Before == order.None {
			made = append(made, o)
			continue
		}
		ids, statuses, versions = append(ids, o.ID), append(statuses, o.Status.String()), append(versions, o.Version)
		reservations, references = append(reservations, o.ReservationID), append(references, pgdb.Optional(o.PaymentReference))
	}
	if len(made) > 0 {
		insertOrders(w, made, book.Now)
	}
	if len(ids) > 0 {
		w.Queue(`UPDATE orders o SET status = u.status, version = u.version, payment_reference = u.reference, updated_at = $6,
				placed_reservation_id = CASE WHEN o.reservation_id = u.reservation_id THEN o.placed_reservation_id
					ELSE coalesce(o.placed_reservation_id, o.reservation_id) END,
				reservation_id = u.reservation_id
			FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[]) u(id, status, version, reference, reservation_id)
			WHERE o.id = u.id`, ids, statuses, versions, references, reservations, book.Now)
	}
}

func (b *Batch) writeEvents(w *pgdb.Writes, book *order.Book) {
	events := book.Events
	if len(events) == 0 {
		return
	}
	type E = order.Event
	pgdb.InsertNumbered(w, "order_events", pgdb.CounterOrderEvents, len(events),
		pgdb.One("time", "timestamptz", book.Now),
		pgdb.Each("order_id", "text", pgdb.Of(events, func(e E) string { return e.OrderID })),
		pgdb.Alike("version", "bigint", pgdb.Of(events, func(e E) uint64 { return e.Version })),
		pgdb.Alike("status", "text", pgdb.Of(events, func(e E) string { return e.Status.String() })),
	)
}
