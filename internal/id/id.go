// Package id makes Penstock's identifiers: a prefix that says of what, and a ULID,
// so that IDs of one kind sort by the time they were made (to the millisecond) and
// need no coordination. It does not parse times out of them; nothing should rely on that.
package id

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
)

// Prefixes of the kinds of things.
const (
	Order       = "ord_"
	Reservation = "rsv_"
	Event       = "evt_"
)

// Size is the length of an ID's binary form, without its prefix.
const Size = 16

// New returns a new ID of the kind for something made at t.
func New(prefix string, t time.Time) string {
	var u ulid.ULID
	hi, lo := rand.Uint64(), rand.Uint64()
	for i := range 8 {
		u[15-i] = byte(lo >> (8 * i))
	}
	u[6], u[7] = byte(hi), byte(hi>>8)
	setTime(&u, t)
	return text(prefix, u)
}

// Numbered returns the ID of the n-th thing in a numbered log of which at most 256
// exist: the same arguments give the same ID.
func Numbered(prefix string, t time.Time, log byte, n uint64) string {
	var u ulid.ULID
	u[6] = log
	for i := range 8 {
		u[15-i] = byte(n >> (8 * i))
	}
	setTime(&u, t)
	return text(prefix, u)
}

// Bytes returns the binary form of an ID that has the given prefix.
func Bytes(prefix, id string) ([Size]byte, error) {
	rest, ok := strings.CutPrefix(id, prefix)
	if !ok {
		return [Size]byte{}, fmt.Errorf("ID %q does not begin with %s", id, prefix)
	}
	u, err := ulid.ParseStrict(rest)
	if err != nil || u.String() != rest {
		return [Size]byte{}, fmt.Errorf("ID %q is not %s and 26 characters of a ULID", id, prefix)
	}
	return u, nil
}

// FromBytes is the inverse of Bytes.
func FromBytes(prefix string, b [Size]byte) string {
	return text(prefix, b)
}

func setTime(u *ulid.ULID, t time.Time) {
	ms := max(t.UnixMilli(), 0)
	for i := range 6 {
		u[5-i] = byte(ms >> (8 * i))
	}
}

func text(prefix string, u ulid.ULID) string {
	buf := make([]byte, len(prefix)+ulid.EncodedSize)
	copy(buf, prefix)
	// MarshalTextTo fails only for a buffer of another size.
	if err := u.MarshalTextTo(buf[len(prefix):]); err != nil {
		panic(err)
	}
	return string(buf)
}
