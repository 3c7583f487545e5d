// Package inventorypg keeps stock, reservations and the ledger in PostgreSQL; any number
// of processes may do so in one database. internal/pgdb has the schema.
//
// A batch locks the reservations that it changes, then the levels that it needs, each in
// sorted order, and last the counters. What it finds there decides. Of what is in memory
// two things are used: a place which had nothing available a moment ago is refused for as
// long as soldOutFor, and a batch of new orders may guess levels (Batch.Guess), which
// writing then compares with what is stored.
package inventorypg

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/puzpuzpuz/xsync/v4"

	"github.com/penstockhq/penstock/internal/groupcommit"
	"github.com/penstockhq/penstock/internal/inventory"
	"github.com/penstockhq/penstock/internal/pgdb"
)

// Config of a Store. The zero value is ready for use.
type Config struct {
	// KeepKeys is how long idempotency keys are remembered. Defaults to 24 h.
	KeepKeys time.Duration
	// Batch bounds the group commit; see groupcommit.Config for defaults.
	Batch groupcommit.Config
	// Now is the clock. Defaults to the database's.
	Now func() time.Time
}

// soldOutFor is how long it is believed that a place has nothing available: another
// process may have received stock meanwhile.
const soldOutFor = 200 * time.Millisecond

// Store is an inventoryservice.Store.
type Store struct {
	cfg     Config
	db      *pgdb.DB
	batcher *groupcommit.Batcher[inventory.Command, inventory.Outcome]
	known   *pgdb.Lookup[inventory.ReserveKeys, bool]
	soldOut *xsync.Map[inventory.Place, time.Time] // until when it is believed
	// levels is what levels were when this process last saw or wrote them: a guess. Writing
	// compares it with what is stored, or, where plenty is left, asks only that some remains.
	levels *xsync.Map[inventory.Place, inventory.Level]
}

// maxGuesses bounds the levels in memory.
const maxGuesses = 200_000

func (s *Store) remember(l inventory.Level) {
	if l.Version == 0 {
		return // it has no row that could be compared
	}
	if s.levels.Size() >= maxGuesses {
		s.levels.Clear()
	}
	s.levels.Store(l.Place, l)
}

// Forgo has the places of commands be read the next time: what was guessed did not hold.
func (s *Store) Forgo(cmds []inventory.Command) {
	for p := range (&Batch{store: s, cmds: cmds}).needs().places {
		s.levels.Delete(p)
	}
}

// Open starts the group commit.
func Open(cfg Config, db *pgdb.DB) (*Store, error) {
	cfg.KeepKeys = cmp.Or(cfg.KeepKeys, 24*time.Hour)
	cfg.Batch.Name = cmp.Or(cfg.Batch.Name, "inventory's database")
	if cfg.Now == nil {
		cfg.Now = db.Now
	}
	s := &Store{cfg: cfg, db: db, soldOut: xsync.NewMap[inventory.Place, time.Time](), levels: xsync.NewMap[inventory.Place, inventory.Level]()}
	var err error
	if s.known, err = pgdb.NewLookup(db, "look-up of reservations", s.findKnown); err != nil {
		return nil, fmt.Errorf("open inventory: %w", err)
	}
	if s.batcher, err = groupcommit.New(cfg.Batch, s); err != nil {
		_ = s.known.Stop(context.Background()) // it has nothing to finish
		return nil, fmt.Errorf("open inventory: %w", err)
	}
	return s, nil
}

// Stop finishes what is queued and ends the store's goroutines.
func (s *Store) Stop(ctx context.Context) error {
	if err := s.batcher.Stop(ctx); err != nil {
		return err
	}
	return s.known.Stop(ctx)
}

// Failed is never closed by an outage of the database: the store goes on when that is back.
func (s *Store) Failed() <-chan struct{} { return s.batcher.Failed() }

// Err returns why the store failed, nil while it has not.
func (s *Store) Err() error { return s.batcher.Err() }

// Queued returns how many commands wait.
func (s *Store) Queued() int { return s.batcher.Queued() }

// Execute carries out new work; see inventoryservice.Store.
func (s *Store) Execute(ctx context.Context, cmds []inventory.Command) ([]inventory.Outcome, error) {
	return s.batcher.SubmitAll(ctx, cmds)
}

// Continue carries out later steps of accepted work; see inventoryservice.Store.
func (s *Store) Continue(ctx context.Context, cmds []inventory.Command) ([]inventory.Outcome, error) {
	return s.batcher.Continue(ctx, cmds)
}

// Apply decides a batch and begins to write it; it is the group commit's to call.
func (s *Store) Apply(cmds []inventory.Command, out []inventory.Outcome) (groupcommit.Commit, error) {
	return s.db.Begin(s.NewBatch(cmds, out))
}

// SoldOut reports whether p had nothing to be had a moment ago.
func (s *Store) SoldOut(p inventory.Place) bool {
	until, ok := s.soldOut.Load(p)
	return ok && time.Now().Before(until)
}

// Known reports whether an earlier try of cmd may have been carried out.
func (s *Store) Known(ctx context.Context, cmd *inventory.ReserveCommand) (bool, error) {
	keys := inventory.ReserveKeys{Key: cmd.Key, Memory: cmd.Memory.Key}
	if keys == (inventory.ReserveKeys{}) {
		return false, nil
	}
	found, err := s.known.Get(ctx, keys)
	return found != nil, err
}

func (s *Store) findKnown(ctx context.Context, keys []inventory.ReserveKeys) (map[inventory.ReserveKeys]*bool, error) {
	yes := true
	found := map[inventory.ReserveKeys]*bool{}
	active, remembered := map[string]bool{}, map[string]bool{}
	var actives, hashes [][]byte
	for _, k := range keys {
		if k.Key != "" {
			actives = append(actives, []byte(k.Key))
		}
		if k.Memory != "" {
			hashes = append(hashes, hashKey(k.Memory))
		}
	}
	collect := func(into map[string]bool) func(pgx.Rows) error {
		return func(rows pgx.Rows) error {
			var key []byte
			err := rows.Scan(&key)
			into[string(key)] = true
			return err
		}
	}
	if len(actives) > 0 {
		err := s.db.Query(ctx, "SELECT key FROM reservations WHERE status = 'active' AND key IS NOT NULL AND key = ANY($1)", []any{actives}, collect(active))
		if err != nil {
			return nil, err
		}
	}
	if len(hashes) > 0 {
		if err := s.db.Query(ctx, "SELECT key_hash FROM stock_keys WHERE key_hash = ANY($1)", []any{hashes}, collect(remembered)); err != nil {
			return nil, err
		}
	}
	for _, k := range keys {
		if active[k.Key] || k.Memory != "" && remembered[string(hashKey(k.Memory))] {
			found[k] = &yes
		}
	}
	return found, nil
}

const levelColumns = "sku, location, on_hand, reserved, version"

func scanLevel(rows pgx.Rows) (l inventory.Level, err error) {
	return l, rows.Scan(&l.SKU, &l.Location, &l.OnHand, &l.Reserved, &l.Version)
}

// Level returns the level at p; see inventoryservice.Store.
func (s *Store) Level(ctx context.Context, p inventory.Place) (level inventory.Level, ok bool, err error) {
	level.Place = p
	err = s.db.Query(ctx, "SELECT "+levelColumns+" FROM stock WHERE sku = $1 AND location = $2", []any{p.SKU, p.Location},
		func(rows pgx.Rows) (err error) {
			ok = true
			level, err = scanLevel(rows)
			return err
		})
	return level, ok, err
}

// Levels lists levels; see inventoryservice.Store.
func (s *Store) Levels(ctx context.Context, prefix string, after inventory.Place, limit int) (levels []inventory.Level, err error) {
	err = s.db.Query(ctx, "SELECT "+levelColumns+` FROM stock WHERE (sku, location) > ($1, $2) AND sku >= $3 AND starts_with(sku, $3)
		ORDER BY sku, location LIMIT $4`, []any{after.SKU, after.Location, prefix, limit},
		func(rows pgx.Rows) error {
			l, err := scanLevel(rows)
			levels = append(levels, l)
			return err
		})
	return levels, err
}

// Reservation returns one reservation; see inventoryservice.Store.
func (s *Store) Reservation(ctx context.Context, id string) (r inventory.Reservation, err error) {
	found := false
	err = s.db.Query(ctx, "SELECT "+reservationColumns+" FROM reservations WHERE id = $1", []any{id}, func(rows pgx.Rows) error {
		read, err := scanReservation(rows)
		if err == nil {
			r, found = *read, true
		}
		return err
	})
	if err == nil && !found {
		return r, inventory.NotFound(id)
	}
	return r, err
}

// Due returns active reservations whose time has passed; see inventoryservice.Store.
func (s *Store) Due(ctx context.Context, now time.Time, limit int) (ids []string, err error) {
	err = s.db.Query(ctx, `SELECT id FROM reservations WHERE closed_at IS NULL AND expires_at <= $1 ORDER BY expires_at LIMIT $2`,
		[]any{now, limit}, func(rows pgx.Rows) error {
			var id string
			err := rows.Scan(&id)
			ids = append(ids, id)
			return err
		})
	return ids, err
}

// Ledger returns up to limit entries after the given position, oldest first.
func (s *Store) Ledger(ctx context.Context, after uint64, limit int) (entries []inventory.Entry, err error) {
	err = s.db.Query(ctx, "SELECT "+entryColumns+" FROM stock_ledger WHERE seq > $1 ORDER BY seq LIMIT $2", []any{after, limit},
		func(rows pgx.Rows) error {
			e, err := scanEntry(rows)
			entries = append(entries, e)
			return err
		})
	return entries, err
}

// Closings returns the entries that ended orders' reservations; see inventoryservice.Store.
func (s *Store) Closings(ctx context.Context, after uint64, limit int) (entries []inventory.Entry, last uint64, err error) {
	// The counter is read first: what is numbered up to it is committed.
	counters, err := s.db.Counters(ctx)
	if err != nil {
		return nil, after, err
	}
	err = s.db.Query(ctx, "SELECT "+entryColumns+` FROM stock_ledger
		WHERE seq > $1 AND seq <= $2 AND order_id IS NOT NULL AND kind IN ('committed', 'released', 'expired')
		ORDER BY seq LIMIT $3`, []any{after, counters[pgdb.CounterLedger], limit},
		func(rows pgx.Rows) error {
			e, err := scanEntry(rows)
			entries = append(entries, e)
			return err
		})
	if err != nil {
		return nil, after, err
	}
	if len(entries) == limit {
		return entries, entries[limit-1].Seq, nil
	}
	return entries, max(after, counters[pgdb.CounterLedger]), nil
}

// Crossings returns crossings; see inventoryservice.Store.
func (s *Store) Crossings(ctx context.Context, after uint64, limit int) ([]inventory.Crossing, error) {
	return pgdb.ReadLog(ctx, s.db, "stock_events", crossingColumns, pgdb.CounterStockEventsTrimmed, after, limit, scanCrossing,
		func(c *inventory.Crossing) uint64 { return c.Seq })
}

// Trim removes ledger entries that are older than before, with the events of stock that
// they made, and returns how many. What they come to is kept as a base. Entries that the
// orders have not followed yet stay.
func (s *Store) Trim(ctx context.Context, before time.Time) (int64, error) {
	counters, err := s.db.Counters(ctx)
	if err != nil {
		return 0, err
	}
	return s.db.Trim(ctx, "stock_ledger", pgdb.CounterLedgerTrimmed, before, int64(counters[pgdb.CounterFollowed]), func(b *pgx.Batch, upTo int64) {
		b.Queue(foldLedger, upTo)
		b.Queue("DELETE FROM reservations_base WHERE open = 0")
		b.Queue(`WITH gone AS (DELETE FROM stock_events e USING stock_base b
				WHERE e.sku = b.sku AND e.location = b.location AND e.version <= b.version AND e.time < $1 RETURNING e.seq)
			UPDATE counters SET value = greatest(value, (SELECT max(seq) FROM gone)) WHERE name = $2 AND EXISTS (SELECT FROM gone)`,
			before, pgdb.CounterStockEventsTrimmed)
	})
}

// foldLedger moves entries of the ledger into the base; inventory.Entry.Effect is the
// same in Go.
const foldLedger = `WITH gone AS (
		DELETE FROM stock_ledger WHERE seq <= $1 RETURNING kind, sku, location, policy, quantity, reservation_id, order_id
	), levels AS (
		INSERT INTO stock_base AS b (sku, location, on_hand, reserved, version)
		SELECT sku, location,
			sum(CASE WHEN kind IN ('received', 'adjusted') THEN quantity WHEN kind = 'committed' THEN -quantity ELSE 0 END),
			sum(CASE WHEN kind = 'reserved' THEN quantity WHEN kind IN ('committed', 'released', 'expired') THEN -quantity ELSE 0 END),
			count(*)
		FROM gone WHERE policy <> 'untracked' GROUP BY sku, location
		ON CONFLICT (sku, location) DO UPDATE
			SET on_hand = b.on_hand + excluded.on_hand, reserved = b.reserved + excluded.reserved, version = b.version + excluded.version
	)
	INSERT INTO reservations_base AS b (reservation_id, order_id, open, committed)
	SELECT reservation_id, max(order_id), sum(CASE WHEN kind = 'reserved' THEN quantity ELSE -quantity END),
		sum(CASE WHEN kind = 'committed' THEN quantity ELSE 0 END)
	FROM gone WHERE reservation_id IS NOT NULL GROUP BY reservation_id
	ON CONFLICT (reservation_id) DO UPDATE SET open = b.open + excluded.open, committed = b.committed + excluded.committed`

// Forget removes idempotency keys that are older than Config.KeepKeys, some at a time,
// and returns how many.
func (s *Store) Forget(ctx context.Context) (int64, error) {
	return s.db.ForgetRows(ctx, "stock_keys", s.cfg.Now().Add(-s.cfg.KeepKeys))
}

func hashKey(key string) []byte {
	sum := sha256.Sum256([]byte(key))
	return sum[:16]
}
