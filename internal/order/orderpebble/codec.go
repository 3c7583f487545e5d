package orderpebble

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/penstockhq/penstock/internal/id"
	"github.com/penstockhq/penstock/internal/order"
	"github.com/penstockhq/penstock/internal/pebbledb"
)

// recordVersion is the first byte of every record, so that a later layout can be told.
const recordVersion = 1

// Flags of an order's record.
const (
	flagLocations  = 1 << iota // lines name their locations; without, all are the default
	flagReserved               // the reservation is not the one that it was placed with
	flagReferenced             // there is a payment reference
)

func appendOrder(b []byte, o *order.Order) ([]byte, error) {
	flags := byte(0)
	for _, l := range o.Lines {
		if l.Location != order.DefaultLocation {
			flags |= flagLocations
		}
	}
	if o.Placed.ReservationID != o.ReservationID || !o.Placed.HoldExpiresAt.Equal(o.HoldExpiresAt) {
		flags |= flagReserved
	}
	if o.PaymentReference != "" {
		flags |= flagReferenced
	}
	b = append(b, recordVersion, byte(o.Status), flags)
	b = append(b, o.KeyHash[:]...)
	b, err := appendID(b, id.Reservation, o.ReservationID)
	if err != nil {
		return nil, err
	}
	b = pebbledb.AppendTime(b, o.CreatedAt)
	b = binary.AppendVarint(b, o.UpdatedAt.Sub(o.CreatedAt).Microseconds())
	b = binary.AppendVarint(b, o.HoldExpiresAt.Sub(o.CreatedAt).Microseconds())
	b = binary.AppendUvarint(b, o.Version)
	b = pebbledb.AppendString(b, o.CustomerID)
	b = pebbledb.AppendString(b, o.Total.Currency)
	b = binary.AppendVarint(b, o.Total.Amount)
	if flags&flagReserved != 0 {
		if b, err = appendID(b, id.Reservation, o.Placed.ReservationID); err != nil {
			return nil, err
		}
		b = binary.AppendVarint(b, o.Placed.HoldExpiresAt.Sub(o.CreatedAt).Microseconds())
	}
	if flags&flagReferenced != 0 {
		b = pebbledb.AppendString(b, o.PaymentReference)
	}
	b = binary.AppendUvarint(b, uint64(len(o.Lines)))
	for _, l := range o.Lines {
		b = pebbledb.AppendString(b, l.SKU)
		if flags&flagLocations != 0 {
			b = pebbledb.AppendString(b, l.Location)
		}
		b = binary.AppendVarint(b, l.Quantity)
		b = binary.AppendVarint(b, l.UnitPrice)
	}
	return b, nil
}

func decodeOrder(raw [16]byte, record []byte) (*order.Order, error) {
	d := pebbledb.Decode(record)
	d.Byte()
	o := &order.Order{ID: id.FromBytes(id.Order, raw), Status: order.Status(d.Byte())}
	flags := d.Byte()
	o.KeyHash = d.ID()
	o.ReservationID = id.FromBytes(id.Reservation, d.ID())
	o.CreatedAt = d.Time()
	o.UpdatedAt = o.CreatedAt.Add(micros(d))
	o.HoldExpiresAt = o.CreatedAt.Add(micros(d))
	o.Version = d.Uvarint()
	o.CustomerID = d.String()
	o.Total = order.Money{Currency: d.String(), Amount: d.Varint()}
	o.Placed = order.Placement{ReservationID: o.ReservationID, HoldExpiresAt: o.HoldExpiresAt}
	if flags&flagReserved != 0 {
		o.Placed.ReservationID = id.FromBytes(id.Reservation, d.ID())
		o.Placed.HoldExpiresAt = o.CreatedAt.Add(micros(d))
	}
	if flags&flagReferenced != 0 {
		o.PaymentReference = d.String()
	}
	o.Lines = make([]order.Line, d.Len())
	for i := range o.Lines {
		l := order.Line{SKU: d.String(), Location: order.DefaultLocation}
		if flags&flagLocations != 0 {
			l.Location = d.String()
		}
		l.Quantity, l.UnitPrice = d.Varint(), d.Varint()
		o.Lines[i] = l
	}
	if err := d.Err(); err != nil {
		return nil, fmt.Errorf("order %s: %w", o.ID, err)
	}
	return o, nil
}

func appendKey(b []byte, k *order.Key) ([]byte, error) {
	b, err := appendID(append(b, recordVersion), id.Order, k.OrderID)
	return append(b, k.Fingerprint[:]...), err
}

func decodeKey(record []byte) (order.Key, error) {
	d := pebbledb.Decode(record)
	d.Byte()
	k := order.Key{OrderID: id.FromBytes(id.Order, d.ID()), Fingerprint: d.ID()}
	if err := d.Err(); err != nil {
		return k, fmt.Errorf("idempotency key: %w", err)
	}
	return k, nil
}

func appendEvent(b []byte, e *order.Event) ([]byte, error) {
	b, err := appendID(append(b, recordVersion, byte(e.Status)), id.Order, e.OrderID)
	b = binary.AppendUvarint(b, e.Version)
	return pebbledb.AppendTime(b, e.Time), err
}

func decodeEvent(seq uint64, record []byte) (order.Event, error) {
	d := pebbledb.Decode(record)
	d.Byte()
	e := order.Event{
		Seq: seq, Status: order.Status(d.Byte()), OrderID: id.FromBytes(id.Order, d.ID()),
		Version: d.Uvarint(), Time: d.Time(),
	}
	if err := d.Err(); err != nil {
		return e, fmt.Errorf("order event %d: %w", seq, err)
	}
	return e, nil
}

func appendID(b []byte, prefix, text string) ([]byte, error) {
	raw, err := id.Bytes(prefix, text)
	if err != nil {
		return nil, err
	}
	return append(b, raw[:]...), nil
}

func micros(d *pebbledb.Decoder) time.Duration { return time.Duration(d.Varint()) * time.Microsecond }
