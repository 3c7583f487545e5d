// Package orderpebble keeps orders in the data folder's Pebble database.
//
// The order, its idempotency key, its place in both lists and its event are written by
// one commit, all or none. IDs sort by time, so "newest first" is a scan backwards.
//
// Rows, each value but those of the lists beginning with a version byte:
//
//	oo order               → order
//	oc customer 0 order    → nothing; the list by customer
//	os status order        → nothing; the list by status
//	oe number              → segment of the events
//	ok bucket hash         → order and fingerprint of an idempotency key
//	om "followed"          → how far the inventory's ledger has been followed
package orderpebble

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/penstockhq/penstock/internal/fault"
	"github.com/penstockhq/penstock/internal/groupcommit"
	"github.com/penstockhq/penstock/internal/id"
	"github.com/penstockhq/penstock/internal/order"
	"github.com/penstockhq/penstock/internal/order/orderservice"
	"github.com/penstockhq/penstock/internal/pebbledb"
)

//nolint:gochecknoglobals // constants
var (
	prefixOrder    = []byte("oo")
	prefixCustomer = []byte("oc")
	prefixStatus   = []byte("os")
	prefixEvent    = []byte("oe")
	prefixKey      = []byte("ok")
	keyFollowed    = []byte("omfollowed")
)

// Config of a Store. The zero value is ready for use.
type Config struct {
	// KeepKeys is how long idempotency keys are remembered. Defaults to 24 h.
	KeepKeys time.Duration
	// MaxQueue is how many commands may wait before new orders are refused.
	// Defaults to 16384.
	MaxQueue int
	// Batch bounds the group commit; see groupcommit.Config for defaults.
	Batch groupcommit.Config
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
}

// Store is an orderservice.Store.
type Store struct {
	cfg      Config
	db       *pebbledb.DB
	batcher  *groupcommit.Batcher[order.Command, order.Outcome]
	events   *pebbledb.Log
	keys     *pebbledb.KeyTable
	followed atomic.Uint64
	// The writer's own.
	rows  pebbledb.Rows
	swept time.Time // when old keys were last dropped
}

// Open starts the group commit.
func Open(cfg Config, db *pebbledb.DB) (*Store, error) {
	cfg.KeepKeys = cmp.Or(cfg.KeepKeys, 24*time.Hour)
	cfg.MaxQueue = cmp.Or(cfg.MaxQueue, 16384)
	cfg.Batch.Name = "orders' store"
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Store{cfg: cfg, db: db}
	followed, err := Snapshot{db}.Followed(context.Background())
	if err != nil {
		return nil, fmt.Errorf("open orders: %w", err)
	}
	s.followed.Store(followed)
	if s.events, err = pebbledb.OpenLog(db, prefixEvent); err != nil {
		return nil, fmt.Errorf("open order events: %w", err)
	}
	if s.keys, err = pebbledb.OpenKeyTable(db.DB, prefixKey, cfg.KeepKeys); err != nil {
		return nil, fmt.Errorf("open orders: %w", err)
	}
	if s.batcher, err = groupcommit.New(cfg.Batch, s); err != nil {
		s.keys.Close()
		return nil, fmt.Errorf("open orders: %w", err)
	}
	return s, nil
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

// Ready refuses new work when the store cannot take it; see orderservice.Store.
func (s *Store) Ready() error {
	if err := s.batcher.Err(); err != nil {
		return fault.Wrap(err, fault.Unavailable, "the orders' store has stopped after a failed write").WithRetryAfter(time.Second)
	}
	if n := s.batcher.Queued(); n > s.cfg.MaxQueue {
		return fault.New(fault.Overloaded, "%d commands are waiting for the orders' store already", n).WithRetryAfter(time.Second)
	}
	return s.db.CheckSpace(s.cfg.Now())
}

// Continue carries out commands; see orderservice.Store.
func (s *Store) Continue(ctx context.Context, cmds []order.Command) ([]order.Outcome, error) {
	return s.batcher.Continue(ctx, cmds)
}

// Order returns one order; see orderservice.Store.
func (s *Store) Order(ctx context.Context, text string) (order.Order, error) {
	o, err := readOrder(s.db, text)
	if err != nil {
		return order.Order{}, err
	}
	if o == nil {
		return order.Order{}, order.NotFound(text)
	}
	return *o, s.barrier(ctx)
}

// Key returns what is stored under the hash; see orderservice.Store.
func (s *Store) Key(ctx context.Context, hash order.KeyHash) (order.Key, bool, error) {
	record, err := s.keys.Get(s.db, hash)
	if err != nil || record == nil {
		return order.Key{}, false, err
	}
	key, err := decodeKey(record)
	if err != nil {
		return order.Key{}, false, err
	}
	return key, true, s.barrier(ctx)
}

// List lists orders; see orderservice.Store.
func (s *Store) List(ctx context.Context, q orderservice.ListQuery) ([]order.Order, error) {
	prefix := prefixOrder
	switch {
	case q.CustomerID != "":
		prefix = customerPrefix(q.CustomerID)
	case q.Status != order.None:
		prefix = statusPrefix(q.Status)
	}
	bounds := pebbledb.PrefixRange(prefix)
	if q.Before != "" {
		raw, err := id.Bytes(id.Order, q.Before)
		if err != nil {
			return nil, fault.New(fault.InvalidRequest, "the page token names no order")
		}
		bounds.UpperBound = rowKey(prefix, raw)
	}
	found, err := s.scan(prefix, bounds, q)
	if err != nil {
		return nil, err
	}
	return found, s.barrier(ctx)
}

// scan collects the orders of a list backwards.
func (s *Store) scan(prefix []byte, bounds *pebble.IterOptions, q orderservice.ListQuery) (found []order.Order, err error) {
	// A snapshot, so that an order is as its place in the list says.
	snap := s.db.NewSnapshot()
	defer func() { err = errors.Join(err, snap.Close()) }()
	it, err := snap.NewIter(bounds)
	if err != nil {
		return nil, fmt.Errorf("list orders: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.Last(); ok && len(found) < q.Limit; ok = it.Prev() {
		raw, err := idAtEnd(it.Key(), len(prefix))
		if err != nil {
			return nil, err
		}
		o, err := readOrder(snap, id.FromBytes(id.Order, raw))
		if err != nil {
			return nil, err
		}
		if o == nil {
			return nil, fmt.Errorf("listed order %x is not stored: %w", raw, pebbledb.ErrCorrupt)
		}
		if q.Status == order.None || o.Status == q.Status {
			found = append(found, *o)
		}
	}
	return found, nil
}

// Events returns events; see orderservice.Store.
func (s *Store) Events(ctx context.Context, after uint64, limit int) ([]order.Event, error) {
	var found []order.Event
	err := s.events.Read(s.db, after, func(n uint64, record []byte) (bool, error) {
		e, err := decodeEvent(n, record)
		found = append(found, e)
		return len(found) < limit, err
	})
	if err != nil {
		return nil, err
	}
	return found, s.barrier(ctx)
}

// trimChunk is how many events are removed in one commit, about: those of one time go
// together, so that a time tells of every event whether it is still there.
const trimChunk = 20_000

// Trim removes events that are older than before, and returns how many. It goes from the
// oldest on and ends at the first that is younger. It has one caller at a time.
func (s *Store) Trim(ctx context.Context, before time.Time) (int64, error) {
	removed, err := pebbledb.Repeat(ctx, func() (int64, error) { return s.trimSome(before) })
	if err != nil {
		return removed, fmt.Errorf("remove old events of orders: %w", err)
	}
	return removed, nil
}

func (s *Store) trimSome(before time.Time) (int64, error) {
	removed, err := s.events.Removed(s.db)
	if err != nil {
		return 0, err
	}
	upTo, last := removed, time.Time{}
	err = s.events.Read(s.db, removed, func(n uint64, record []byte) (bool, error) {
		e, err := decodeEvent(n, record)
		if err != nil || !e.Time.Before(before) || n > removed+trimChunk && !e.Time.Equal(last) {
			return false, err
		}
		upTo, last = n, e.Time
		return true, nil
	})
	if err != nil || upTo == removed {
		return 0, err
	}
	if err := s.db.RemovesHistory(); err != nil {
		return 0, err
	}
	batch := s.db.NewBatch()
	if err := s.events.Remove(s.db, batch, upTo); err != nil {
		return 0, err
	}
	return int64(upTo - removed), s.db.Commit(batch)
}

// Followed returns how far the inventory's ledger has been followed.
func (s *Store) Followed(context.Context) (uint64, error) { return s.followed.Load(), nil }

// barrier waits until what was just read is durable.
func (s *Store) barrier(ctx context.Context) error {
	return s.batcher.Barrier(ctx)
}

// Apply decides a batch and begins to write it; it is the group commit's to call.
func (s *Store) Apply(cmds []order.Command, out []order.Outcome) (groupcommit.Commit, error) {
	book := order.Book{Rows: rows{s}, Expect: len(cmds), Now: s.cfg.Now().UTC().Truncate(time.Microsecond)}
	for i, cmd := range cmds {
		var err error
		if out[i], err = book.Do(cmd); err != nil {
			return nil, err
		}
	}
	if book.Followed <= s.followed.Load() {
		book.Followed = 0 // the position never goes back
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
	if book.Followed > 0 {
		s.followed.Store(book.Followed)
	}
	return commit, nil
}

// encode puts everything that book changed into batch.
func (s *Store) encode(batch *pebble.Batch, book *order.Book) error {
	var buf []byte
	for _, c := range book.Changes {
		var err error
		if buf, err = encodeChange(&s.rows, c, buf[:0]); err != nil {
			return fmt.Errorf("write order: %w", err)
		}
	}
	for hash, key := range book.Keys {
		var err error
		if buf, err = appendKey(buf[:0], key); err != nil {
			return err
		}
		s.keys.Put(&s.rows, hash, book.Now, buf)
	}
	if err := s.rows.Into(batch); err != nil {
		return err
	}
	events := make([][]byte, len(book.Events))
	arena := make([]byte, 0, 40*len(book.Events))
	for i := range book.Events {
		start := len(arena)
		var err error
		if arena, err = appendEvent(arena, &book.Events[i]); err != nil {
			return err
		}
		events[i] = arena[start:len(arena):len(arena)]
	}
	if _, err := s.events.Append(batch, events); err != nil {
		return err
	}
	if book.Followed > 0 {
		if err := batch.Set(keyFollowed, binary.BigEndian.AppendUint64(nil, book.Followed), nil); err != nil {
			return fmt.Errorf("write position: %w", err)
		}
	}
	if book.Now.Sub(s.swept) > time.Minute {
		s.swept = book.Now
		_, err := s.keys.DropExpired(batch, book.Now)
		return err
	}
	return nil
}

func encodeChange(rows *pebbledb.Rows, c *order.Change, buf []byte) ([]byte, error) {
	raw, err := id.Bytes(id.Order, c.Order.ID)
	if err != nil {
		return nil, err
	}
	if buf, err = appendOrder(buf, c.Order); err != nil {
		return nil, err
	}
	rows.SetID(prefixOrder, &raw, buf)
	if c.Before == order.None {
		rows.SetID(customerPrefix(c.Order.CustomerID), &raw, nil)
	} else if c.Before != c.Order.Status {
		rows.DeleteID(statusPrefix(c.Before), &raw)
	}
	if c.Before != c.Order.Status {
		rows.SetID(statusPrefix(c.Order.Status), &raw, nil)
	}
	return buf, nil
}

// rows is the store as a Book reads it.
type rows struct{ s *Store }

func (r rows) Order(text string) (*order.Order, error) { return readOrder(r.s.db, text) }

func (r rows) Key(hash order.KeyHash) (*order.Key, error) {
	record, err := r.s.keys.Get(r.s.db, hash)
	if err != nil || record == nil {
		return nil, err
	}
	key, err := decodeKey(record)
	return &key, err
}

// readOrder returns the order, nil where there is none.
func readOrder(r pebble.Reader, text string) (*order.Order, error) {
	raw, err := id.Bytes(id.Order, text)
	if err != nil {
		return nil, nil //nolint:nilerr,nilnil // no such order can exist
	}
	record, err := pebbledb.Lookup(r, rowKey(prefixOrder, raw))
	if err != nil || record == nil {
		return nil, err
	}
	return decodeOrder(raw, record)
}

func customerPrefix(customer string) []byte {
	k := make([]byte, 0, len(prefixCustomer)+len(customer)+1+16)
	return append(append(append(k, prefixCustomer...), customer...), 0)
}

func statusPrefix(s order.Status) []byte {
	k := make([]byte, 0, len(prefixStatus)+1+16)
	return append(append(k, prefixStatus...), byte(s))
}

func rowKey(prefix []byte, raw [16]byte) []byte {
	k := make([]byte, 0, len(prefix)+len(raw))
	return append(append(k, prefix...), raw[:]...)
}
