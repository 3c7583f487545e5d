// Package inventorypebble keeps the inventory in the data folder's Pebble database.
//
// All stock levels are in memory as well, so that sold-out SKUs are refused without a
// read, and so are the IDs of active reservations. One writer, the group commit's
// decider, changes both; it does so after it has handed the batch to Pebble and before
// it decides the next, so memory is never behind what a later command must see.
//
// Rows, each value beginning with a version byte:
//
//	is SKU 0 location  → level
//	io reservation     → active reservation
//	ir reservation     → closed reservation
//	il number          → segment of the ledger
//	ie number          → segment of the crossings
//	ik bucket hash     → remembered answer to an idempotency key
//	ib SKU 0 location  → level that the removed part of the ledger comes to
//	ih reservation     → what a reservation held after that part, if it was open
package inventorypebble

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/puzpuzpuz/xsync/v4"

	"github.com/penstockhq/penstock/internal/groupcommit"
	"github.com/penstockhq/penstock/internal/id"
	"github.com/penstockhq/penstock/internal/inventory"
	"github.com/penstockhq/penstock/internal/pebbledb"
)

//nolint:gochecknoglobals // constants
var (
	prefixLevel     = []byte("is")
	prefixOpen      = []byte("io")
	prefixClosed    = []byte("ir")
	prefixLedger    = []byte("il")
	prefixCrossing  = []byte("ie")
	prefixKey       = []byte("ik")
	prefixBaseLevel = []byte("ib")
	prefixBaseHold  = []byte("ih")
)

// Config of a Store. The zero value is ready for use.
type Config struct {
	// KeepKeys is how long idempotency keys are remembered. Defaults to 24 h.
	KeepKeys time.Duration
	// Batch bounds the group commit; see groupcommit.Config for defaults.
	Batch groupcommit.Config
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
}

// counts is a level without its place: what the table of levels holds. It is replaced
// as a whole, so a reader sees one moment's counts.
type counts struct {
	onHand, reserved int64
	version          uint64
}

// Store is an inventoryservice.Store. Open one on an open database; Stop it before
// closing that.
type Store struct {
	cfg       Config
	db        *pebbledb.DB
	batcher   *groupcommit.Batcher[inventory.Command, inventory.Outcome]
	levels    *xsync.Map[inventory.Place, counts]
	schedule  *schedule
	ledger    *pebbledb.Log
	crossings *pebbledb.Log
	keys      *pebbledb.KeyTable
	// The writer's own.
	rows  pebbledb.Rows
	swept time.Time // when old keys were last dropped
}

// Open reads levels and active reservations into memory and starts the group commit.
func Open(cfg Config, db *pebbledb.DB) (*Store, error) {
	cfg.KeepKeys = cmp.Or(cfg.KeepKeys, 24*time.Hour)
	cfg.Batch.Name = "inventory's store"
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Store{cfg: cfg, db: db, levels: xsync.NewMap[inventory.Place, counts](), schedule: newSchedule()}
	if err := s.load(); err != nil {
		return nil, err
	}
	var err error
	if s.keys, err = pebbledb.OpenKeyTable(db.DB, prefixKey, cfg.KeepKeys); err != nil {
		return nil, fmt.Errorf("open inventory: %w", err)
	}
	if s.batcher, err = groupcommit.New(cfg.Batch, s); err != nil {
		s.keys.Close()
		return nil, fmt.Errorf("open inventory: %w", err)
	}
	return s, nil
}

func (s *Store) load() error {
	snap := Snapshot{s.db}
	err := snap.Levels(context.Background(), func(l inventory.Level) error {
		s.levels.Store(l.Place, counts{l.OnHand, l.Reserved, l.Version})
		return nil
	})
	if err != nil {
		return fmt.Errorf("load stock: %w", err)
	}
	err = each(s.db, prefixOpen, nil, func(key, value []byte) error {
		if len(key) != 16 {
			return fmt.Errorf("reservation key %x: %w", key, pebbledb.ErrCorrupt)
		}
		answersTo, ends, err := decodeEnd(value)
		if err != nil {
			return err
		}
		s.schedule.put([16]byte(key), answersTo, ends)
		return nil
	})
	if err != nil {
		return fmt.Errorf("load reservations: %w", err)
	}
	if s.ledger, err = pebbledb.OpenLog(s.db, prefixLedger); err != nil {
		return fmt.Errorf("open ledger: %w", err)
	}
	if s.crossings, err = pebbledb.OpenLog(s.db, prefixCrossing); err != nil {
		return fmt.Errorf("open stock events: %w", err)
	}
	return nil
}

// Stop finishes what is queued and ends the store's goroutines.
func (s *Store) Stop(ctx context.Context) error {
	defer s.keys.Close()
	return s.batcher.Stop(ctx)
}

// Failed is closed when a write failed and the store has stopped for good.
func (s *Store) Failed() <-chan struct{} { return s.batcher.Failed() }

// Err returns why the store failed, nil while it has not.
func (s *Store) Err() error { return s.batcher.Err() }

// Queued returns how many commands wait.
func (s *Store) Queued() int { return s.batcher.Queued() }

// Active returns how many reservations are active.
func (s *Store) Active() int { return s.schedule.count() }

// Execute carries out new work; see inventoryservice.Store.
func (s *Store) Execute(ctx context.Context, cmds []inventory.Command) ([]inventory.Outcome, error) {
	if err := s.db.CheckSpace(s.cfg.Now()); err != nil {
		return nil, err
	}
	return s.batcher.SubmitAll(ctx, cmds)
}

// Continue carries out later steps of accepted work; see inventoryservice.Store.
func (s *Store) Continue(ctx context.Context, cmds []inventory.Command) ([]inventory.Outcome, error) {
	return s.batcher.Continue(ctx, cmds)
}

// Level returns the level at p; see inventoryservice.Store.
func (s *Store) Level(ctx context.Context, p inventory.Place) (inventory.Level, bool, error) {
	c, ok := s.levels.Load(p)
	level := inventory.Level{Place: p, OnHand: c.onHand, Reserved: c.reserved, Version: c.version}
	return level, ok, s.barrier(ctx)
}

// SoldOut reports whether there is nothing to be had at p right now.
func (s *Store) SoldOut(p inventory.Place) bool {
	c, _ := s.levels.Load(p)
	return c.onHand <= c.reserved
}

// Known reports whether an earlier try of cmd may have been carried out.
func (s *Store) Known(_ context.Context, cmd *inventory.ReserveCommand) (bool, error) {
	if cmd.Key != "" {
		if _, ok := s.schedule.find(slotOf([16]byte{}, cmd.Key)); ok {
			return true, nil
		}
	}
	if cmd.Memory.Key == "" {
		return false, nil
	}
	found, err := s.keys.Get(s.db, hashKey(cmd.Memory.Key))
	return found != nil, err
}

// errEnough ends a scan.
var errEnough = errors.New("enough")

// Levels lists levels; see inventoryservice.Store.
func (s *Store) Levels(ctx context.Context, prefix string, after inventory.Place, limit int) ([]inventory.Level, error) {
	from := []byte(prefix)
	if after != (inventory.Place{}) {
		// The first key after it is the same with one more zero byte.
		key := levelKey(after)
		from = append(key[len(prefixLevel):], 0) //nolint:gocritic // the key is not used any more
	}
	var levels []inventory.Level
	err := each(s.db, prefixLevel, from, func(key, value []byte) error {
		if len(levels) == limit || !bytes.HasPrefix(key, []byte(prefix)) {
			return errEnough
		}
		p, err := parseLevelKey(key)
		if err != nil {
			return err
		}
		level, err := decodeLevel(p, value)
		levels = append(levels, level)
		return err
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return levels, s.barrier(ctx)
}

// Reservation returns one reservation; see inventoryservice.Store.
func (s *Store) Reservation(ctx context.Context, text string) (inventory.Reservation, error) {
	r, err := rows{s}.Reservation(text)
	if err != nil {
		return inventory.Reservation{}, err
	}
	if r == nil {
		return inventory.Reservation{}, inventory.NotFound(text)
	}
	return *r, s.barrier(ctx)
}

// Due returns active reservations whose time has passed; see inventoryservice.Store.
func (s *Store) Due(_ context.Context, now time.Time, limit int) ([]string, error) {
	var ids []string
	for _, raw := range s.schedule.due(now, limit) {
		ids = append(ids, id.FromBytes(id.Reservation, raw))
	}
	return ids, nil
}

// Ledger returns up to limit entries after the given position, oldest first.
func (s *Store) Ledger(ctx context.Context, after uint64, limit int) ([]inventory.Entry, error) {
	return readLog(ctx, s, s.ledger, after, limit, decodeEntry)
}

// Closings returns the entries that ended orders' reservations; see inventoryservice.Store.
func (s *Store) Closings(ctx context.Context, after uint64, limit int) (found []inventory.Entry, last uint64, err error) {
	last = after
	err = s.ledger.Read(s.db, after, func(n uint64, record []byte) (bool, error) {
		last = n
		if kind, err := entryKind(record); err != nil || !kind.Closes() {
			return err == nil, err
		}
		e, err := decodeEntry(n, record)
		if err == nil && e.OrderID != "" {
			found = append(found, e)
		}
		return len(found) < limit, err
	})
	if err != nil {
		return nil, after, err
	}
	return found, last, s.barrier(ctx)
}

// Crossings returns crossings; see inventoryservice.Store.
func (s *Store) Crossings(ctx context.Context, after uint64, limit int) ([]inventory.Crossing, error) {
	return readLog(ctx, s, s.crossings, after, limit, decodeCrossing)
}

func readLog[T any](
	ctx context.Context, s *Store, log *pebbledb.Log, after uint64, limit int, decode func(uint64, []byte) (T, error),
) ([]T, error) {
	var found []T
	err := log.Read(s.db, after, func(n uint64, record []byte) (bool, error) {
		item, err := decode(n, record)
		found = append(found, item)
		return len(found) < limit, err
	})
	if err != nil {
		return nil, err
	}
	return found, s.barrier(ctx)
}

// barrier waits until what was just read is durable.
func (s *Store) barrier(ctx context.Context) error {
	return s.batcher.Barrier(ctx)
}

// Apply decides a batch and begins to write it; it is the group commit's to call.
func (s *Store) Apply(cmds []inventory.Command, out []inventory.Outcome) (groupcommit.Commit, error) {
	book := inventory.Book{Rows: rows{s}, Expect: len(cmds), Now: s.cfg.Now().UTC().Truncate(time.Microsecond)}
	for i, cmd := range cmds {
		var err error
		if out[i], err = book.Do(cmd); err != nil {
			return nil, err
		}
	}
	batch := s.db.NewBatch()
	if err := s.encode(batch, &book); err != nil {
		return nil, err
	}
	if batch.Empty() {
		return nil, batch.Close()
	}
	commit, err := s.db.Write(batch)
	if err != nil {
		return nil, err
	}
	return commit, s.remember(&book)
}

// encode puts everything that book changed into batch.
func (s *Store) encode(batch *pebble.Batch, book *inventory.Book) error {
	var buf []byte
	for _, l := range book.Changed {
		buf = appendLevel(buf[:0], *l)
		s.rows.Set(levelKey(l.Place), buf)
	}
	for _, r := range book.Saved {
		raw, err := id.Bytes(id.Reservation, r.ID)
		if err != nil {
			return err
		}
		if buf, err = appendReservation(buf[:0], r); err != nil {
			return err
		}
		switch {
		case r.Status == inventory.Active:
			s.rows.SetID(prefixOpen, &raw, buf)
			continue
		case s.schedule.has(raw, r.Key):
			s.rows.DeleteID(prefixOpen, &raw)
		}
		s.rows.SetID(prefixClosed, &raw, buf)
	}
	for key, m := range book.Memories {
		record, err := appendRemembered(nil, m)
		if err != nil {
			return err
		}
		s.keys.Put(&s.rows, hashKey(key), book.Now, record)
	}
	if err := s.rows.Into(batch); err != nil {
		return err
	}
	if book.Now.Sub(s.swept) > time.Minute {
		s.swept = book.Now
		if _, err := s.keys.DropExpired(batch, book.Now); err != nil {
			return err
		}
	}
	return s.encodeLogs(batch, book)
}

func (s *Store) encodeLogs(batch *pebble.Batch, book *inventory.Book) error {
	entries := make([][]byte, len(book.Entries))
	arena := make([]byte, 0, 64*len(book.Entries))
	for i := range book.Entries {
		start := len(arena)
		var err error
		if arena, err = appendEntry(arena, &book.Entries[i]); err != nil {
			return err
		}
		entries[i] = arena[start:len(arena):len(arena)]
	}
	if _, err := s.ledger.Append(batch, entries); err != nil {
		return err
	}
	crossings := make([][]byte, len(book.Crossings))
	for i := range book.Crossings {
		crossings[i] = appendCrossing(nil, &book.Crossings[i])
	}
	_, err := s.crossings.Append(batch, crossings)
	return err
}

// remember brings memory up to what was just handed to Pebble.
func (s *Store) remember(book *inventory.Book) error {
	for _, l := range book.Changed {
		s.levels.Store(l.Place, counts{l.OnHand, l.Reserved, l.Version})
	}
	s.schedule.mu.Lock()
	defer s.schedule.mu.Unlock()
	for _, r := range book.Saved {
		raw, err := id.Bytes(id.Reservation, r.ID)
		if err != nil {
			return err
		}
		if r.Status == inventory.Active {
			s.schedule.put(raw, r.Key, r.ExpiresAt)
		} else {
			s.schedule.remove(raw, r.Key)
		}
	}
	return nil
}

// rows is the store as a Book reads it.
type rows struct{ s *Store }

func (r rows) Level(p inventory.Place) (inventory.Level, error) {
	c, _ := r.s.levels.Load(p)
	return inventory.Level{Place: p, OnHand: c.onHand, Reserved: c.reserved, Version: c.version}, nil
}

func (r rows) Reservation(text string) (*inventory.Reservation, error) {
	raw, err := id.Bytes(id.Reservation, text)
	if err != nil {
		return nil, nil //nolint:nilerr,nilnil // no such reservation can exist
	}
	for _, prefix := range [][]byte{prefixOpen, prefixClosed} {
		record, err := pebbledb.Lookup(r.s.db, rowKey(prefix, raw))
		if err != nil {
			return nil, err
		}
		if record != nil {
			return decodeReservation(raw, record)
		}
	}
	return nil, nil //nolint:nilnil // none is an answer
}

func (r rows) ActiveByKey(key string) (string, error) {
	raw, ok := r.s.schedule.find(slotOf([16]byte{}, key))
	if !ok {
		return "", nil
	}
	return id.FromBytes(id.Reservation, raw), nil
}

func (r rows) Remembered(key string) (*inventory.Remembered, error) {
	record, err := r.s.keys.Get(r.s.db, hashKey(key))
	if err != nil {
		return nil, err
	}
	if record == nil {
		return nil, nil //nolint:nilnil // none is an answer
	}
	return decodeRemembered(record)
}

func rowKey(prefix []byte, raw [16]byte) []byte {
	k := make([]byte, 0, len(prefix)+len(raw))
	return append(append(k, prefix...), raw[:]...)
}

func hashKey(key string) (h pebbledb.KeyHash) {
	sum := sha256.Sum256([]byte(key))
	copy(h[:], sum[:])
	return h
}
