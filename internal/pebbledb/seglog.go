package pebbledb

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/penstockhq/penstock/internal/fault"
)

// segmentEntries bounds a segment, so that a reader of a few entries does not
// decode a whole batch's.
const segmentEntries = 256

// Log is an append-only log of numbered entries, from 1. It packs the entries of one
// batch into few rows: a row an entry would cost more than the entry.
//
// Append has one caller at a time, and so has Remove; Read and Last may run beside both.
//
// The row of number 0, which no entry has, is a segment without entries. After its count
// stands the number of the last entry that was removed.
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
		n := d.Uvarint()
		if first == 0 { // all that ever was has been removed
			first = d.Uvarint() + 1
		}
		if d.Err() != nil {
			_ = it.Close()
			return nil, fmt.Errorf("open log %q: its end: %w", prefix, d.Err())
		}
		l.next.Store(first + n)
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

// Removed returns the number of the last entry that was removed, 0 if none was.
func (l *Log) Removed(r pebble.Reader) (uint64, error) {
	value, err := Lookup(r, l.key(0))
	if err != nil || value == nil {
		return 0, err
	}
	d := Decode(value)
	n, removed := d.Uvarint(), d.Uvarint()
	if d.Err() != nil || n != 0 {
		return 0, fmt.Errorf("read log %q: what was removed: %w", l.prefix, ErrCorrupt)
	}
	return removed, nil
}

// Remove puts into b what removes the entries up to a number, which r shows. It may be
// called again for the same entries.
func (l *Log) Remove(r pebble.Reader, b *pebble.Batch, upTo uint64) error {
	removed, err := l.Removed(r)
	if err != nil {
		return err
	}
	if upTo <= removed {
		return nil
	}
	rest, err := l.restOfSegment(r, upTo)
	if err == nil {
		err = b.DeleteRange(l.key(removed+1), l.key(upTo+1), nil)
	}
	if err == nil && rest != nil {
		err = b.Set(l.key(upTo+1), rest, nil)
	}
	if err == nil {
		err = b.Set(l.key(0), binary.AppendUvarint(binary.AppendUvarint(nil, 0), upTo), nil)
	}
	if err != nil {
		return fmt.Errorf("remove from log %q: %w", l.prefix, err)
	}
	return nil
}

// Repeat removes much in several commits: it calls some, which returns how many it removed,
// until that is none or ctx ends, and adds them up. Between two commits it rests for nine
// times as long as the last took: other work loses a tenth of one core.
func Repeat(ctx context.Context, some func() (int64, error)) (total int64, err error) {
	for {
		begin := time.Now()
		n, err := some()
		total += n
		if err != nil || n == 0 {
			return total, err
		}
		rest := time.NewTimer(9 * time.Since(begin))
		select {
		case <-rest.C:
		case <-ctx.Done():
			rest.Stop()
			return total, ctx.Err()
		}
	}
}

// restOfSegment returns a segment of those entries that come after upTo and share its
// segment; nil where there are none.
func (l *Log) restOfSegment(r pebble.Reader, upTo uint64) (rest []byte, err error) {
	it, err := r.NewIter(PrefixRange(l.prefix))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	if !it.SeekLT(l.key(upTo + 1)) {
		return nil, it.Error()
	}
	first, d, err := l.segment(it)
	if err != nil {
		return nil, err
	}
	n := d.Uvarint()
	if first == 0 || first+n <= upTo+1 {
		return nil, d.Err()
	}
	rest = binary.AppendUvarint(nil, first+n-upTo-1)
	for range upTo + 1 - first {
		d.Bytes()
	}
	return append(rest, d.Raw(d.Left())...), d.Err()
}

// Read calls fn for entries after the given number, oldest first, until fn returns
// false. The entry is valid only during the call. Where the entry after that number was
// removed it returns fault.EventsRemoved, because the reader would miss something and not
// know; from the beginning (0), what is left may be read.
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
	expect := after + 1
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
			if first+i > expect && after > 0 {
				return l.missing(r, after, first+i)
			}
			expect = first + i + 1
			if more, err := fn(first+i, entry); err != nil || !more {
				return err
			}
		}
	}
	if expect == after+1 && after > 0 {
		return l.missing(r, after, 0)
	}
	return nil
}

// missing explains why a reader who was at after finds the entry of another number next,
// or none: 0.
func (l *Log) missing(r pebble.Reader, after, next uint64) error {
	removed, err := l.Removed(r)
	switch {
	case err != nil:
		return err
	case after < removed:
		return fault.New(fault.EventsRemoved, "%d events after this cursor were removed", removed-after)
	case next > 0:
		return fmt.Errorf("read log %q: entry %d follows entry %d: %w", l.prefix, next, after, ErrCorrupt)
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
