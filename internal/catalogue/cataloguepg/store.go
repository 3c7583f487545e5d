// Package cataloguepg keeps the catalogue in PostgreSQL; any number of processes may do so
// in one database. internal/pgdb has the schema.
//
// What pricing an order needs of each SKU is in memory as well. Another process's changes
// come in by Refresh, which the counter of the catalogue calls for: a price may be stale
// for about as long as the counters are looked at.
package cataloguepg

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/puzpuzpuz/xsync/v4"

	"github.com/penstockhq/penstock/internal/catalogue"
	"github.com/penstockhq/penstock/internal/catalogue/catalogueservice"
	"github.com/penstockhq/penstock/internal/groupcommit"
	"github.com/penstockhq/penstock/internal/pgdb"
)

// Config of a Store. The zero value is ready for use.
type Config struct {
	// Batch bounds the group commit; see groupcommit.Config for defaults.
	Batch groupcommit.Config
	// Now is the clock. Defaults to the database's.
	Now func() time.Time
}

// Store is a catalogueservice.Store.
type Store struct {
	cfg     Config
	db      *pgdb.DB
	batcher *groupcommit.Batcher[catalogue.Put, catalogueservice.PutResult]
	offers  *xsync.Map[string, catalogue.Offer]

	refreshing sync.Mutex
	seen       uint64 // the counter's value up to which offers are known
}

// Open reads the offers into memory and starts the group commit.
func Open(ctx context.Context, cfg Config, db *pgdb.DB) (*Store, error) {
	cfg.Batch.Name = cmp.Or(cfg.Batch.Name, "catalogue's database")
	if cfg.Now == nil {
		cfg.Now = db.Now
	}
	s := &Store{cfg: cfg, db: db, offers: xsync.NewMap[string, catalogue.Offer]()}
	if err := s.Refresh(ctx); err != nil {
		return nil, fmt.Errorf("load catalogue: %w", err)
	}
	var err error
	if s.batcher, err = groupcommit.New(cfg.Batch, s); err != nil {
		return nil, fmt.Errorf("open catalogue: %w", err)
	}
	return s, nil
}

// Stop finishes what is queued and ends the store's goroutines.
func (s *Store) Stop(ctx context.Context) error { return s.batcher.Stop(ctx) }

// Failed is never closed by an outage of the database: the store goes on when that is back.
func (s *Store) Failed() <-chan struct{} { return s.batcher.Failed() }

// Err returns why the store failed, nil while it has not.
func (s *Store) Err() error { return s.batcher.Err() }

// Queued returns how many changes wait.
func (s *Store) Queued() int { return s.batcher.Queued() }

// Offer returns what pricing needs of the SKU, from memory.
func (s *Store) Offer(code string) (catalogue.Offer, bool) { return s.offers.Load(code) }

// Refresh reads what any process has changed since the last time. The counter that marks
// changes is locked until they are committed, so none is missed.
func (s *Store) Refresh(ctx context.Context) error {
	s.refreshing.Lock()
	defer s.refreshing.Unlock()
	newest := s.seen
	err := s.db.Query(ctx, "SELECT changed, sku, amount, currency, policy FROM skus WHERE changed > $1", []any{s.seen}, func(rows pgx.Rows) error {
		var changed uint64
		var sku catalogue.SKU
		if err := rows.Scan(&changed, &sku.Code, &sku.Amount, &sku.Currency, &sku.Policy); err != nil {
			return err
		}
		newest = max(newest, changed)
		s.offers.Store(sku.Code, catalogue.OfferOf(sku))
		return nil
	})
	if err == nil {
		s.seen = newest
	}
	return err
}

// Put carries out wishes; see catalogueservice.Store.
func (s *Store) Put(ctx context.Context, puts []catalogue.Put) ([]catalogueservice.PutResult, error) {
	// The wishes are queued, so the caller's slice must not change under them.
	return s.batcher.SubmitAll(ctx, slices.Clone(puts))
}

const columns = "sku, title, amount, currency, policy, version, updated_at"

func scan(row pgx.Row) (catalogue.SKU, error) {
	var sku catalogue.SKU
	err := row.Scan(&sku.Code, &sku.Title, &sku.Amount, &sku.Currency, &sku.Policy, &sku.Version, &sku.UpdatedAt)
	if err != nil {
		return sku, fmt.Errorf("read SKU: %w", err)
	}
	sku.UpdatedAt = sku.UpdatedAt.UTC()
	return sku, nil
}

// Get returns one SKU; see catalogueservice.Store.
func (s *Store) Get(ctx context.Context, code string) (sku catalogue.SKU, ok bool, err error) {
	err = s.db.Query(ctx, "SELECT "+columns+" FROM skus WHERE sku = $1", []any{code}, func(rows pgx.Rows) (err error) {
		ok = true
		sku, err = scan(rows)
		return err
	})
	return sku, ok, err
}

// List lists SKUs; see catalogueservice.Store.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) (found []catalogue.SKU, err error) {
	err = s.db.Query(ctx, "SELECT "+columns+" FROM skus WHERE sku > $1 AND sku >= $2 AND starts_with(sku, $2) ORDER BY sku LIMIT $3",
		[]any{after, prefix, limit}, func(rows pgx.Rows) error {
			sku, err := scan(rows)
			found = append(found, sku)
			return err
		})
	return found, err
}

// Apply decides a batch and begins to write it; it is the group commit's to call.
func (s *Store) Apply(puts []catalogue.Put, out []catalogueservice.PutResult) (groupcommit.Commit, error) {
	return s.db.Begin(&batch{store: s, puts: puts, out: out})
}

// batch is one batch of wishes on its way; see pgdb.Work.
type batch struct {
	store   *Store
	puts    []catalogue.Put
	out     []catalogueservice.PutResult
	current map[string]*catalogue.SKU
	changed map[string]*catalogue.SKU
	codes   []string // of what changed
	now     time.Time
}

// Read queues the SKUs that are there already, locked in order.
func (b *batch) Read(read *pgx.Batch, _ bool) {
	b.current = map[string]*catalogue.SKU{}
	codes := make([]string, len(b.puts))
	for i := range b.puts {
		codes[i] = b.puts[i].SKU.Code
	}
	read.Queue("SELECT "+columns+" FROM skus WHERE sku = ANY($1) ORDER BY sku FOR UPDATE", codes).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			sku, err := scan(rows)
			if err != nil {
				return err
			}
			b.current[sku.Code] = &sku
		}
		return rows.Err()
	})
}

// Decide decides every wish.
func (b *batch) Decide() error {
	b.now = b.store.cfg.Now().UTC().Truncate(time.Microsecond)
	b.changed = map[string]*catalogue.SKU{}
	for i, put := range b.puts {
		current := b.changed[put.SKU.Code]
		if current == nil {
			current = b.current[put.SKU.Code]
		}
		if b.out[i].SKU, b.out[i].Err = put.Decide(current, b.now); b.out[i].Err == nil {
			next := b.out[i].SKU
			b.changed[next.Code] = &next
		}
	}
	b.codes = slices.Sorted(maps.Keys(b.changed))
	return nil
}

// Write queues what changed.
func (b *batch) Write(w *pgdb.Writes) {
	var made, replaced skuRows
	for _, code := range b.codes {
		if b.current[code] == nil {
			made.add(b.changed[code])
		} else {
			replaced.add(b.changed[code])
		}
	}
	if len(made.codes) > 0 {
		w.Queue(`INSERT INTO skus (sku, title, amount, currency, policy, version, updated_at, changed)
			SELECT *, $7::timestamptz, 0 FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[])`, made.args(b.now)...)
	}
	if len(replaced.codes) > 0 {
		w.Queue(`UPDATE skus s SET title = u.title, amount = u.amount, currency = u.currency, policy = u.policy, version = u.version,
				updated_at = $7
			FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[]) u(sku, title, amount, currency, policy, version)
			WHERE s.sku = u.sku`, replaced.args(b.now)...)
	}
}

// Number marks what changed with the counter's value. The counter's row is locked from
// there on, so it comes last.
func (b *batch) Number(w *pgdb.Writes) {
	if len(b.codes) > 0 {
		w.Queue(`WITH c AS (UPDATE counters SET value = value + 1 WHERE name = $2 RETURNING value)
			UPDATE skus SET changed = c.value FROM c WHERE sku = ANY($1)`, b.codes, pgdb.CounterCatalogue)
	}
}

// Committed brings memory up to what is stored. It reads that, because another process
// may have replaced it already.
func (b *batch) Committed() {
	if len(b.changed) > 0 {
		_ = b.store.Refresh(context.Background()) // the watcher tries again
	}
}

// skuRows are SKUs as columns, for unnest.
type skuRows struct {
	codes, titles, currencies, policies []string
	amounts                             []int64
	versions                            []uint64
}

func (rows *skuRows) add(s *catalogue.SKU) {
	rows.codes, rows.titles = append(rows.codes, s.Code), append(rows.titles, s.Title)
	rows.amounts, rows.currencies = append(rows.amounts, s.Amount), append(rows.currencies, s.Currency)
	rows.policies, rows.versions = append(rows.policies, s.Policy), append(rows.versions, s.Version)
}

func (rows *skuRows) args(now time.Time) []any {
	return []any{rows.codes, rows.titles, rows.amounts, rows.currencies, rows.policies, rows.versions, now}
}
