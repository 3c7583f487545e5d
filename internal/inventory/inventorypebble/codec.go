package inventorypebble

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/penstockhq/penstock/internal/id"
	"github.com/penstockhq/penstock/internal/inventory"
	"github.com/penstockhq/penstock/internal/pebbledb"
)

// recordVersion is the first byte of every record, so that a later layout can be told.
const recordVersion = 1

func levelKey(p inventory.Place) []byte {
	k := make([]byte, 0, len(prefixLevel)+len(p.SKU)+1+len(p.Location))
	k = append(append(k, prefixLevel...), p.SKU...)
	return append(append(k, 0), p.Location...)
}

// parseLevelKey splits what follows the prefix. Codes hold no byte below '!'.
func parseLevelKey(rest []byte) (inventory.Place, error) {
	for i, c := range rest {
		if c == 0 {
			return inventory.Place{SKU: string(rest[:i]), Location: location(rest[i+1:])}, nil
		}
	}
	return inventory.Place{}, fmt.Errorf("stock key %q: %w", rest, pebbledb.ErrCorrupt)
}

// location avoids a copy for the place where nearly all stock is.
func location(b []byte) string {
	if string(b) == inventory.DefaultLocation {
		return inventory.DefaultLocation
	}
	return string(b)
}

func appendLevel(b []byte, l inventory.Level) []byte {
	b = append(b, recordVersion)
	b = binary.AppendVarint(b, l.OnHand)
	b = binary.AppendVarint(b, l.Reserved)
	return binary.AppendUvarint(b, l.Version)
}

func decodeLevel(p inventory.Place, record []byte) (inventory.Level, error) {
	d := pebbledb.Decode(record)
	d.Byte()
	l := inventory.Level{Place: p, OnHand: d.Varint(), Reserved: d.Varint(), Version: d.Uvarint()}
	if err := d.Err(); err != nil {
		return l, fmt.Errorf("stock of %s at %s: %w", p.SKU, p.Location, err)
	}
	return l, nil
}

func appendPlace(b []byte, p inventory.Place) []byte {
	b = pebbledb.AppendString(b, p.SKU)
	if p.Location == inventory.DefaultLocation {
		return append(b, 0)
	}
	return pebbledb.AppendString(b, p.Location)
}

func decodePlace(d *pebbledb.Decoder) inventory.Place {
	p := inventory.Place{SKU: d.String(), Location: inventory.DefaultLocation}
	if l := d.Bytes(); len(l) > 0 {
		p.Location = string(l)
	}
	return p
}

// appendID writes an ID of the kind in 16 bytes after a mark, or a lone 0 for none.
func appendID(b []byte, prefix, text string) ([]byte, error) {
	if text == "" {
		return append(b, 0), nil
	}
	raw, err := id.Bytes(prefix, text)
	if err != nil {
		return nil, err
	}
	return append(append(b, 1), raw[:]...), nil
}

func decodeID(d *pebbledb.Decoder, prefix string) string {
	if d.Byte() == 0 {
		return ""
	}
	return id.FromBytes(prefix, d.ID())
}

func appendReservation(b []byte, r *inventory.Reservation) ([]byte, error) {
	b = append(b, recordVersion, byte(r.Status))
	b, err := appendID(b, id.Order, r.OrderID)
	if err != nil {
		return nil, err
	}
	b = pebbledb.AppendString(b, r.Reference)
	b = pebbledb.AppendString(b, r.Key)
	b = pebbledb.AppendTime(b, r.CreatedAt)
	b = pebbledb.AppendTime(b, r.ExpiresAt)
	b = pebbledb.AppendTime(b, r.ClosedAt)
	b = binary.AppendUvarint(b, r.Version)
	b = binary.AppendUvarint(b, uint64(len(r.Lines)))
	for _, l := range r.Lines {
		b = appendPlace(b, l.Place)
		b = append(b, byte(l.Policy))
		b = binary.AppendVarint(b, l.Quantity)
		b = binary.AppendVarint(b, l.Committed)
	}
	return b, nil
}

func decodeReservation(raw [16]byte, record []byte) (*inventory.Reservation, error) {
	d := pebbledb.Decode(record)
	d.Byte()
	r := &inventory.Reservation{
		ID:     id.FromBytes(id.Reservation, raw),
		Status: inventory.Status(d.Byte()), OrderID: decodeID(d, id.Order),
		Reference: d.String(), Key: d.String(),
		CreatedAt: d.Time(), ExpiresAt: d.Time(), ClosedAt: d.Time(), Version: d.Uvarint(),
	}
	r.Lines = make([]inventory.Line, d.Len())
	for i := range r.Lines {
		r.Lines[i] = inventory.Line{
			Place: decodePlace(d), Policy: inventory.Policy(d.Byte()), Quantity: d.Varint(), Committed: d.Varint(),
		}
	}
	if err := d.Err(); err != nil {
		return nil, fmt.Errorf("reservation %s: %w", r.ID, err)
	}
	return r, nil
}

// decodeEnd reads of a reservation only what the schedule needs: there may be a million
// of them to read at a start.
func decodeEnd(record []byte) (key string, ends time.Time, err error) {
	d := pebbledb.Decode(record)
	d.Raw(2)
	if d.Byte() == 1 {
		d.Raw(id.Size)
	}
	d.Bytes()
	key = d.String()
	d.Varint()
	ends = d.Time()
	if err := d.Err(); err != nil {
		return "", ends, fmt.Errorf("reservation: %w", err)
	}
	return key, ends, nil
}

func appendEntry(b []byte, e *inventory.Entry) ([]byte, error) {
	b = append(b, recordVersion, byte(e.Kind), byte(e.Policy))
	b = pebbledb.AppendTime(b, e.Time)
	b = appendPlace(b, e.Place)
	b = binary.AppendVarint(b, e.Quantity)
	b, err := appendID(b, id.Reservation, e.ReservationID)
	if err != nil {
		return nil, err
	}
	if b, err = appendID(b, id.Order, e.OrderID); err != nil {
		return nil, err
	}
	b = pebbledb.AppendString(b, e.Reference)
	return pebbledb.AppendString(b, e.Reason), nil
}

// entryKind decodes only what an entry did.
func entryKind(record []byte) (inventory.EntryKind, error) {
	d := pebbledb.Decode(record)
	d.Byte()
	return inventory.EntryKind(d.Byte()), d.Err()
}

func decodeEntry(seq uint64, record []byte) (inventory.Entry, error) {
	d := pebbledb.Decode(record)
	d.Byte()
	e := inventory.Entry{
		Seq: seq, Kind: inventory.EntryKind(d.Byte()), Policy: inventory.Policy(d.Byte()),
		Time: d.Time(), Place: decodePlace(d), Quantity: d.Varint(),
		ReservationID: decodeID(d, id.Reservation), OrderID: decodeID(d, id.Order),
		Reference: d.String(), Reason: d.String(),
	}
	if err := d.Err(); err != nil {
		return e, fmt.Errorf("ledger entry %d: %w", seq, err)
	}
	return e, nil
}

func appendCrossing(b []byte, c *inventory.Crossing) []byte {
	b = append(b, recordVersion, 0)
	if c.Depleted {
		b[len(b)-1] = 1
	}
	b = pebbledb.AppendTime(b, c.Time)
	b = appendPlace(b, c.Level.Place)
	return appendLevel(b, c.Level)
}

func decodeCrossing(seq uint64, record []byte) (inventory.Crossing, error) {
	d := pebbledb.Decode(record)
	d.Byte()
	c := inventory.Crossing{Seq: seq, Depleted: d.Byte() == 1, Time: d.Time()}
	place := decodePlace(d)
	d.Byte()
	c.Level = inventory.Level{Place: place, OnHand: d.Varint(), Reserved: d.Varint(), Version: d.Uvarint()}
	if err := d.Err(); err != nil {
		return c, fmt.Errorf("stock event %d: %w", seq, err)
	}
	return c, nil
}

func appendRemembered(b []byte, m *inventory.Remembered) ([]byte, error) {
	b = append(b, recordVersion)
	b = append(b, m.Fingerprint[:]...)
	b, err := appendID(b, id.Reservation, m.ReservationID)
	if err != nil || m.ReservationID != "" {
		return b, err
	}
	b = appendPlace(b, m.Level.Place)
	return appendLevel(b, m.Level), nil
}

func decodeRemembered(record []byte) (*inventory.Remembered, error) {
	d := pebbledb.Decode(record)
	d.Byte()
	m := &inventory.Remembered{Fingerprint: d.ID(), ReservationID: decodeID(d, id.Reservation)}
	if m.ReservationID == "" {
		place := decodePlace(d)
		d.Byte()
		m.Level = inventory.Level{Place: place, OnHand: d.Varint(), Reserved: d.Varint(), Version: d.Uvarint()}
	}
	if err := d.Err(); err != nil {
		return nil, fmt.Errorf("remembered answer: %w", err)
	}
	return m, nil
}
