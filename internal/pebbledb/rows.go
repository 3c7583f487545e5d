package pebbledb

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// Rows collects the rows of a batch and hands them to Pebble in order of key. Pebble's
// memory table finds the place of a key from the one before it, so rows in order cost
// less than in the order in which a request touches them.
//
// Of several rows with one key the last stands. A Rows is reused from batch to batch and
// keeps its memory.
type Rows struct {
	data []byte
	refs []rowRef
}

// rowRef points into data: the key is data[at:mid], the value data[mid:end]. Its first
// 16 bytes stand in hi and lo, which decides nearly every comparison without a look there.
type rowRef struct {
	hi, lo       uint64
	at, mid, end int
	deleted      bool
}

// Reset forgets the rows.
func (r *Rows) Reset() {
	r.data, r.refs = r.data[:0], r.refs[:0]
}

// Set adds a row.
func (r *Rows) Set(key, value []byte) {
	at := len(r.data)
	r.data = append(r.data, key...)
	r.add(at, value)
}

// SetID adds a row whose key is prefix and id.
func (r *Rows) SetID(prefix []byte, id *[16]byte, value []byte) {
	at := len(r.data)
	r.data = append(append(r.data, prefix...), id[:]...)
	r.add(at, value)
}

// add makes a row of the key that begins at at and ends with the data.
func (r *Rows) add(at int, value []byte) {
	var head [16]byte
	copy(head[:], r.data[at:])
	ref := rowRef{
		hi: binary.BigEndian.Uint64(head[:8]), lo: binary.BigEndian.Uint64(head[8:]), at: at, mid: len(r.data),
	}
	r.data = append(r.data, value...)
	ref.end = len(r.data)
	r.refs = append(r.refs, ref)
}

// DeleteID deletes the row whose key is prefix and id.
func (r *Rows) DeleteID(prefix []byte, id *[16]byte) {
	r.SetID(prefix, id, nil)
	r.refs[len(r.refs)-1].deleted = true
}

// Into moves the rows into b.
func (r *Rows) Into(b *pebble.Batch) error {
	slices.SortFunc(r.refs, func(x, y rowRef) int {
		switch {
		case x.hi != y.hi:
			return cmp.Compare(x.hi, y.hi)
		case x.lo != y.lo:
			return cmp.Compare(x.lo, y.lo)
		}
		if c := bytes.Compare(r.data[x.at:x.mid], r.data[y.at:y.mid]); c != 0 {
			return c
		}
		return x.at - y.at
	})
	for i := range r.refs {
		ref := &r.refs[i]
		var err error
		if ref.deleted {
			err = b.Delete(r.data[ref.at:ref.mid], nil)
		} else {
			err = b.Set(r.data[ref.at:ref.mid], r.data[ref.mid:ref.end], nil)
		}
		if err != nil {
			return fmt.Errorf("write row %q: %w", r.data[ref.at:ref.mid], err)
		}
	}
	r.Reset()
	return nil
}
