package inventorypebble

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/penstockhq/penstock/internal/id"
	"github.com/penstockhq/penstock/internal/inventory"
	"github.com/penstockhq/penstock/internal/pebbledb"
)

// This file removes the old part of the ledger and keeps, in the same commit, what it came
// to: a base of levels and of reservations that were open. The rows of the base belong to
// Trim alone, so that it needs no part in the stores' group commit.

// trimChunk is how many entries of the ledger are removed in one commit.
const trimChunk = 2000

// Trim removes ledger entries that are older than before, with the stock events that they
// made, and returns how many. What they come to is kept as a base. It goes from the oldest
// on and ends at the first that is younger, or that comes after limit: entries that the
// orders have not followed yet must stay. It has one caller at a time.
func (s *Store) Trim(ctx context.Context, before time.Time, limit uint64) (int64, error) {
	removed, err := pebbledb.Repeat(ctx, func() (int64, error) { return s.trimSome(before, limit) })
	if err != nil {
		return removed, fmt.Errorf("remove old entries of the ledger: %w", err)
	}
	return removed, nil
}

func (s *Store) trimSome(before time.Time, limit uint64) (int64, error) {
	removed, err := s.ledger.Removed(s.db)
	if err != nil {
		return 0, err
	}
	fold := fold{r: s.db, levels: map[inventory.Place]*inventory.Level{}, holds: map[string]*inventory.BaseHold{}}
	upTo := removed
	err = s.ledger.Read(s.db, removed, func(n uint64, record []byte) (bool, error) {
		e, err := decodeEntry(n, record)
		if err != nil || n > limit || n > removed+trimChunk || !e.Time.Before(before) {
			return false, err
		}
		if n != upTo+1 {
			return false, fmt.Errorf("entry %d follows entry %d: %w", n, upTo, pebbledb.ErrCorrupt)
		}
		upTo = n
		return true, fold.enter(&e)
	})
	if err != nil || upTo == removed {
		return 0, err
	}
	if err := s.db.RemovesHistory(); err != nil {
		return 0, err
	}
	batch := s.db.NewBatch()
	if err := s.encodeTrim(batch, &fold, upTo); err != nil {
		return 0, err
	}
	return int64(upTo - removed), s.db.Commit(batch)
}

func (s *Store) encodeTrim(batch *pebble.Batch, fold *fold, upTo uint64) error {
	if err := fold.into(batch); err != nil {
		return err
	}
	if err := s.ledger.Remove(s.db, batch, upTo); err != nil {
		return err
	}
	return s.removeCrossings(batch, fold.crossed)
}

// removeCrossings removes the oldest events of stock, which stand in the order of the
// ledger's entries, if they are those that crossed tells of.
func (s *Store) removeCrossings(batch *pebble.Batch, crossed []inventory.Level) error {
	if len(crossed) == 0 {
		return nil
	}
	removed, err := s.crossings.Removed(s.db)
	if err != nil {
		return err
	}
	matched := 0
	err = s.crossings.Read(s.db, removed, func(n uint64, record []byte) (bool, error) {
		c, err := decodeCrossing(n, record)
		if err != nil || n != removed+uint64(matched)+1 || c.Level != crossed[matched] {
			return false, err
		}
		matched++
		return matched < len(crossed), nil
	})
	if err != nil {
		return err
	}
	if matched < len(crossed) {
		l := &crossed[matched]
		return fmt.Errorf("no stock event tells in its place that %s at %s crossed zero (version %d): %w", l.SKU, l.Location, l.Version, pebbledb.ErrCorrupt)
	}
	return s.crossings.Remove(s.db, batch, removed+uint64(matched))
}

// fold adds ledger entries to the base.
type fold struct {
	r       pebble.Reader
	levels  map[inventory.Place]*inventory.Level
	holds   map[string]*inventory.BaseHold
	first   string            // reservation of the first entry that has one
	crossed []inventory.Level // what the entries made of levels that then crossed zero
}

func (f *fold) enter(e *inventory.Entry) error {
	if e.ReservationID != "" {
		hold, err := f.hold(e)
		if err != nil {
			return err
		}
		hold.Enter(e)
	}
	if e.Policy == inventory.Untracked {
		return nil
	}
	level, err := f.level(e.Place)
	if err != nil {
		return err
	}
	after, crossed := level.After(e)
	if crossed {
		f.crossed = append(f.crossed, after)
	}
	*level = after
	return nil
}

func (f *fold) level(p inventory.Place) (*inventory.Level, error) {
	if l := f.levels[p]; l != nil {
		return l, nil
	}
	l := &inventory.Level{Place: p}
	record, err := pebbledb.Lookup(f.r, baseLevelKey(p))
	if err != nil {
		return nil, err
	}
	if record != nil {
		if *l, err = decodeLevel(p, record); err != nil {
			return nil, err
		}
	}
	f.levels[p] = l
	return l, nil
}

func (f *fold) hold(e *inventory.Entry) (*inventory.BaseHold, error) {
	if h := f.holds[e.ReservationID]; h != nil {
		return h, nil
	}
	h := &inventory.BaseHold{ReservationID: e.ReservationID, OrderID: e.OrderID}
	f.first = cmp.Or(f.first, e.ReservationID)
	if e.Kind == inventory.EntryReserved && e.ReservationID != f.first {
		// It begins here: the entries that hold a reservation's lines follow each other.
		f.holds[e.ReservationID] = h
		return h, nil
	}
	raw, err := id.Bytes(id.Reservation, e.ReservationID)
	if err != nil {
		return nil, err
	}
	record, err := pebbledb.Lookup(f.r, rowKey(prefixBaseHold, raw))
	if err != nil {
		return nil, err
	}
	if record != nil {
		if *h, err = decodeHold(raw, record); err != nil {
			return nil, err
		}
	}
	f.holds[e.ReservationID] = h
	return h, nil
}

func (f *fold) into(batch *pebble.Batch) error {
	for p, l := range f.levels {
		if err := batch.Set(baseLevelKey(p), appendLevel(nil, *l), nil); err != nil {
			return err
		}
	}
	for text, h := range f.holds {
		raw, err := id.Bytes(id.Reservation, text)
		if err != nil {
			return err
		}
		if h.Open == 0 { // it is closed, and says itself what it sold
			if err := batch.Delete(rowKey(prefixBaseHold, raw), nil); err != nil {
				return err
			}
			continue
		}
		record, err := appendHold(nil, h)
		if err != nil {
			return err
		}
		if err := batch.Set(rowKey(prefixBaseHold, raw), record, nil); err != nil {
			return err
		}
	}
	return nil
}

func baseLevelKey(p inventory.Place) []byte {
	key := levelKey(p)
	copy(key, prefixBaseLevel) // of the same length
	return key
}

func appendHold(b []byte, h *inventory.BaseHold) ([]byte, error) {
	b, err := appendID(append(b, recordVersion), id.Order, h.OrderID)
	if err != nil {
		return nil, err
	}
	return binary.AppendVarint(binary.AppendVarint(b, h.Open), h.Committed), nil
}

func decodeHold(raw [16]byte, record []byte) (inventory.BaseHold, error) {
	d := pebbledb.Decode(record)
	d.Byte()
	h := inventory.BaseHold{
		ReservationID: id.FromBytes(id.Reservation, raw), OrderID: decodeID(d, id.Order), Open: d.Varint(), Committed: d.Varint(),
	}
	if err := d.Err(); err != nil {
		return h, fmt.Errorf("base of reservation %s: %w", h.ReservationID, err)
	}
	return h, nil
}
