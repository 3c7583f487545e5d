package inventorypebble

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/penstockhq/penstock/internal/inventory"
	"github.com/penstockhq/penstock/internal/pebbledb"
)

// Snapshot reads everything that a store has written, for audits. It needs no Store,
// so a folder that nobody serves can be read as well.
type Snapshot struct{ R pebble.Reader }

// Levels calls fn for every level, in order of place.
func (s Snapshot) Levels(_ context.Context, fn func(inventory.Level) error) error {
	return s.levels(prefixLevel, fn)
}

func (s Snapshot) levels(prefix []byte, fn func(inventory.Level) error) error {
	return each(s.R, prefix, nil, func(key, value []byte) error {
		p, err := parseLevelKey(key)
		if err != nil {
			return err
		}
		level, err := decodeLevel(p, value)
		if err != nil {
			return err
		}
		return fn(level)
	})
}

// Reservations calls fn for every reservation: first those that are active, then the
// closed, each in order of ID.
func (s Snapshot) Reservations(_ context.Context, fn func(*inventory.Reservation) error) error {
	for _, prefix := range [][]byte{prefixOpen, prefixClosed} {
		err := each(s.R, prefix, nil, func(key, value []byte) error {
			if len(key) != 16 {
				return fmt.Errorf("reservation key %x: %w", key, pebbledb.ErrCorrupt)
			}
			r, err := decodeReservation([16]byte(key), value)
			if err != nil {
				return err
			}
			return fn(r)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Ledger calls fn for every entry, oldest first.
func (s Snapshot) Ledger(_ context.Context, fn func(inventory.Entry) error) error {
	log, err := pebbledb.OpenLog(s.R, prefixLedger)
	if err != nil {
		return err
	}
	return log.Read(s.R, 0, func(n uint64, record []byte) (bool, error) {
		e, err := decodeEntry(n, record)
		if err != nil {
			return false, err
		}
		return true, fn(e)
	})
}

// Base returns what the part of the ledger that was removed came to.
func (s Snapshot) Base(context.Context) (base inventory.Base, err error) {
	log, err := pebbledb.OpenLog(s.R, prefixLedger)
	if err != nil {
		return base, err
	}
	if base.Seq, err = log.Removed(s.R); err != nil {
		return base, err
	}
	err = s.levels(prefixBaseLevel, func(l inventory.Level) error {
		base.Levels = append(base.Levels, l)
		return nil
	})
	if err != nil {
		return base, err
	}
	err = each(s.R, prefixBaseHold, nil, func(key, value []byte) error {
		if len(key) != 16 {
			return fmt.Errorf("base of reservation %x: %w", key, pebbledb.ErrCorrupt)
		}
		h, err := decodeHold([16]byte(key), value)
		base.Holds = append(base.Holds, h)
		return err
	})
	return base, err
}

// Crossings calls fn for every crossing, oldest first.
func (s Snapshot) Crossings(_ context.Context, fn func(inventory.Crossing) error) error {
	log, err := pebbledb.OpenLog(s.R, prefixCrossing)
	if err != nil {
		return err
	}
	return log.Read(s.R, 0, func(n uint64, record []byte) (bool, error) {
		c, err := decodeCrossing(n, record)
		if err != nil {
			return false, err
		}
		return true, fn(c)
	})
}

// CrossingsTrimmed returns the number of the last crossing that was removed.
func (s Snapshot) CrossingsTrimmed(context.Context) (uint64, error) {
	log, err := pebbledb.OpenLog(s.R, prefixCrossing)
	if err != nil {
		return 0, err
	}
	return log.Removed(s.R)
}

// Remembered calls fn for every answer that is remembered under a key, by the key's hash.
func (s Snapshot) Remembered(_ context.Context, fn func(hash [16]byte, m *inventory.Remembered) error) error {
	return pebbledb.KeyRows(prefixKey).Each(s.R, func(hash pebbledb.KeyHash, record []byte) error {
		m, err := decodeRemembered(record)
		if err != nil {
			return err
		}
		return fn(hash, m)
	})
}

// each calls fn for the rows under prefix from the key prefix+from on; keys come
// without the prefix.
func each(r pebble.Reader, prefix, from []byte, fn func(key, value []byte) error) (err error) {
	bounds := pebbledb.PrefixRange(prefix)
	bounds.LowerBound = append(bytes.Clone(prefix), from...)
	it, err := r.NewIter(bounds)
	if err != nil {
		return fmt.Errorf("read inventory: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("read inventory: %w", err)
		}
		if err := fn(it.Key()[len(prefix):], value); err != nil {
			return err
		}
	}
	return nil
}
