package order

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Command is a change of orders: one of the *Command types here.
type Command interface{ isCommand() }

// CreateCommand stores a new order together with its idempotency key. The Book takes
// the command over: its Order becomes the stored one.
type CreateCommand struct {
	Order       Order // Status, Version and times but HoldExpiresAt are set by the Book
	Fingerprint [16]byte
}

// StepCommand moves an order along one arrow of the state machine. Repeating a step
// that was taken gives the same answer.
type StepCommand struct {
	ID               string
	Action           Action
	PaymentReference string // of Pay
	// ReservationID, with Pay, is the reservation that was sold, which becomes the
	// order's; empty leaves the one it has. With Expire and Cancel it is the one that the order must still have:
	// otherwise the step is not meant any more and nothing happens.
	ReservationID string
}

// FollowCommand remembers how far the inventory's ledger has been followed.
type FollowCommand struct{ Position uint64 }

func (*CreateCommand) isCommand() {}
func (*StepCommand) isCommand()   {}
func (*FollowCommand) isCommand() {}

// Outcome answers a command.
type Outcome struct {
	Order    Order
	Replayed bool
	Err      error // the refusal, a *fault.Error; Order shows the order as it is then
}

// Event tells of one change of an order. What else an event carries is read from the
// order, whose lines and total never change.
type Event struct {
	Seq     uint64 // position, from 1; set by the store
	Time    time.Time
	OrderID string
	Version uint64
	Status  Status // after the change
}

// Key is a stored idempotency key.
type Key struct {
	OrderID     string
	Fingerprint [16]byte
}

// Rows is how a Book reads what a store has. A row is asked for at most once in a batch.
type Rows interface {
	// Order returns the order, nil where there is none.
	Order(id string) (*Order, error)
	// Key returns what is stored under the hash, nil for nothing.
	Key(hash KeyHash) (*Key, error)
}

// Change is an order that a batch made or changed.
type Change struct {
	Order  *Order
	Before Status // None where the batch made it
}

// Book decides the commands of one batch. Its zero value with Rows and Now set is
// ready for use; it is not for concurrent use.
type Book struct {
	Rows   Rows
	Now    time.Time
	Expect int // how many commands will come, about

	// What changed, for the store to write.
	Changes  []*Change
	Events   []Event
	Keys     map[KeyHash]*Key
	Followed uint64 // 0 where it did not change

	changed map[string]*Change
	read    map[string]*Order
}

// Do decides one command. An error means that the rows could not be read, and that
// the batch cannot go on; a refusal is in the Outcome.
func (b *Book) Do(cmd Command) (Outcome, error) {
	if b.Keys == nil {
		b.Keys, b.changed = make(map[KeyHash]*Key, b.Expect), make(map[string]*Change, b.Expect)
		b.Events, b.Changes = make([]Event, 0, b.Expect), make([]*Change, 0, b.Expect)
		b.read = map[string]*Order{}
	}
	switch c := cmd.(type) {
	case *CreateCommand:
		return b.create(c)
	case *StepCommand:
		return b.step(c)
	case *FollowCommand:
		b.Followed = max(b.Followed, c.Position)
		return Outcome{}, nil
	default:
		return Outcome{}, fmt.Errorf("unknown order command %T", cmd)
	}
}

func (b *Book) create(c *CreateCommand) (Outcome, error) {
	hash := c.Order.KeyHash
	known := b.Keys[hash]
	if known == nil {
		var err error
		if known, err = b.Rows.Key(hash); err != nil {
			return Outcome{}, fmt.Errorf("look up idempotency key: %w", err)
		}
	}
	if known != nil {
		return b.replay(known, c.Fingerprint)
	}
	o := &c.Order
	o.Status, o.Version, o.CreatedAt, o.UpdatedAt = Reserved, 1, b.Now, b.Now
	o.Placed = Placement{ReservationID: o.ReservationID, HoldExpiresAt: o.HoldExpiresAt}
	b.Keys[hash] = &Key{OrderID: o.ID, Fingerprint: c.Fingerprint}
	b.save(o, None)
	return Outcome{Order: *o}, nil
}

func (b *Book) replay(known *Key, fingerprint [16]byte) (Outcome, error) {
	if known.Fingerprint != fingerprint {
		return Outcome{Err: KeyReused()}, nil
	}
	o, err := b.order(known.OrderID)
	if err != nil {
		return Outcome{}, err
	}
	if o == nil {
		return Outcome{}, fmt.Errorf("order %s has a key but is not stored", known.OrderID)
	}
	return Outcome{Order: o.AsPlaced(), Replayed: true}, nil
}

func (b *Book) step(c *StepCommand) (Outcome, error) {
	o, err := b.order(c.ID)
	if err != nil {
		return Outcome{}, err
	}
	if o == nil {
		return Outcome{Err: NotFound(c.ID)}, nil
	}
	if out, done := repeated(o, c); done {
		return out, nil
	}
	to, ok := o.Status.Next(c.Action)
	if !ok {
		return Outcome{Order: *o, Err: Illegal(o, c.Action)}, nil
	}
	before, next := o.Status, *o
	next.Status, next.UpdatedAt = to, b.Now
	next.Version++
	if c.Action == Pay {
		next.PaymentReference = c.PaymentReference
		next.ReservationID = cmp.Or(c.ReservationID, o.ReservationID)
	}
	b.save(&next, before)
	return Outcome{Order: next}, nil
}

// repeated answers a step that was taken before, or that is not meant any more.
func repeated(o *Order, c *StepCommand) (Outcome, bool) {
	switch {
	case c.Action == Pay && o.Status == Paid:
		if o.PaymentReference != c.PaymentReference {
			return Outcome{Order: *o, Err: PaidOtherwise(o)}, true
		}
		return Outcome{Order: *o, Replayed: true}, true
	case c.Action != Pay && c.ReservationID != "" && c.ReservationID != o.ReservationID:
		return Outcome{Order: *o, Replayed: true}, true
	case c.Action == Cancel && o.Status == Cancelled, c.Action == Expire && o.Status == Expired:
		return Outcome{Order: *o, Replayed: true}, true
	}
	return Outcome{}, false
}

func (b *Book) order(id string) (*Order, error) {
	if c := b.changed[id]; c != nil {
		return c.Order, nil
	}
	if o, known := b.read[id]; known {
		return o, nil
	}
	o, err := b.Rows.Order(id)
	if err != nil {
		return nil, fmt.Errorf("read order %s: %w", id, err)
	}
	b.read[id] = o
	return o, nil
}

// save notes o as changed and writes its event.
func (b *Book) save(o *Order, before Status) {
	o.Lines = slices.Clip(o.Lines)
	if c := b.changed[o.ID]; c != nil {
		c.Order = o
	} else {
		c = &Change{Order: o, Before: before}
		b.changed[o.ID] = c
		b.Changes = append(b.Changes, c)
	}
	b.Events = append(b.Events, Event{Time: b.Now, OrderID: o.ID, Version: o.Version, Status: o.Status})
}
