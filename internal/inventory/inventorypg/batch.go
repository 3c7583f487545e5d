package inventorypg

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/internal/inventory"
	"github.com/penstockhq/penstock/internal/pgdb"
)

// Batch is one batch of commands on its way; it is a pgdb.Work, and a part of another
// where reservations are committed together with what they are for.
type Batch struct {
	store *Store
	cmds  []inventory.Command
	out   []inventory.Outcome
	rows  rows

	book  inventory.Book // after Decide
	guess bool           // levels were taken from memory
}

// NewBatch returns a batch of cmds whose answers go to out.
func (s *Store) NewBatch(cmds []inventory.Command, out []inventory.Outcome) *Batch {
	return &Batch{store: s, cmds: cmds, out: out}
}

// Narrow has Decide decide these commands instead, which must be among those that were read for.
func (b *Batch) Narrow(cmds []inventory.Command, out []inventory.Outcome) { b.cmds, b.out = cmds, out }

// rows is what was read for a batch, as a Book reads it.
type rows struct {
	levels       map[inventory.Place]inventory.Level
	reservations map[string]*inventory.Reservation
	active       map[string]string // key → reservation
	remembered   map[string]*inventory.Remembered
}

func (r *rows) Level(p inventory.Place) (inventory.Level, error) { return r.levels[p], nil }

func (r *rows) Reservation(id string) (*inventory.Reservation, error) { return r.reservations[id], nil }

func (r *rows) ActiveByKey(key string) (string, error) { return r.active[key], nil }

func (r *rows) Remembered(key string) (*inventory.Remembered, error) {
	return r.remembered[string(hashKey(key))], nil
}

// needs are the rows that commands name.
type needs struct {
	ids             []string // reservations
	skus, locations []string
	keys            [][]byte // active reservations'
	memories        [][]byte
	places          map[inventory.Place]bool
}

func (n *needs) place(p inventory.Place) {
	if !n.places[p] {
		n.places[p] = true
		n.skus, n.locations = append(n.skus, p.SKU), append(n.locations, p.Location)
	}
}

func (n *needs) memory(m inventory.Memory) {
	if m.Key != "" {
		n.memories = append(n.memories, hashKey(m.Key))
	}
}

func (b *Batch) needs() *needs {
	n := &needs{places: map[inventory.Place]bool{}}
	for _, cmd := range b.cmds {
		switch c := cmd.(type) {
		case *inventory.ReserveCommand:
			for _, l := range c.Lines {
				n.place(l.Place)
			}
			if c.Key != "" {
				n.keys = append(n.keys, []byte(c.Key))
			}
			n.memory(c.Memory)
		case *inventory.CommitCommand:
			n.ids = append(n.ids, c.ID)
		case *inventory.ReleaseCommand:
			n.ids = append(n.ids, c.ID)
		case *inventory.ExtendCommand:
			n.ids = append(n.ids, c.ID)
		case *inventory.ExpireCommand:
			n.ids = append(n.ids, c.IDs...)
		case *inventory.ReceiveCommand:
			n.place(c.Place)
			n.memory(c.Memory)
		case *inventory.AdjustCommand:
			n.place(c.Place)
			n.memory(c.Memory)
		}
	}
	return n
}

// Guess takes the levels from memory instead of reading them, if all of them are there,
// and trusts the unique index to find earlier tries: it is for commands that reserve. If
// what was guessed is not what is stored any more, writing fails and the batch must be
// read for. A refusal must not rest on a guess: Decide then returns pgdb.ErrReadFirst.
func (b *Batch) Guess() bool {
	b.rows = rows{levels: map[inventory.Place]inventory.Level{}}
	for p := range b.needs().places {
		l, ok := b.store.levels.Load(p)
		if !ok {
			return false
		}
		b.rows.levels[p] = l
	}
	b.guess = true
	return true
}

// Read queues what the commands need: first reservations, then levels, each locked in order.
func (b *Batch) Read(read *pgx.Batch, _ bool) {
	b.guess = false
	b.rows = rows{
		levels: map[inventory.Place]inventory.Level{}, reservations: map[string]*inventory.Reservation{},
		active: map[string]string{}, remembered: map[string]*inventory.Remembered{},
	}
	n := b.needs()
	if len(n.keys) > 0 {
		// Those of earlier tries, for nearly every command none. Each key is looked up by
		// itself, in order, because the planner would rather read all that are active.
		slices.SortFunc(n.keys, bytes.Compare)
		read.Queue("SELECT "+reservationColumns+` FROM unnest($1::bytea[]) k(wanted), LATERAL (
			SELECT * FROM reservations WHERE status = 'active' AND key = wanted FOR UPDATE) r`, n.keys).Query(b.readReservations)
	}
	if len(n.ids) > 0 {
		read.Queue("SELECT "+reservationColumns+" FROM reservations WHERE id = ANY($1) ORDER BY id FOR UPDATE", n.ids).Query(b.readReservations)
	}
	if len(n.memories) > 0 {
		read.Queue(`SELECT key_hash, fingerprint, reservation_id, sku, location, on_hand, reserved, version
			FROM stock_keys WHERE key_hash = ANY($1)`, n.memories).Query(b.readRemembered)
		read.Queue("SELECT "+reservationColumns+` FROM reservations
			WHERE id IN (SELECT reservation_id FROM stock_keys WHERE key_hash = ANY($1))`, n.memories).Query(b.readReservations)
	}
	switch {
	case len(n.ids) > 0:
		read.Queue("SELECT "+levelColumns+` FROM stock WHERE (sku, location) IN (
				SELECT * FROM unnest($1::text[], $2::text[])
				UNION SELECT l.* FROM reservations r, unnest(r.skus, r.locations) l WHERE r.id = ANY($3))
			ORDER BY sku, location FOR UPDATE`, n.skus, n.locations, n.ids).Query(b.readLevels)
	case len(n.skus) == 1:
		read.Queue("SELECT "+levelColumns+" FROM stock WHERE sku = $1 AND location = $2 FOR UPDATE",
			n.skus[0], n.locations[0]).Query(b.readLevels)
	case len(n.skus) > 1:
		read.Queue("SELECT "+levelColumns+` FROM stock WHERE (sku, location) IN (SELECT * FROM unnest($1::text[], $2::text[]))
			ORDER BY sku, location FOR UPDATE`, n.skus, n.locations).Query(b.readLevels)
	}
}

func (b *Batch) readReservations(found pgx.Rows) error {
	for found.Next() {
		r, err := scanReservation(found)
		if err != nil {
			return err
		}
		b.rows.reservations[r.ID] = r
		if r.Status == inventory.Active && r.Key != "" {
			b.rows.active[r.Key] = r.ID
		}
	}
	return found.Err()
}

func (b *Batch) readRemembered(found pgx.Rows) error {
	for found.Next() {
		var hash, fingerprint []byte
		var m inventory.Remembered
		var id, sku, location *string
		var onHand, reserved *int64
		var version *uint64
		if err := found.Scan(&hash, &fingerprint, &id, &sku, &location, &onHand, &reserved, &version); err != nil {
			return err
		}
		copy(m.Fingerprint[:], fingerprint)
		if id != nil {
			m.ReservationID = *id
		} else if sku != nil {
			m.Level = inventory.Level{Place: inventory.Place{SKU: *sku, Location: *location}, OnHand: *onHand, Reserved: *reserved, Version: *version}
		}
		b.rows.remembered[string(hash)] = &m
	}
	return found.Err()
}

func (b *Batch) readLevels(found pgx.Rows) error {
	for found.Next() {
		l, err := scanLevel(found)
		if err != nil {
			return err
		}
		b.rows.levels[l.Place] = l
	}
	return found.Err()
}

// Decide decides every command.
func (b *Batch) Decide() error {
	b.book = inventory.Book{Rows: &b.rows, Expect: len(b.cmds), Now: b.store.cfg.Now().UTC().Truncate(time.Microsecond)}
	for i, cmd := range b.cmds {
		var err error
		if b.out[i], err = b.book.Do(cmd); err != nil {
			return err
		}
		if b.guess && b.out[i].Err != nil {
			return pgdb.ErrReadFirst
		}
	}
	return nil
}

// Write queues the reservations and what is remembered.
func (b *Batch) Write(w *pgdb.Writes) {
	b.writeReservations(w, &b.book)
	b.writeRemembered(w, &b.book)
}

// Number queues the levels and what the counters number. Their rows are locked from there
// on, so it comes last.
func (b *Batch) Number(w *pgdb.Writes) {
	b.writeLevels(w, &b.book)
	b.writeEntries(w, &b.book)
	b.writeCrossings(w, &b.book)
}

// Committed notes which places have nothing left.
func (b *Batch) Committed() {
	for _, l := range b.book.Changed {
		b.rows.levels[l.Place] = *l
	}
	until := time.Now().Add(soldOutFor)
	for p, l := range b.rows.levels {
		b.store.remember(l)
		if l.Available() <= 0 {
			b.store.soldOut.Store(p, until)
		} else if _, was := b.store.soldOut.Load(p); was {
			b.store.soldOut.Delete(p)
		}
	}
}

func (b *Batch) writeReservations(w *pgdb.Writes, book *inventory.Book) {
	type R = *inventory.Reservation
	var made, changed []R
	slices.SortFunc(book.Saved, func(x, y R) int {
		// In order of the unique index in which two processes may meet.
		return cmp.Or(cmp.Compare(x.Key, y.Key), cmp.Compare(x.ID, y.ID))
	})
	for _, r := range book.Saved {
		if b.rows.reservations[r.ID] == nil {
			made = append(made, r)
		} else {
			changed = append(changed, r)
		}
	}
	// What is closed goes first: it may free a key that a new one takes.
	if len(changed) > 0 {
		w.Queue(`UPDATE reservations r SET status = u.status, expires_at = u.expires_at, closed_at = u.closed_at,
				committed = u.committed::bigint[], version = u.version
			FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::bigint[])
				u(id, status, expires_at, closed_at, committed, version) WHERE r.id = u.id`,
			pgdb.Of(changed, func(r R) string { return r.ID }), pgdb.Of(changed, func(r R) string { return r.Status.String() }),
			pgdb.Of(changed, func(r R) time.Time { return r.ExpiresAt }), pgdb.Of(changed, closedAt),
			pgdb.Of(changed, committedLiteral), pgdb.Of(changed, func(r R) uint64 { return r.Version }))
	}
	if len(made) > 0 {
		insertReservations(w, made)
	}
}

func (b *Batch) writeRemembered(w *pgdb.Writes, book *inventory.Book) {
	if len(book.Memories) == 0 {
		return
	}
	type record struct {
		hash []byte
		m    *inventory.Remembered
	}
	records := make([]record, 0, len(book.Memories))
	for key, m := range book.Memories {
		records = append(records, record{hashKey(key), m})
	}
	slices.SortFunc(records, func(a, b record) int { return bytes.Compare(a.hash, b.hash) })
	// Of a reservation and a level one is empty.
	type R = record
	pgdb.Insert(w, "stock_keys",
		pgdb.Each("key_hash", "bytea", pgdb.Of(records, func(r R) []byte { return r.hash })),
		pgdb.Each("fingerprint", "bytea", pgdb.Of(records, func(r R) []byte { return r.m.Fingerprint[:] })),
		pgdb.Each("reservation_id", "text", pgdb.Of(records, func(r R) *string { return pgdb.Optional(r.m.ReservationID) })),
		pgdb.Each("sku", "text", pgdb.Of(records, func(r R) *string { return pgdb.Optional(r.m.Level.SKU) })),
		pgdb.Each("location", "text", pgdb.Of(records, func(r R) *string { return pgdb.Optional(r.m.Level.Location) })),
		pgdb.Each("on_hand", "bigint", pgdb.Of(records, func(r R) int64 { return r.m.Level.OnHand })),
		pgdb.Each("reserved", "bigint", pgdb.Of(records, func(r R) int64 { return r.m.Level.Reserved })),
		pgdb.Each("version", "bigint", pgdb.Of(records, func(r R) uint64 { return r.m.Level.Version })),
		pgdb.One("created_at", "timestamptz", book.Now),
	)
}

func (b *Batch) writeLevels(w *pgdb.Writes, book *inventory.Book) {
	tracked := map[inventory.Place]bool{}
	for i := range book.Entries {
		if e := &book.Entries[i]; e.Policy == inventory.Track {
			tracked[e.Place] = true
		}
	}
	slices.SortFunc(book.Changed, func(x, y *inventory.Level) int { return x.Compare(y.Place) })
	var made, changed, held levelRows
	for _, l := range book.Changed {
		was := b.rows.levels[l.Place]
		switch {
		case was.Version == 0:
			made.add(l, tracked[l.Place])
		case b.guess && l.OnHand == was.OnHand && l.Available() > 0:
			more := inventory.Level{Place: l.Place, Reserved: l.Reserved - was.Reserved, Version: l.Version - was.Version}
			held.add(&more, tracked[l.Place])
		default:
			changed.add(l, tracked[l.Place])
			changed.was(&was)
		}
	}
	if len(made.skus) > 0 {
		w.Queue(`INSERT INTO stock (sku, location, on_hand, reserved, version, track)
			SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::boolean[])`, made.args()...)
	}
	if b.guess && len(held.skus) > 0 && len(changed.skus) > 0 {
		// In order of both. One statement alone finds its rows through the array or the
		// primary key, and both are in order.
		w.Queue(`SELECT count(*) FROM (SELECT 1 FROM stock WHERE (sku, location) IN (SELECT * FROM unnest($1::text[], $2::text[]))
			ORDER BY sku, location FOR UPDATE) locked`, slices.Concat(held.skus, changed.skus), slices.Concat(held.locations, changed.locations))
	}
	// Where plenty is left it does not matter what others have sold meanwhile, as long as
	// plenty is left: nothing crosses zero, and the row is locked for the end of the batch only.
	if len(held.skus) == 1 {
		w.Queue(`WITH u AS (UPDATE stock SET reserved = reserved + $3, version = version + $4, track = track OR $5
			WHERE sku = $1 AND location = $2 AND on_hand - reserved > $3 RETURNING 1)`+pgdb.Expect("1"),
			held.skus[0], held.locations[0], held.reserved[0], held.versions[0], held.track[0])
	}
	if len(held.skus) > 1 {
		w.Queue(`WITH u AS (UPDATE stock s SET reserved = s.reserved + n.more, version = s.version + n.entries, track = s.track OR n.track
			FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::boolean[]) n(sku, location, more, entries, track)
			WHERE s.sku = n.sku AND s.location = n.location AND s.on_hand - s.reserved > n.more
			RETURNING 1)`+pgdb.Expect("$6"), held.skus, held.locations, held.reserved, held.versions, held.track, len(held.skus))
	}
	if len(changed.skus) > 0 {
		// All of a level is compared, not its version alone: another history may have come to the same version.
		w.Queue(`WITH u AS (UPDATE stock s SET on_hand = n.on_hand, reserved = n.reserved, version = n.version, track = s.track OR n.track
			FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::boolean[], $7::bigint[], $8::bigint[], $9::bigint[])
				n(sku, location, on_hand, reserved, version, track, was_on_hand, was_reserved, was_version)
			WHERE s.sku = n.sku AND s.location = n.location
				AND s.on_hand = n.was_on_hand AND s.reserved = n.was_reserved AND s.version = n.was_version
			RETURNING 1)`+pgdb.Expect("$10"),
			append(changed.args(), changed.wasOnHand, changed.wasReserved, changed.wasVersions, len(changed.skus))...)
	}
}

func (b *Batch) writeEntries(w *pgdb.Writes, book *inventory.Book) {
	entries := book.Entries
	if len(entries) == 0 {
		return
	}
	type E = inventory.Entry
	pgdb.InsertNumbered(w, "stock_ledger", pgdb.CounterLedger, len(entries),
		pgdb.One("time", "timestamptz", book.Now),
		pgdb.Alike("kind", "text", pgdb.Of(entries, func(e E) string { return kindName(e.Kind) })),
		pgdb.Alike("sku", "text", pgdb.Of(entries, func(e E) string { return e.Place.SKU })),
		pgdb.Alike("location", "text", pgdb.Of(entries, func(e E) string { return e.Place.Location })),
		pgdb.Alike("policy", "text", pgdb.Of(entries, func(e E) string { return e.Policy.String() })),
		pgdb.Alike("quantity", "bigint", pgdb.Of(entries, func(e E) int64 { return e.Quantity })),
		pgdb.Each("reservation_id", "text", pgdb.Of(entries, func(e E) *string { return pgdb.Optional(e.ReservationID) })),
		pgdb.Each("order_id", "text", pgdb.Of(entries, func(e E) *string { return pgdb.Optional(e.OrderID) })),
		pgdb.AlikeText("reference", pgdb.Of(entries, func(e E) string { return e.Reference })),
		pgdb.AlikeText("reason", pgdb.Of(entries, func(e E) string { return e.Reason })),
	)
}

func (b *Batch) writeCrossings(w *pgdb.Writes, book *inventory.Book) {
	crossings := book.Crossings
	if len(crossings) == 0 {
		return
	}
	type C = inventory.Crossing
	pgdb.InsertNumbered(w, "stock_events", pgdb.CounterStockEvents, len(crossings),
		pgdb.One("time", "timestamptz", book.Now),
		pgdb.Each("depleted", "boolean", pgdb.Of(crossings, func(c C) bool { return c.Depleted })),
		pgdb.Each("sku", "text", pgdb.Of(crossings, func(c C) string { return c.Level.SKU })),
		pgdb.Each("location", "text", pgdb.Of(crossings, func(c C) string { return c.Level.Location })),
		pgdb.Each("on_hand", "bigint", pgdb.Of(crossings, func(c C) int64 { return c.Level.OnHand })),
		pgdb.Each("reserved", "bigint", pgdb.Of(crossings, func(c C) int64 { return c.Level.Reserved })),
		pgdb.Each("version", "bigint", pgdb.Of(crossings, func(c C) uint64 { return c.Level.Version })),
	)
}

func kindName(k inventory.EntryKind) string { return kindNames[k] }

//nolint:gochecknoglobals // a constant
var kindNames = [...]string{"", "received", "adjusted", "reserved", "committed", "released", "expired"}

func parseKind(name string) (inventory.EntryKind, error) {
	if i := slices.Index(kindNames[1:], name); i >= 0 {
		return inventory.EntryKind(i + 1), nil
	}
	return 0, fmt.Errorf("kind %q is not known", name)
}
