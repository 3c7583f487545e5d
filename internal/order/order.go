// Package order is the domain of orders: what an order is, which steps it may take,
// and how a batch of commands is decided. It does no I/O and reads no clock.
//
// What a reader would get wrong: an order does not own its stock. Whether units are
// held, sold or free again is the inventory's to say, and the order follows: paying
// first sells the reservation, cancelling first releases it, and what the inventory
// then says decides which of two racing steps won.
package order

import (
	"math"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/penstockhq/penstock/internal/fault"
)

// Bounds on what callers may ask for.
const (
	MaxLines     = 1_000
	MaxQuantity  = 1_000_000
	MaxText      = 255 // bytes of a customer ID, key or reference
	MaxCode      = 64  // characters of a SKU or location
	MinHold      = time.Second
	MaxHold      = 7 * 24 * time.Hour
	DefaultHold  = 15 * time.Minute
	MaxPlaceOnce = 1_000 // orders of one batch
)

// DefaultLocation is where lines are taken from that name no location.
const DefaultLocation = "main"

// Money is an amount of minor units of a currency.
type Money struct {
	Amount   int64
	Currency string // ISO 4217
}

// Line is one line of an order.
type Line struct {
	SKU       string
	Location  string
	Quantity  int64
	UnitPrice int64 // minor units of the order's currency
}

// Subtotal is the line's price in minor units.
func (l Line) Subtotal() int64 { return l.Quantity * l.UnitPrice }

// Order is a customer's order.
type Order struct {
	ID               string
	Status           Status
	CustomerID       string
	Lines            []Line
	Total            Money
	ReservationID    string
	PaymentReference string // once paid
	HoldExpiresAt    time.Time
	CreatedAt        time.Time
	UpdatedAt        time.Time
	Version          uint64 // 1 when placed
	KeyHash          KeyHash
	// Placed has the reservation that the order was placed with; ReservationID is
	// another one after a late payment reserved again.
	Placed Placement
}

// Placement is what of an order's first answer may change later.
type Placement struct {
	ReservationID string
	HoldExpiresAt time.Time
}

// KeyHash stands for an idempotency key.
type KeyHash = [16]byte

// AsPlaced returns the order as it was when it was placed: the answer to a repeated
// request.
func (o Order) AsPlaced() Order {
	o.Status, o.Version, o.UpdatedAt, o.PaymentReference = Reserved, 1, o.CreatedAt, ""
	o.ReservationID, o.HoldExpiresAt = o.Placed.ReservationID, o.Placed.HoldExpiresAt
	return o
}

// Total adds up lines. A sum that no order may have is refused.
func Total(lines []Line) (int64, error) {
	total := int64(0)
	for i, l := range lines {
		if l.UnitPrice > 0 && l.Quantity > math.MaxInt64/l.UnitPrice || total > math.MaxInt64-l.Subtotal() {
			return 0, fault.New(fault.InvalidRequest, "lines[%d] makes the total too large", i)
		}
		total += l.Subtotal()
	}
	return total, nil
}

// Status of an order.
type Status uint8

// The statuses that an order may have.
const (
	None     Status = iota // not placed yet
	Reserved               // stock is held until HoldExpiresAt
	Paid                   // stock is sold
	Cancelled
	Expired // not paid in time; a late payment may still revive it
)

// Statuses are all that an order can be listed by.
//
//nolint:gochecknoglobals // a constant
var Statuses = []Status{Reserved, Paid, Cancelled, Expired}

// String returns the status's name in the API.
func (s Status) String() string {
	switch s {
	case Reserved:
		return "reserved"
	case Paid:
		return "paid"
	case Cancelled:
		return "cancelled"
	case Expired:
		return "expired"
	default:
		return "none"
	}
}

// Action is a step that an order may take.
type Action uint8

// The actions.
const (
	Place Action = iota + 1
	Pay
	Cancel
	Expire
)

// String returns the action's name, as a verb.
func (a Action) String() string {
	switch a {
	case Place:
		return "place"
	case Pay:
		return "pay"
	case Cancel:
		return "cancel"
	case Expire:
		return "expire"
	default:
		return "unknown"
	}
}

// Transition is one arrow of the state machine.
type Transition struct {
	From   Status
	Action Action
	To     Status
}

// Transitions is the state machine, whole. docs/orders.md draws it, and a test keeps
// the drawing true.
//
//nolint:gochecknoglobals // a constant
var Transitions = []Transition{
	{None, Place, Reserved},
	{Reserved, Pay, Paid},
	{Reserved, Cancel, Cancelled},
	{Reserved, Expire, Expired},
	{Expired, Pay, Paid},
}

// Next returns the status that action leads to from this one.
func (s Status) Next(action Action) (Status, bool) {
	i := slices.IndexFunc(Transitions, func(t Transition) bool { return t.From == s && t.Action == action })
	if i < 0 {
		return s, false
	}
	return Transitions[i].To, true
}

// Illegal is the refusal of a step that the order's status does not allow.
func Illegal(o *Order, action Action) *fault.Error {
	return fault.New(fault.IllegalTransition, "order %s is %s; it cannot %s", o.ID, o.Status, passive(action))
}

func passive(a Action) string {
	switch a {
	case Pay:
		return "be paid"
	case Cancel:
		return "be cancelled"
	default:
		return a.String()
	}
}

// NotFound is the refusal for an order that does not exist.
func NotFound(id string) *fault.Error {
	if len(id) > MaxCode {
		id = id[:MaxCode] + "…"
	}
	return fault.New(fault.OrderNotFound, "there is no order %s", id)
}

// KeyReused is the refusal of a key that came before with another body.
func KeyReused() *fault.Error {
	return fault.New(fault.KeyReused, "this Idempotency-Key was used for another order before")
}

// CheckText explains what is wrong with a customer ID or reference: it must have 1 to
// 255 bytes of valid UTF-8 and no control characters.
func CheckText(what, text string) error {
	if text == "" || len(text) > MaxText {
		return fault.New(fault.InvalidRequest, "%s must have 1 to %d bytes, not %d", what, MaxText, len(text))
	}
	if !utf8.ValidString(text) || slices.ContainsFunc([]rune(text), func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fault.New(fault.InvalidRequest, "%s must be valid UTF-8 without control characters", what)
	}
	return nil
}

// CheckKey explains what is wrong with an idempotency key.
func CheckKey(key string) error {
	if key == "" || len(key) > MaxText {
		return fault.New(fault.InvalidRequest, "Idempotency-Key must have 1 to %d characters, not %d", MaxText, len(key))
	}
	for i := range len(key) {
		if key[i] < ' ' || key[i] > '~' {
			return fault.New(fault.InvalidRequest, "Idempotency-Key must be of printable ASCII characters; number %d is not", i+1)
		}
	}
	return nil
}

// PaidOtherwise is the refusal of a second payment.
func PaidOtherwise(o *Order) *fault.Error {
	return fault.New(fault.PaymentConflict, "order %s is paid with the reference %q", o.ID, o.PaymentReference)
}
