package pebbledb

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/bits-and-blooms/bitset"
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
	filters []*keyFilter // newest bucket first
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
		closing: make(chan struct{}),
	}
	buckets, err := t.buckets(db)
	if err != nil {
		return nil, err
	}
	for _, b := range slices.Backward(buckets) {
		t.filters = append(t.filters, &keyFilter{bucket: b})
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
	f := t.filter(bucket)
	if f == nil {
		f = &keyFilter{bucket: bucket, full: true}
		t.filters = append(t.filters, f)
		slices.SortFunc(t.filters, func(x, y *keyFilter) int { return cmp.Compare(y.bucket, x.bucket) })
	}
	f.add(hash)
	t.mu.Unlock()
	rows.Set(t.key(bucket, hash), value)
}

// DropExpired deletes the buckets that are past their time and returns how many.
func (t *KeyTable) DropExpired(b *pebble.Batch, now time.Time) (int, error) {
	oldest := t.bucket(now.Add(-t.keep))
	t.mu.Lock()
	before := len(t.filters)
	t.filters = slices.DeleteFunc(t.filters, func(f *keyFilter) bool { return f.bucket < oldest })
	dropped := before - len(t.filters)
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
	for _, f := range t.filters {
		if f.mayHave(hash) {
			found = append(found, f.bucket)
		}
	}
	return found
}

// filter returns the bucket's filter, nil where there is none. The caller holds mu.
func (t *KeyTable) filter(bucket uint32) *keyFilter {
	for _, f := range t.filters {
		if f.bucket == bucket {
			return f
		}
	}
	return nil
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
		f := t.filter(bucket)
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
	if f := t.filter(bucket); f != nil {
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

// keyFilter is the Bloom filter of one bucket. It grows by layers, each four times as
// large as the one before. The hash of a key is uniform already, so its two halves give
// the bits (Kirsch and Mitzenmacher, "Less Hashing, Same Performance", 2006).
type keyFilter struct {
	bucket uint32
	full   bool // has every key of its bucket; until then it may not say no
	layers []*bitset.BitSet
	room   int // keys that the last layer still takes
}

const (
	keyBits    = 7       // bits of each key
	firstLayer = 1 << 20 // keys of the first layer
	bitsForKey = 16      // bits of a layer for each key: 0.1 % false positives
	layerSteps = 3       // after which layers do not grow any more
)

func (f *keyFilter) add(hash KeyHash) {
	if f.room == 0 {
		f.room = firstLayer << (2 * min(len(f.layers), layerSteps))
		f.layers = append(f.layers, bitset.New(uint(f.room)*bitsForKey))
	}
	f.room--
	last := f.layers[len(f.layers)-1]
	mask := last.Len() - 1 // a power of two, less one
	at, step := halves(hash)
	for range keyBits {
		last.Set(at & mask)
		at += step
	}
}

func (f *keyFilter) mayHave(hash KeyHash) bool {
	return !f.full || slices.ContainsFunc(f.layers, func(layer *bitset.BitSet) bool {
		mask := layer.Len() - 1
		at, step := halves(hash)
		for range keyBits {
			if !layer.Test(at & mask) {
				return false
			}
			at += step
		}
		return true
	})
}

func halves(hash KeyHash) (at, step uint) {
	return uint(binary.LittleEndian.Uint64(hash[:8])), uint(binary.LittleEndian.Uint64(hash[8:])) | 1
}
