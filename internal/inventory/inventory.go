// Package inventory is the domain of stock: levels, reservations and the ledger.
//
// It does no I/O and reads no clock. A store hands a Book the rows that a batch of
// commands needs; the Book decides each command and remembers which rows changed,
// which ledger entries and events came of it; the store writes all of that in one
// commit. So every store decides alike, and a rule stands in one place.
//
// What a reader would get wrong: a reservation whose time has passed is expired from
// that moment on, whether or not anything has written that down yet.
package inventory

import (
	"fmt"
	"time"

	"github.com/penstockhq/penstock/internal/fault"
)

// DefaultLocation is where stock is when no location is named.
const DefaultLocation = "main"

// Bounds on what callers may ask for.
const (
	MinTTL      = time.Second
	MaxTTL      = 7 * 24 * time.Hour
	DefaultTTL  = 15 * time.Minute
	MaxLines    = 1_000
	MaxQuantity = 1_000_000     // units of one line
	MaxDelta    = 1_000_000_000 // units of one receipt or adjustment
	MaxCode     = 64            // characters of a SKU or location
	MaxText     = 255           // characters of a reference or reason
)

// Policy says what a SKU's stock level means for selling it.
type Policy uint8

const (
	// Reserve never sells more than is available. It is the default.
	Reserve Policy = iota
	// Track counts, but sells below zero.
	Track
	// Untracked does not count.
	Untracked
)

// String returns the policy's name in the API.
func (p Policy) String() string {
	switch p {
	case Track:
		return "track"
	case Untracked:
		return "untracked"
	default:
		return "reserve"
	}
}

// ParsePolicy is the inverse of Policy.String.
func ParsePolicy(s string) (Policy, error) {
	for _, p := range []Policy{Reserve, Track, Untracked} {
		if p.String() == s {
			return p, nil
		}
	}
	return Reserve, fmt.Errorf("policy %q is none of reserve, track, untracked", s)
}

// Place is a SKU at a location: what has a stock level.
type Place struct {
	SKU, Location string
}

// Compare orders places by SKU, then location.
func (p Place) Compare(q Place) int {
	switch {
	case p == q:
		return 0
	case p.SKU < q.SKU || p.SKU == q.SKU && p.Location < q.Location:
		return -1
	default:
		return 1
	}
}

// Level is the stock at a place, in units.
type Level struct {
	Place

	OnHand   int64  // physically there
	Reserved int64  // held by active reservations
	Version  uint64 // counts changes; 0 where nothing was ever booked
}

// Available is what can still be sold or held.
func (l Level) Available() int64 { return l.OnHand - l.Reserved }

// Status of a reservation.
type Status uint8

const (
	// Active holds stock.
	Active Status = iota + 1
	// Committed has sold what it held.
	Committed
	// Released was given back.
	Released
	// Expired ran out of time and was given back.
	Expired
)

// String returns the status's name in the API.
func (s Status) String() string {
	switch s {
	case Active:
		return "active"
	case Committed:
		return "committed"
	case Released:
		return "released"
	case Expired:
		return "expired"
	default:
		return "unknown"
	}
}

// Line is one place in a reservation.
type Line struct {
	Place

	Quantity  int64  // units held
	Committed int64  // units sold, once the reservation is committed
	Policy    Policy // as it was when the line was reserved
}

// Reservation holds stock of all its lines for a time.
type Reservation struct {
	ID        string
	Lines     []Line // one for each place, in order of place
	Status    Status
	OrderID   string // the order it is for, if any
	Reference string // the caller's own
	Key       string // what a retry of the same work presents; see ReserveCommand
	CreatedAt time.Time
	ExpiresAt time.Time
	ClosedAt  time.Time // zero while active
	Version   uint64
}

// EntryKind is what a ledger entry did.
type EntryKind uint8

// The kinds of entry and what they do to a level: received and adjusted change what
// is on hand, reserved adds to what is held, committed takes from both, released and
// expired take from what is held.
const (
	Received EntryKind = iota + 1
	Adjusted
	EntryReserved
	EntryCommitted
	EntryReleased
	EntryExpired
)

// Closes reports whether entries of the kind end a reservation, or a line of it.
func (k EntryKind) Closes() bool {
	return k == EntryCommitted || k == EntryReleased || k == EntryExpired
}

// Entry is one line of the append-only ledger. Replaying all entries gives every level.
type Entry struct {
	Seq           uint64 // position, from 1; set by the store
	Time          time.Time
	Kind          EntryKind
	Place         Place
	Policy        Policy
	Quantity      int64 // units; negative only for Adjusted
	ReservationID string
	OrderID       string
	Reference     string
	Reason        string
}

// Effect returns what e adds to the units on hand and to the units reserved.
func (e Entry) Effect() (onHand, reserved int64) {
	if e.Policy == Untracked {
		return 0, 0
	}
	switch e.Kind {
	case Received, Adjusted:
		return e.Quantity, 0
	case EntryReserved:
		return 0, e.Quantity
	case EntryCommitted:
		return -e.Quantity, -e.Quantity
	case EntryReleased, EntryExpired:
		return 0, -e.Quantity
	default:
		return 0, 0
	}
}

// After returns the level of the entry's place as the entry leaves it, and whether something
// is available there now where nothing was, or the other way round.
func (l Level) After(e *Entry) (after Level, crossed bool) {
	if e.Policy == Untracked {
		return l, false
	}
	onHand, reserved := e.Effect()
	after = l
	after.OnHand += onHand
	after.Reserved += reserved
	after.Version++
	return after, (l.Available() > 0) != (after.Available() > 0)
}

// Base is what the ledger comes to up to an entry, where the entries up to that one have
// been removed. The zero value is that of a whole ledger.
type Base struct {
	Seq    uint64 // of the last entry that was removed
	Levels []Level
	Holds  []BaseHold // reservations that were open then
}

// BaseHold is what a reservation held and had sold.
type BaseHold struct {
	ReservationID, OrderID string
	Open, Committed        int64 // units
}

// Enter books an entry of the reservation.
func (h *BaseHold) Enter(e *Entry) {
	switch e.Kind {
	case EntryReserved:
		h.Open += e.Quantity
	case EntryCommitted:
		h.Open -= e.Quantity
		h.Committed += e.Quantity
	default:
		h.Open -= e.Quantity
	}
}

// Crossing is the event of a level crossing zero.
type Crossing struct {
	Seq      uint64 // position among the crossings, from 1; set by the store
	Time     time.Time
	Depleted bool // nothing is available any more; otherwise something is again
	Level    Level
}

// CheckCode explains what is wrong with a SKU or location code.
func CheckCode(what, code string) error {
	if code == "" || len(code) > MaxCode {
		return fault.New(fault.InvalidRequest, "%s must have 1 to %d characters, %q has %d", what, MaxCode, short(code), len(code))
	}
	for i := range len(code) {
		if c := code[i]; c <= ' ' || c > '~' || c == '/' {
			return fault.New(fault.InvalidRequest,
				"%s %q must be of printable ASCII characters without spaces and slashes", what, short(code))
		}
	}
	return nil
}

// CheckText explains what is wrong with a reference or reason.
func CheckText(what, text string) error {
	if len(text) > MaxText {
		return fault.New(fault.InvalidRequest, "%s must have at most %d bytes, not %d", what, MaxText, len(text))
	}
	return nil
}

func short(s string) string {
	if len(s) > MaxCode {
		return s[:MaxCode] + "…"
	}
	return s
}
