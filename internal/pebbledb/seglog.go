package pebbledb

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// segmentEntries bounds a segment, so that a reader of a few entries does not
// decode a whole batch's.
const segmentEntries = 256

// Log is an append-only log of numbered entries, from 1. It packs the entries of one
// batch into few rows: a row an entry would cost more than the entry.
//
// Append has one caller at a time; Read and Last may run beside it.
type Log struct {
	prefix []byte
	next   atomic.Uint64
}

// OpenLog returns the log under prefix as r holds it.
func OpenLog(r pebble.Reader, prefix []byte) (*Log, error) {
	l := &Log{prefix: prefix}
	l.next.Store(1)
	it, err := r.NewIter(PrefixRange(prefix))
	if err != nil {
		return nil, fmt.Errorf("open log %q: %w", prefix, err)
	}
	if it.Last() {
		first, d, err := l.segment(it)
		if err != nil {
			_ = it.Close()
			return nil, err
		}
		l.next.Store(first + d.Uvarint())
	}
	if err := it.Close(); err != nil {
		return nil, fmt.Errorf("open log %q: %w", prefix, err)
	}
	return l, nil
}

// Last returns the number of the newest entry, 0 if there is none. It may not be
// durable yet.
func (l *Log) Last() uint64 { return l.next.Load() - 1 }

// Append adds entries to b and returns the number of the first.
func (l *Log) Append(b *pebble.Batch, entries [][]byte) (first uint64, err error) {
	first = l.next.Load()
	next := first
	defer func() { l.next.Store(next) }()
	for len(entries) > 0 {
		n := min(len(entries), segmentEntries)
		size := binary.MaxVarintLen32
		for _, e := range entries[:n] {
			size += len(e) + binary.MaxVarintLen32
		}
		value := binary.AppendUvarint(make([]byte, 0, size), uint64(n))
		for _, e := range entries[:n] {
			value = binary.AppendUvarint(value, uint64(len(e)))
			value = append(value, e...)
		}
		if err := b.Set(l.key(next), value, nil); err != nil {
			return 0, fmt.Errorf("append to log %q: %w", l.prefix, err)
		}
		next += uint64(n)
		entries = entries[n:]
	}
	return first, nil
}

// Read calls fn for entries after the given number, oldest first, until fn returns
// false. The entry is valid only during the call.
func (l *Log) Read(r pebble.Reader, after uint64, fn func(n uint64, entry []byte) (bool, error)) (err error) {
	it, err := r.NewIter(PrefixRange(l.prefix))
	if err != nil {
		return fmt.Errorf("read log %q: %w", l.prefix, err)
	}
	defer func() {
		if cerr := it.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("read log %q: %w", l.prefix, cerr)
		}
	}()
	// The segment that holds after+1 begins at or before it.
	ok := it.SeekLT(l.key(after + 2))
	if !ok {
		ok = it.First()
	}
	for ; ok; ok = it.Next() {
		first, d, err := l.segment(it)
		if err != nil {
			return err
		}
		for i := range d.Uvarint() {
			entry := d.Bytes()
			if d.Err() != nil {
				return fmt.Errorf("read log %q at %d: %w", l.prefix, first+i, d.Err())
			}
			if first+i <= after {
				continue
			}
			if more, err := fn(first+i, entry); err != nil || !more {
				return err
			}
		}
	}
	return nil
}

func (l *Log) key(n uint64) []byte {
	k := make([]byte, 0, len(l.prefix)+8)
	return binary.BigEndian.AppendUint64(append(k, l.prefix...), n)
}

func (l *Log) segment(it *pebble.Iterator) (first uint64, d *Decoder, err error) {
	value, err := it.ValueAndErr()
	if err != nil {
		return 0, nil, fmt.Errorf("read log %q: %w", l.prefix, err)
	}
	rest := it.Key()[len(l.prefix):]
	if len(rest) != 8 {
		return 0, nil, fmt.Errorf("read log %q: key %x: %w", l.prefix, it.Key(), ErrCorrupt)
	}
	return binary.BigEndian.Uint64(rest), Decode(value), nil
}

// PrefixRange bounds an iterator to the keys that begin with prefix.
func PrefixRange(prefix []byte) *pebble.IterOptions {
	return &pebble.IterOptions{LowerBound: prefix, UpperBound: After(prefix)}
}

// After returns the first key that sorts after every key with the prefix; nil where
// there is none.
func After(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] != 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return nil
}
