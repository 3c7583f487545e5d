// Package orderpg keeps orders, their idempotency keys and their events in PostgreSQL;
// any number of processes may do so in one database. internal/pgdb has the schema.
//
// A batch of new orders reads nothing: that their keys are new is what the unique index
// says. If it says otherwise the batch is decided again with the keys looked up.
package orderpg

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/internal/fault"
	"github.com/penstockhq/penstock/internal/groupcommit"
	"github.com/penstockhq/penstock/internal/id"
	"github.com/penstockhq/penstock/internal/order"
	"github.com/penstockhq/penstock/internal/order/orderservice"
	"github.com/penstockhq/penstock/internal/pgdb"
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
	// Now is the clock. Defaults to the database's.
	Now func() time.Time
}

// Store is an orderservice.Store.
type Store struct {
	cfg     Config
	db      *pgdb.DB
	batcher *groupcommit.Batcher[order.Command, order.Outcome]
	keys    *pgdb.Lookup[order.KeyHash, order.Key]
	orders  *pgdb.Lookup[string, order.Order]
}

// Open starts the group commit.
func Open(cfg Config, db *pgdb.DB) (*Store, error) {
	cfg.KeepKeys = cmp.Or(cfg.KeepKeys, 24*time.Hour)
	cfg.MaxQueue = cmp.Or(cfg.MaxQueue, 16384)
	cfg.Batch.Name = cmp.Or(cfg.Batch.Name, "orders' database")
	if cfg.Now == nil {
		cfg.Now = db.Now
	}
	s := &Store{cfg: cfg, db: db}
	var err error
	if s.keys, err = pgdb.NewLookup(db, "look-up of keys", s.findKeys); err != nil {
		return nil, fmt.Errorf("open orders: %w", err)
	}
	if s.orders, err = pgdb.NewLookup(db, "look-up of orders", s.findOrders); err != nil {
		_ = s.keys.Stop(context.Background()) // it has nothing to finish
		return nil, fmt.Errorf("open orders: %w", err)
	}
	if s.batcher, err = groupcommit.New(cfg.Batch, s); err != nil {
		_, _ = s.keys.Stop(context.Background()), s.orders.Stop(context.Background()) // likewise
		return nil, fmt.Errorf("open orders: %w", err)
	}
	return s, nil
}

// Stop finishes what is queued and ends the store's goroutines.
func (s *Store) Stop(ctx context.Context) error {
	for _, part := range []interface {
		Stop(ctx context.Context) error
	}{s.batcher, s.keys, s.orders} {
		if err := part.Stop(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Failed is never closed by an outage of the database: the store goes on when that is back.
func (s *Store) Failed() <-chan struct{} { return s.batcher.Failed() }

// Err returns why the store failed, nil while it has not.
func (s *Store) Err() error { return s.batcher.Err() }

// Queued returns how many commands wait.
func (s *Store) Queued() int { return s.batcher.Queued() }

// Ready refuses new work when the store cannot take it; see orderservice.Store.
func (s *Store) Ready() error {
	if n := s.batcher.Queued(); n > s.cfg.MaxQueue {
		return fault.New(fault.Overloaded, "%d commands are waiting for the orders' database already", n).WithRetryAfter(time.Second)
	}
	return s.db.Ping()
}

// Continue carries out commands; see orderservice.Store.
func (s *Store) Continue(ctx context.Context, cmds []order.Command) ([]order.Outcome, error) {
	return s.batcher.Continue(ctx, cmds)
}

// Apply decides a batch and begins to write it; it is the group commit's to call.
func (s *Store) Apply(cmds []order.Command, out []order.Outcome) (groupcommit.Commit, error) {
	return s.db.Begin(s.NewBatch(cmds, out))
}

// Order returns one order; see orderservice.Store.
func (s *Store) Order(ctx context.Context, id string) (order.Order, error) {
	o, err := s.orders.Get(ctx, id)
	if err != nil {
		return order.Order{}, err
	}
	if o == nil {
		return order.Order{}, order.NotFound(id)
	}
	return *o, nil
}

func (s *Store) findOrders(ctx context.Context, ids []string) (map[string]*order.Order, error) {
	found, err := s.query(ctx, "WHERE o.id = ANY($1) ORDER BY o.id", ids)
	byID := make(map[string]*order.Order, len(found))
	for i := range found {
		byID[found[i].ID] = &found[i]
	}
	return byID, err
}

// Key returns what is stored under the hash; see orderservice.Store.
func (s *Store) Key(ctx context.Context, hash order.KeyHash) (order.Key, bool, error) {
	key, err := s.keys.Get(ctx, hash)
	if err != nil || key == nil {
		return order.Key{}, false, err
	}
	return *key, true, nil
}

const keyColumns = "key_hash, fingerprint, order_id"

func (s *Store) findKeys(ctx context.Context, hashes []order.KeyHash) (map[order.KeyHash]*order.Key, error) {
	wanted := make([][]byte, len(hashes))
	for i := range hashes {
		wanted[i] = hashes[i][:]
	}
	found := map[order.KeyHash]*order.Key{}
	err := s.db.Query(ctx, "SELECT "+keyColumns+" FROM idempotency_keys WHERE key_hash = ANY($1)", []any{wanted}, func(rows pgx.Rows) error {
		hash, key, err := scanKey(rows)
		found[hash] = key
		return err
	})
	return found, err
}

// List lists orders; see orderservice.Store.
func (s *Store) List(ctx context.Context, q orderservice.ListQuery) ([]order.Order, error) {
	where, args := "WHERE true", []any{}
	add := func(condition string, value any) {
		args = append(args, value)
		where += fmt.Sprintf(" AND o.%s $%d", condition, len(args))
	}
	if q.CustomerID != "" {
		add("customer_id =", q.CustomerID)
	}
	if q.Status != order.None {
		add("status =", q.Status.String())
	}
	if q.Before != "" {
		if _, err := id.Bytes(id.Order, q.Before); err != nil {
			return nil, fault.New(fault.InvalidRequest, "the page token names no order")
		}
		add("id <", q.Before)
	}
	args = append(args, q.Limit)
	return s.query(ctx, fmt.Sprintf("%s ORDER BY o.id DESC LIMIT $%d", where, len(args)), args...)
}

// query reads orders with their lines.
func (s *Store) query(ctx context.Context, tail string, args ...any) (found []order.Order, err error) {
	err = s.db.Query(ctx, "SELECT "+orderColumns+" FROM orders o "+tail, args, func(rows pgx.Rows) error {
		o, err := scanOrder(rows)
		if err == nil {
			found = append(found, *o)
		}
		return err
	})
	return found, err
}

// Events returns events; see orderservice.Store.
func (s *Store) Events(ctx context.Context, after uint64, limit int) ([]order.Event, error) {
	return pgdb.ReadLog(ctx, s.db, "order_events", eventColumns, pgdb.CounterOrderEventsTrimmed, after, limit, scanEvent,
		func(e *order.Event) uint64 { return e.Seq })
}

// Trim removes events that are older than before, and returns how many.
func (s *Store) Trim(ctx context.Context, before time.Time) (int64, error) {
	return s.db.Trim(ctx, "order_events", pgdb.CounterOrderEventsTrimmed, before, -1, func(b *pgx.Batch, upTo int64) {
		b.Queue("DELETE FROM order_events WHERE seq <= $1", upTo)
	})
}

// Followed returns how far the inventory's ledger has been followed.
func (s *Store) Followed(ctx context.Context) (uint64, error) {
	counters, err := s.db.Counters(ctx)
	return counters[pgdb.CounterFollowed], err
}

// Forget removes idempotency keys that are older than Config.KeepKeys, some at a time,
// and returns how many.
func (s *Store) Forget(ctx context.Context) (int64, error) {
	return s.db.ForgetRows(ctx, "idempotency_keys", s.cfg.Now().Add(-s.cfg.KeepKeys))
}
