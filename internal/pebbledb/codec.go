package pebbledb

import (
	"encoding/binary"
	"errors"
	"time"
)

// ErrCorrupt says that a stored record cannot be decoded.
var ErrCorrupt = errors.New("stored record is damaged")

// AppendString appends s with its length in front.
func AppendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// AppendTime appends t in microseconds; the zero time stays zero.
func AppendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return binary.AppendVarint(b, 0)
	}
	return binary.AppendVarint(b, t.UnixMicro())
}

// Decoder reads a record front to back. Its methods return zero values once
// something was missing; Err tells so at the end.
type Decoder struct {
	b   []byte
	bad bool
}

// Decode returns a Decoder of record.
func Decode(record []byte) *Decoder { return &Decoder{b: record} }

// Err returns ErrCorrupt if something was missing or damaged.
func (d *Decoder) Err() error {
	if d.bad {
		return ErrCorrupt
	}
	return nil
}

// More reports whether anything is left to read.
func (d *Decoder) More() bool { return !d.bad && len(d.b) > 0 }

// Left returns how many bytes are left to read.
func (d *Decoder) Left() int { return len(d.b) }

// Byte reads one byte.
func (d *Decoder) Byte() byte {
	if len(d.b) == 0 {
		d.bad = true
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

// Uvarint reads an unsigned number.
func (d *Decoder) Uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

// Varint reads a signed number.
func (d *Decoder) Varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

// Len reads a count of things of which each takes at least one byte.
func (d *Decoder) Len() int {
	n := d.Uvarint()
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return 0
	}
	return int(n)
}

// Bytes reads what AppendString wrote, without copying.
func (d *Decoder) Bytes() []byte {
	return d.Raw(d.Len())
}

// String reads what AppendString wrote.
func (d *Decoder) String() string { return string(d.Bytes()) }

// Raw reads n bytes, without copying.
func (d *Decoder) Raw(n int) []byte {
	if n > len(d.b) {
		d.bad, d.b = true, nil
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

// ID reads 16 bytes.
func (d *Decoder) ID() (id [16]byte) {
	copy(id[:], d.Raw(len(id)))
	return id
}

// Time reads what AppendTime wrote, as UTC.
func (d *Decoder) Time() time.Time {
	us := d.Varint()
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
