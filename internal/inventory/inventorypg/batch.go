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

// Decide decides every command and queues what changed.
func (b *Batch) Decide(write *pgx.Batch) error {
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
	b.writeReservations(write, &b.book)
	b.writeRemembered(write, &b.book)
	return nil
}

// Number queues the levels and what the counters number. Their rows are locked from there
// on, so it comes last.
func (b *Batch) Number(write *pgx.Batch) {
	b.writeLevels(write, &b.book)
	b.writeEntries(write, &b.book)
	b.writeCrossings(write, &b.book)
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

func (b *Batch) writeReservations(write *pgx.Batch, book *inventory.Book) {
	var made, changed reservationRows
	slices.SortFunc(book.Saved, func(x, y *inventory.Reservation) int {
		// In order of the unique index in which two processes may meet.
		return cmp.Or(cmp.Compare(x.Key, y.Key), cmp.Compare(x.ID, y.ID))
	})
	for _, r := range book.Saved {
		if b.rows.reservations[r.ID] == nil {
			made.add(r)
		} else {
			changed.add(r)
		}
	}
	// What is closed goes first: it may free a key that a new one takes.
	if len(changed.ids) > 0 {
		write.Queue(`UPDATE reservations r SET status = u.status, expires_at = u.expires_at, closed_at = u.closed_at,
				committed = u.committed::bigint[], version = u.version
			FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::bigint[])
				u(id, status, expires_at, closed_at, committed, version) WHERE r.id = u.id`,
			changed.ids, changed.statuses, changed.expires, changed.closed, changed.committed, changed.versions)
	}
	if len(made.ids) > 0 {
		write.Queue(`INSERT INTO reservations (id, status, order_id, reference, key, skus, locations, quantities, committed, policies,
				created_at, expires_at, closed_at, version)
			SELECT id, status, order_id, reference, key, skus::text[], locations::text[], quantities::bigint[], committed::bigint[],
				policies::text[], created_at, expires_at, closed_at, version
			FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[],
				$11::timestamptz[], $12::timestamptz[], $13::timestamptz[], $14::bigint[])
				u(id, status, order_id, reference, key, skus, locations, quantities, committed, policies, created_at, expires_at, closed_at, version)`,
			made.ids, made.statuses, made.orders, made.references, made.keys, made.skus, made.locations, made.quantities, made.committed,
			made.policies, made.created, made.expires, made.closed, made.versions)
	}
}

func (b *Batch) writeRemembered(write *pgx.Batch, book *inventory.Book) {
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
	n := len(records)
	hashes, fingerprints, ids := make([][]byte, n), make([][]byte, n), make([]*string, n)
	skus, locations := make([]*string, n), make([]*string, n)
	onHand, reserved, versions := make([]int64, n), make([]int64, n), make([]uint64, n)
	for i, r := range records {
		hashes[i], fingerprints[i] = r.hash, r.m.Fingerprint[:]
		if r.m.ReservationID != "" {
			ids[i] = &r.m.ReservationID
			continue
		}
		l := &r.m.Level
		skus[i], locations[i], onHand[i], reserved[i], versions[i] = &l.SKU, &l.Location, l.OnHand, l.Reserved, l.Version
	}
	write.Queue(`INSERT INTO stock_keys (key_hash, fingerprint, reservation_id, sku, location, on_hand, reserved, version, created_at)
		SELECT *, $9::timestamptz FROM unnest($1::bytea[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[])`,
		hashes, fingerprints, ids, skus, locations, onHand, reserved, versions, book.Now)
}

func (b *Batch) writeLevels(write *pgx.Batch, book *inventory.Book) {
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
		write.Queue(`INSERT INTO stock (sku, location, on_hand, reserved, version, track)
			SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::boolean[])`, made.args()...)
	}
	if skus := slices.Concat(held.skus, changed.skus); b.guess && len(skus) > 1 {
		// In order, which the update does not promise.
		write.Queue(`SELECT count(*) FROM (SELECT 1 FROM stock WHERE (sku, location) IN (SELECT * FROM unnest($1::text[], $2::text[]))
			ORDER BY sku, location FOR UPDATE) locked`, skus, slices.Concat(held.locations, changed.locations))
	}
	if len(held.skus) > 0 {
		// Where plenty is left it does not matter what others have sold meanwhile, as long as
		// plenty is left: nothing crosses zero, and the row is locked for the end of the batch only.
		write.Queue(`WITH u AS (UPDATE stock s SET reserved = s.reserved + n.more, version = s.version + n.entries, track = s.track OR n.track
			FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::boolean[]) n(sku, location, more, entries, track)
			WHERE s.sku = n.sku AND s.location = n.location AND s.on_hand - s.reserved > n.more
			RETURNING 1)`+pgdb.Expect("$6"), held.skus, held.locations, held.reserved, held.versions, held.track, len(held.skus))
	}
	if len(changed.skus) > 0 {
		// All of a level is compared, not its version alone: another history may have come to the same version.
		write.Queue(`WITH u AS (UPDATE stock s SET on_hand = n.on_hand, reserved = n.reserved, version = n.version, track = s.track OR n.track
			FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::boolean[], $7::bigint[], $8::bigint[], $9::bigint[])
				n(sku, location, on_hand, reserved, version, track, was_on_hand, was_reserved, was_version)
			WHERE s.sku = n.sku AND s.location = n.location
				AND s.on_hand = n.was_on_hand AND s.reserved = n.was_reserved AND s.version = n.was_version
			RETURNING 1)`+pgdb.Expect("$10"),
			append(changed.args(), changed.wasOnHand, changed.wasReserved, changed.wasVersions, len(changed.skus))...)
	}
}

func (b *Batch) writeEntries(write *pgx.Batch, book *inventory.Book) {
	n := len(book.Entries)
	if n == 0 {
		return
	}
	kinds, skus, locations, policies := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	quantities := make([]int64, n)
	ids, orders, references, reasons := make([]*string, n), make([]*string, n), make([]*string, n), make([]*string, n)
	for i := range book.Entries {
		e := &book.Entries[i]
		kinds[i], skus[i], locations[i], policies[i], quantities[i] = kindName(e.Kind), e.Place.SKU, e.Place.Location, e.Policy.String(), e.Quantity
		ids[i], orders[i], references[i], reasons[i] = pgdb.Optional(e.ReservationID), pgdb.Optional(e.OrderID), pgdb.Optional(e.Reference), pgdb.Optional(e.Reason)
	}
	write.Queue(`WITH c AS (UPDATE counters SET value = value + $11 WHERE name = $12 RETURNING value - $11 AS base)
		INSERT INTO stock_ledger (seq, time, kind, sku, location, policy, quantity, reservation_id, order_id, reference, reason)
		SELECT c.base + u.n, $10::timestamptz, u.kind, u.sku, u.location, u.policy, u.quantity, u.reservation_id, u.order_id, u.reference, u.reason
		FROM c, unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::text[])
			WITH ORDINALITY u(kind, sku, location, policy, quantity, reservation_id, order_id, reference, reason, n)`,
		kinds, skus, locations, policies, quantities, ids, orders, references, reasons, book.Now, int64(n), pgdb.CounterLedger)
}

func (b *Batch) writeCrossings(write *pgx.Batch, book *inventory.Book) {
	n := len(book.Crossings)
	if n == 0 {
		return
	}
	depleted, rows := make([]bool, n), levelRows{}
	for i := range book.Crossings {
		c := &book.Crossings[i]
		depleted[i] = c.Depleted
		rows.add(&c.Level, false)
	}
	write.Queue(`WITH c AS (UPDATE counters SET value = value + $8 WHERE name = $9 RETURNING value - $8 AS base)
		INSERT INTO stock_events (seq, time, depleted, sku, location, on_hand, reserved, version)
		SELECT c.base + u.n, $7::timestamptz, u.depleted, u.sku, u.location, u.on_hand, u.reserved, u.version
		FROM c, unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::boolean[])
			WITH ORDINALITY u(sku, location, on_hand, reserved, version, depleted, n)`,
		rows.skus, rows.locations, rows.onHand, rows.reserved, rows.versions, depleted, book.Now, int64(n), pgdb.CounterStockEvents)
}

func kindName(k inventory.EntryKind) string { return kindNames[k] }

//nolint:gochecknoglobals // a constant
var kindNames = [...]string{"", "received", "adjusted", "reserved", "committed", "released", "expired"}

func parseKind(name string) (inventory.EntryKind, error) {
	if i := slices.Index(kindNames[1:], name); i >= 0 {
		return inventory.EntryKind(i + 1), nil
	}
	return 0, fmt.Errorf("ledger kind %q is not known", name)
}
