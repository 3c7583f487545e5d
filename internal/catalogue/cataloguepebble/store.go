// Package cataloguepebble keeps the catalogue in the data folder's Pebble database.
//
// What pricing an order needs of each SKU is in memory as well; titles are not.
//
// Rows, each value beginning with a version byte:
//
//	cs SKU → title, price, policy, version, time
package cataloguepebble

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/puzpuzpuz/xsync/v4"

	"github.com/penstockhq/penstock/internal/catalogue"
	"github.com/penstockhq/penstock/internal/catalogue/catalogueservice"
	"github.com/penstockhq/penstock/internal/groupcommit"
	"github.com/penstockhq/penstock/internal/pebbledb"
)

//nolint:gochecknoglobals // a constant
var prefixSKU = []byte("cs")

const recordVersion = 1

// Config of a Store. The zero value is ready for use.
type Config struct {
	// Batch bounds the group commit; see groupcommit.Config for defaults.
	Batch groupcommit.Config
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
}

// Store is a catalogueservice.Store.
type Store struct {
	cfg     Config
	db      *pebbledb.DB
	batcher *groupcommit.Batcher[catalogue.Put, catalogueservice.PutResult]
	offers  *xsync.Map[string, catalogue.Offer]
}

// Open reads the offers into memory and starts the group commit.
func Open(cfg Config, db *pebbledb.DB) (*Store, error) {
	cfg.Batch.Name = "catalogue's store"
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Store{cfg: cfg, db: db, offers: xsync.NewMap[string, catalogue.Offer]()}
	err := each(db, nil, func(key, value []byte) (bool, error) {
		sku, err := decode(string(key), value, false)
		s.offers.Store(sku.Code, catalogue.OfferOf(sku))
		return true, err
	})
	if err != nil {
		return nil, fmt.Errorf("load catalogue: %w", err)
	}
	if s.batcher, err = groupcommit.New(cfg.Batch, s); err != nil {
		return nil, fmt.Errorf("open catalogue: %w", err)
	}
	return s, nil
}

// Stop finishes what is queued and ends the store's goroutines.
func (s *Store) Stop(ctx context.Context) error {
	return s.batcher.Stop(ctx)
}

// Failed is closed when a write failed and the store has stopped for good.
func (s *Store) Failed() <-chan struct{} { return s.batcher.Failed() }

// Err returns why the store failed, nil while it has not.
func (s *Store) Err() error { return s.batcher.Err() }

// Queued returns how many changes wait.
func (s *Store) Queued() int { return s.batcher.Queued() }

// Offer returns what pricing needs of the SKU, from memory.
func (s *Store) Offer(code string) (catalogue.Offer, bool) { return s.offers.Load(code) }

// Put carries out wishes; see catalogueservice.Store.
func (s *Store) Put(ctx context.Context, puts []catalogue.Put) ([]catalogueservice.PutResult, error) {
	if err := s.db.CheckSpace(s.cfg.Now()); err != nil {
		return nil, err
	}
	// The wishes are queued, so the caller's slice must not change under them.
	return s.batcher.SubmitAll(ctx, slices.Clone(puts))
}

// Get returns one SKU; see catalogueservice.Store.
func (s *Store) Get(ctx context.Context, code string) (catalogue.SKU, bool, error) {
	sku, err := s.lookup(code)
	if err != nil || sku == nil {
		return catalogue.SKU{}, false, err
	}
	return *sku, true, s.batcher.Barrier(ctx)
}

// List lists SKUs; see catalogueservice.Store.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]catalogue.SKU, error) {
	from := []byte(prefix)
	if after != "" {
		from = append([]byte(after), 0)
	}
	var found []catalogue.SKU
	err := each(s.db, from, func(key, value []byte) (bool, error) {
		if !bytes.HasPrefix(key, []byte(prefix)) {
			return false, nil
		}
		sku, err := decode(string(key), value, true)
		found = append(found, sku)
		return len(found) < limit, err
	})
	if err != nil {
		return nil, err
	}
	return found, s.batcher.Barrier(ctx)
}

// Apply decides a batch and begins to write it; it is the group commit's to call.
func (s *Store) Apply(puts []catalogue.Put, out []catalogueservice.PutResult) (groupcommit.Commit, error) {
	now := s.cfg.Now().UTC().Truncate(time.Microsecond)
	changed := make(map[string]*catalogue.SKU, len(puts))
	batch := s.db.NewBatch()
	for i, put := range puts {
		current := changed[put.SKU.Code]
		if current == nil {
			var err error
			if current, err = s.lookup(put.SKU.Code); err != nil {
				return nil, errors.Join(err, batch.Close())
			}
		}
		if out[i].SKU, out[i].Err = put.Decide(current, now); out[i].Err != nil {
			continue
		}
		next := out[i].SKU
		changed[next.Code] = &next
		if err := batch.Set(rowKey(next.Code), encode(next), nil); err != nil {
			return nil, fmt.Errorf("write SKU: %w", err)
		}
	}
	if batch.Empty() {
		return nil, batch.Close()
	}
	commit, err := s.db.Write(batch)
	if err != nil {
		return nil, err
	}
	for code, sku := range changed {
		s.offers.Store(code, catalogue.OfferOf(*sku))
	}
	return commit, nil
}

// lookup returns the stored SKU, nil where there is none. Memory knows which exist, so
// a new one costs no read.
func (s *Store) lookup(code string) (*catalogue.SKU, error) {
	if _, ok := s.offers.Load(code); !ok {
		return nil, nil //nolint:nilnil // none is an answer
	}
	record, err := pebbledb.Lookup(s.db, rowKey(code))
	if err != nil || record == nil {
		return nil, err
	}
	sku, err := decode(code, record, true)
	return &sku, err
}

// Snapshot reads everything that a store has written. It needs no Store, so a folder that
// nobody serves can be read as well.
type Snapshot struct{ R pebble.Reader }

// SKUs calls fn for every SKU, in order.
func (s Snapshot) SKUs(fn func(catalogue.SKU) error) error {
	return each(s.R, nil, func(key, value []byte) (bool, error) {
		sku, err := decode(string(key), value, true)
		if err != nil {
			return false, err
		}
		return true, fn(sku)
	})
}

// each calls fn for the SKUs from the given code on until it returns false.
func each(r pebble.Reader, from []byte, fn func(key, value []byte) (bool, error)) (err error) {
	bounds := pebbledb.PrefixRange(prefixSKU)
	bounds.LowerBound = append(bytes.Clone(prefixSKU), from...)
	it, err := r.NewIter(bounds)
	if err != nil {
		return fmt.Errorf("read catalogue: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("read catalogue: %w", err)
		}
		if more, err := fn(it.Key()[len(prefixSKU):], value); err != nil || !more {
			return err
		}
	}
	return nil
}

func rowKey(code string) []byte {
	return append(bytes.Clone(prefixSKU), code...)
}

func encode(sku catalogue.SKU) []byte {
	b := make([]byte, 0, 32+len(sku.Title))
	b = append(b, recordVersion, catalogue.PolicyIndex(sku.Policy))
	b = binary.AppendVarint(b, sku.Amount)
	b = append(b, sku.Currency...)
	b = binary.AppendUvarint(b, sku.Version)
	b = pebbledb.AppendTime(b, sku.UpdatedAt)
	return pebbledb.AppendString(b, sku.Title)
}

func decode(code string, record []byte, title bool) (catalogue.SKU, error) {
	d := pebbledb.Decode(record)
	d.Byte()
	policy := int(d.Byte())
	sku := catalogue.SKU{
		Code: code, Policy: catalogue.Policies[min(policy, len(catalogue.Policies)-1)],
		Amount: d.Varint(), Currency: string(d.Raw(3)), Version: d.Uvarint(), UpdatedAt: d.Time(),
	}
	if title {
		sku.Title = d.String()
	}
	if err := d.Err(); err != nil {
		return sku, fmt.Errorf("SKU %s: %w", code, err)
	}
	return sku, nil
}
