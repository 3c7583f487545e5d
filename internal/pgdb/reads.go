package pgdb

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/internal/groupcommit"
)

// Lookup answers many concurrent look-ups of one row each with few queries: those that
// come while one is on its way share the next. A lone look-up waits for nobody.
type Lookup[K comparable, V any] struct {
	batcher *groupcommit.Batcher[K, *V]
}

// NewLookup returns a Lookup that finds rows with find, which returns what there is for
// each of the keys. Stop ends it.
func NewLookup[K comparable, V any](db *DB, name string, find func(ctx context.Context, keys []K) (map[K]*V, error)) (*Lookup[K, V], error) {
	b, err := groupcommit.New(groupcommit.Config{Name: name, StallAfter: 2 * db.cfg.StatementTimeout}, finder[K, V]{db, find})
	return &Lookup[K, V]{b}, err
}

// Get returns what there is for the key, nil for nothing.
func (l *Lookup[K, V]) Get(ctx context.Context, key K) (*V, error) { return l.batcher.Submit(ctx, key) }

// Stop ends the Lookup.
func (l *Lookup[K, V]) Stop(ctx context.Context) error { return l.batcher.Stop(ctx) }

type finder[K comparable, V any] struct {
	db   *DB
	find func(ctx context.Context, keys []K) (map[K]*V, error)
}

// Apply answers a batch; nothing is written.
func (f finder[K, V]) Apply(keys []K, out []*V) (groupcommit.Commit, error) {
	ctx, cancel := context.WithTimeout(context.Background(), f.db.cfg.AcquireTimeout+f.db.cfg.StatementTimeout)
	defer cancel()
	found, err := f.find(ctx, keys)
	if err != nil {
		return nil, &groupcommit.BatchError{Err: f.db.Fault(err)}
	}
	for i, k := range keys {
		out[i] = found[k]
	}
	return nil, nil //nolint:nilnil // nothing was written
}

// batchesFor is how long the tokens of batches are kept: much longer than anyone asks
// what became of one.
const batchesFor = time.Hour

// Forget removes the tokens of old batches, and returns how many.
func (db *DB) Forget(ctx context.Context) (int64, error) {
	return db.ForgetRows(ctx, "batches", db.Now().Add(-batchesFor))
}

// forgetChunk is how many rows are removed at a time, so that no lock is held for long.
const forgetChunk = 5000

// ForgetRows removes the rows of table that were created before the given time, some at a
// time, and returns how many. The table's BRIN index on created_at finds them.
func (db *DB) ForgetRows(ctx context.Context, table string, before time.Time) (int64, error) {
	total := int64(0)
	for {
		ctx, cancel := context.WithTimeout(ctx, db.cfg.AcquireTimeout+db.cfg.StatementTimeout)
		name := pgx.Identifier{table}.Sanitize()
		done, err := db.reads.Exec(ctx, "DELETE FROM "+name+" WHERE ctid = ANY(ARRAY(SELECT ctid FROM "+name+" WHERE created_at < $1 LIMIT $2))",
			before, forgetChunk)
		cancel()
		if err != nil {
			return total, db.Fault(err)
		}
		total += done.RowsAffected()
		if done.RowsAffected() < forgetChunk {
			return total, nil
		}
	}
}

// Optional returns text as a value that is NULL where it is empty.
func Optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// Text is the inverse of Optional.
func Text(value *string) string {
	if value == nil {
		return ""
	}
	return *value
}
