package orderpebble

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/penstockhq/penstock/internal/order"
	"github.com/penstockhq/penstock/internal/pebbledb"
)

// Snapshot reads everything that a store has written, for audits. It needs no Store,
// so a folder that nobody serves can be read as well.
type Snapshot struct{ R pebble.Reader }

// Orders calls fn for every order, oldest first.
func (s Snapshot) Orders(_ context.Context, fn func(*order.Order) error) (err error) {
	it, err := s.R.NewIter(pebbledb.PrefixRange(prefixOrder))
	if err != nil {
		return fmt.Errorf("read orders: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		o, err := orderAt(it, prefixOrder)
		if err != nil {
			return err
		}
		if err := fn(o); err != nil {
			return err
		}
	}
	return nil
}

func orderAt(it *pebble.Iterator, prefix []byte) (*order.Order, error) {
	value, err := it.ValueAndErr()
	if err != nil {
		return nil, fmt.Errorf("read orders: %w", err)
	}
	raw, err := idAtEnd(it.Key(), len(prefix))
	if err != nil {
		return nil, err
	}
	return decodeOrder(raw, value)
}

func idAtEnd(key []byte, prefix int) ([16]byte, error) {
	if len(key) < prefix+16 {
		return [16]byte{}, fmt.Errorf("order key %x: %w", key, pebbledb.ErrCorrupt)
	}
	return [16]byte(key[len(key)-16:]), nil
}

// Order returns one order, nil where there is none.
func (s Snapshot) Order(text string) (*order.Order, error) { return readOrder(s.R, text) }

// Keys calls fn for every idempotency key.
func (s Snapshot) Keys(_ context.Context, fn func(order.KeyHash, order.Key) error) error {
	table := pebbledb.KeyRows(prefixKey)
	return table.Each(s.R, func(hash pebbledb.KeyHash, record []byte) error {
		k, err := decodeKey(record)
		if err != nil {
			return err
		}
		return fn(hash, k)
	})
}

// Events calls fn for every event, oldest first.
func (s Snapshot) Events(_ context.Context, fn func(order.Event) error) error {
	log, err := pebbledb.OpenLog(s.R, prefixEvent)
	if err != nil {
		return err
	}
	return log.Read(s.R, 0, func(n uint64, record []byte) (bool, error) {
		e, err := decodeEvent(n, record)
		if err != nil {
			return false, err
		}
		return true, fn(e)
	})
}

// Trimmed returns the number of the last event that was removed.
func (s Snapshot) Trimmed(context.Context) (uint64, error) {
	log, err := pebbledb.OpenLog(s.R, prefixEvent)
	if err != nil {
		return 0, err
	}
	return log.Removed(s.R)
}

// Listed calls fn for every row of the lists by customer and by status.
func (s Snapshot) Listed(_ context.Context, fn func(customer string, status order.Status, raw [16]byte) error) (err error) {
	for _, prefix := range [][]byte{prefixCustomer, prefixStatus} {
		it, err := s.R.NewIter(pebbledb.PrefixRange(prefix))
		if err != nil {
			return fmt.Errorf("read lists: %w", err)
		}
		for ok := it.First(); ok; ok = it.Next() {
			rest := it.Key()[len(prefix):]
			if len(rest) < 17 {
				return errors.Join(fmt.Errorf("list key %x: %w", it.Key(), pebbledb.ErrCorrupt), it.Close())
			}
			raw := [16]byte(rest[len(rest)-16:])
			if prefix[1] == prefixStatus[1] {
				err = fn("", order.Status(rest[0]), raw)
			} else {
				err = fn(string(rest[:len(rest)-17]), order.None, raw)
			}
			if err != nil {
				return errors.Join(err, it.Close())
			}
		}
		if err := it.Close(); err != nil {
			return fmt.Errorf("read lists: %w", err)
		}
	}
	return nil
}

// Followed returns how far the inventory's ledger had been followed.
func (s Snapshot) Followed(context.Context) (uint64, error) {
	record, err := pebbledb.Lookup(s.R, keyFollowed)
	if err != nil || len(record) != 8 {
		return 0, err
	}
	return binary.BigEndian.Uint64(record), nil
}
