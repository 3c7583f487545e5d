package pebbledb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/bits-and-blooms/bloom/v3"
	"github.com/cockroachdb/pebble/v2"
)

// KeyHash names an idempotency key: a cryptographic hash of its scope and text.
type KeyHash = [16]byte

// KeyTable remembers idempotency keys for a while. Rows lie in buckets by the time
// they were written, so the old ones go by one range deletion and the new ones land
// side by side. In front of each bucket is a Bloom filter in memory: a fresh key,
// which is nearly every key, costs no look-up (BenchmarkKeyTable says how much).
//
// Put has one caller at a time; Get may run beside it. The filters of buckets that
// were there before are filled in the background; until then Get reads the rows.
type KeyTable struct {
	prefix []byte
	keep   time.Duration
	span   time.Duration

	mu      sync.RWMutex
	filters map[uint32]*keyFilter
	filling sync.WaitGroup
	closing chan struct{}
	closed  sync.Once
	failure error // of the background fill; the filters are just not used then
}

// bucketsKept is into how many buckets the time that keys are kept is cut.
const bucketsKept = 4

// OpenKeyTable returns the table under prefix. A key is kept for at least keep and
// at most a quarter longer.
func OpenKeyTable(db *pebble.DB, prefix []byte, keep time.Duration) (*KeyTable, error) {
	if keep < time.Minute {
		return nil, fmt.Errorf("idempotency keys must be kept for at least a minute, not %v", keep)
	}
	t := &KeyTable{
		prefix: prefix, keep: keep, span: keep / bucketsKept,
		filters: map[uint32]*keyFilter{}, closing: make(chan struct{}),
	}
	buckets, err := t.buckets(db)
	if err != nil {
		return nil, err
	}
	for _, b := range buckets {
		t.filters[b] = &keyFilter{}
	}
	t.filling.Go(func() { t.fill(db, buckets) })
	return t, nil
}

// Close ends the background fill. Closing twice is fine.
func (t *KeyTable) Close() {
	t.closed.Do(func() { close(t.closing) })
	t.filling.Wait()
}

// Get returns the value stored under hash, or nil. r may be a batch that Put wrote to.
func (t *KeyTable) Get(r pebble.Reader, hash KeyHash) ([]byte, error) {
	for _, bucket := range t.candidates(hash) {
		value, closer, err := r.Get(t.key(bucket, hash))
		if errors.Is(err, pebble.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read idempotency key: %w", err)
		}
		found := bytes.Clone(value)
		if err := closer.Close(); err != nil {
			return nil, fmt.Errorf("read idempotency key: %w", err)
		}
		return found, nil
	}
	return nil, nil
}

// Put stores value under hash.
func (t *KeyTable) Put(rows *Rows, hash KeyHash, now time.Time, value []byte) {
	bucket := t.bucket(now)
	t.mu.Lock()
	f := t.filters[bucket]
	if f == nil {
		f = &keyFilter{full: true}
		t.filters[bucket] = f
	}
	f.add(hash)
	t.mu.Unlock()
	rows.Set(t.key(bucket, hash), value)
}

// DropExpired deletes the buckets that are past their time and returns how many.
func (t *KeyTable) DropExpired(b *pebble.Batch, now time.Time) (int, error) {
	oldest := t.bucket(now.Add(-t.keep))
	t.mu.Lock()
	dropped := 0
	for bucket := range t.filters {
		if bucket < oldest {
			delete(t.filters, bucket)
			dropped++
		}
	}
	t.mu.Unlock()
	if dropped == 0 {
		return 0, nil
	}
	if err := b.DeleteRange(t.prefix, t.bucketPrefix(oldest), nil); err != nil {
		return 0, fmt.Errorf("drop old idempotency keys: %w", err)
	}
	return dropped, nil
}

// KeyRows reads the rows of a KeyTable, by prefix, without one being open.
type KeyRows []byte

// Each calls fn for every row.
func (t KeyRows) Each(r pebble.Reader, fn func(hash KeyHash, value []byte) error) (err error) {
	it, err := r.NewIter(PrefixRange(t))
	if err != nil {
		return fmt.Errorf("read idempotency keys: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for it.First(); it.Valid(); it.Next() {
		var hash KeyHash
		copy(hash[:], it.Key()[len(t)+4:])
		value, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("read idempotency keys: %w", err)
		}
		if err := fn(hash, value); err != nil {
			return err
		}
	}
	return nil
}

// candidates returns the buckets that may hold hash, newest first.
func (t *KeyTable) candidates(hash KeyHash) []uint32 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var found []uint32
	location := bloom.Locations(hash[:], hashes)
	for bucket, f := range t.filters {
		if f.mayHave(location) {
			found = append(found, bucket)
		}
	}
	slices.Sort(found)
	slices.Reverse(found)
	return found
}

// fill reads the keys of buckets that were there at the start into their filters.
func (t *KeyTable) fill(db *pebble.DB, buckets []uint32) {
	for _, bucket := range slices.Backward(buckets) {
		if err := t.fillBucket(db, bucket); err != nil {
			t.mu.Lock()
			t.failure = err
			t.mu.Unlock()
			return
		}
	}
}

var errClosing = errors.New("closing")

func (t *KeyTable) fillBucket(db *pebble.DB, bucket uint32) error {
	prefix := t.bucketPrefix(bucket)
	it, err := db.NewIter(PrefixRange(prefix))
	if err != nil {
		return fmt.Errorf("fill filter: %w", err)
	}
	more := it.First()
	for more {
		select {
		case <-t.closing:
			return errors.Join(errClosing, it.Close())
		default:
		}
		t.mu.Lock()
		f := t.filters[bucket]
		for n := 0; more && n < 1024; n++ {
			if f != nil {
				f.add(KeyHash(it.Key()[len(prefix):]))
			}
			more = it.Next()
		}
		t.mu.Unlock()
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return fmt.Errorf("fill filter: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.filters[bucket]; f != nil {
		f.full = true
	}
	return nil
}

// WaitFilled returns when the filters are filled, with the error that stopped it.
func (t *KeyTable) WaitFilled() error {
	t.filling.Wait()
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.failure
}

// buckets returns those that have rows, oldest first.
func (t *KeyTable) buckets(r pebble.Reader) ([]uint32, error) {
	it, err := r.NewIter(PrefixRange(t.prefix))
	if err != nil {
		return nil, fmt.Errorf("read idempotency keys: %w", err)
	}
	var found []uint32
	for ok := it.First(); ok; {
		bucket := binary.BigEndian.Uint32(it.Key()[len(t.prefix):])
		found = append(found, bucket)
		ok = it.SeekGE(t.bucketPrefix(bucket + 1))
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return nil, fmt.Errorf("read idempotency keys: %w", err)
	}
	return found, nil
}

func (t *KeyTable) bucket(at time.Time) uint32 {
	return uint32(at.UnixMilli() / t.span.Milliseconds())
}

func (t *KeyTable) bucketPrefix(bucket uint32) []byte {
	return binary.BigEndian.AppendUint32(bytes.Clone(t.prefix), bucket)
}

func (t *KeyTable) key(bucket uint32, hash KeyHash) []byte {
	k := make([]byte, 0, len(t.prefix)+4+len(hash))
	k = binary.BigEndian.AppendUint32(append(k, t.prefix...), bucket)
	return append(k, hash[:]...)
}

// keyFilter is a Bloom filter that grows by adding filters, each four times as large
// as the one before.
type keyFilter struct {
	full   bool // has every key of its bucket; until then it may not say no
	layers []*bloom.BloomFilter
	room   uint
}

const (
	hashes        = 7 // the best number for 1 % false positives
	firstLayer    = 1 << 20
	falsePositive = 0.01
)

func (f *keyFilter) add(hash KeyHash) {
	if f.room == 0 {
		f.room = firstLayer << (2 * min(len(f.layers), 3))
		bits, _ := bloom.EstimateParameters(f.room, falsePositive)
		f.layers = append(f.layers, bloom.New(bits, hashes))
	}
	f.layers[len(f.layers)-1].Add(hash[:])
	f.room--
}

func (f *keyFilter) mayHave(locations []uint64) bool {
	if !f.full {
		return true
	}
	for _, l := range f.layers {
		if l.TestLocations(locations) {
			return true
		}
	}
	return false
}
