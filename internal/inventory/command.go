package inventory

import (
	"slices"
	"time"

	"github.com/penstockhq/penstock/internal/fault"
)

// Command is a change that a caller asks for: one of the *Command types here. A
// service validates it before a store sees it.
type Command interface {
	// Validate explains what is wrong with the command.
	Validate() error
}

// Memory makes a command that creates something repeatable: the store remembers the
// key with the command's answer and gives that again.
type Memory struct {
	Key         string   // what the caller repeats; empty remembers nothing
	Fingerprint [16]byte // of what the command asks for
}

// ReserveCommand holds stock of all its lines or of none.
type ReserveCommand struct {
	ID        string // of the new reservation
	Lines     []Line // Quantity and Policy are used; several lines of one place are added up
	TTL       time.Duration
	OrderID   string
	Reference string
	// Key finds the reservation that an earlier try of the same work made: while one
	// with this key is active the command returns it and holds nothing more.
	Key string
	// Memory, where it has a key, is remembered after the reservation is closed, too.
	Memory Memory
}

// ReserveKeys are what finds an earlier try of a ReserveCommand.
type ReserveKeys struct{ Key, Memory string }

// CommitCommand sells what a reservation holds: everything, or exactly Lines, with the
// rest released.
type CommitCommand struct {
	ID        string
	OrderID   string // whose reservation it must be; empty for none's
	Lines     []Line // Quantity is used; none for everything
	Reference string // of the payment or receipt, for the ledger
}

// ReleaseCommand gives back what a reservation holds.
type ReleaseCommand struct {
	ID      string
	OrderID string // whose reservation it must be; empty for none's
}

// ExtendCommand moves the end of a reservation to a later time.
type ExtendCommand struct {
	ID      string
	OrderID string // whose reservation it must be; empty for none's
	Until   time.Time
}

// ExpireCommand writes down which of the given reservations have run out of time. IDs
// that are closed, extended or unknown are passed over.
type ExpireCommand struct{ IDs []string }

// ReceiveCommand books units that arrived.
type ReceiveCommand struct {
	Place     Place
	Quantity  int64
	Reference string
	Memory    Memory
}

// AdjustCommand corrects the units on hand.
type AdjustCommand struct {
	Place     Place
	Delta     int64
	Policy    Policy
	Reason    string
	Reference string
	Memory    Memory
}

// Outcome answers a command.
type Outcome struct {
	// Err is the refusal, a *fault.Error. The other fields may be set beside it: a
	// refused commit or release still shows the reservation as it is.
	Err         error
	Reservation Reservation   // of reserve, commit, release, extend
	Level       Level         // of receive, adjust
	Expired     []Reservation // of expire
	Replayed    bool          // the answer is that of an earlier command
}

// Validate explains what is wrong with c.
func (c *ReserveCommand) Validate() error {
	if c.TTL < MinTTL || c.TTL > MaxTTL {
		return fault.New(fault.InvalidRequest, "a reservation lasts 1 second to 7 days, not %v", c.TTL)
	}
	if err := CheckText("reference", c.Reference); err != nil {
		return err
	}
	if len(c.Lines) == 0 {
		return fault.New(fault.InvalidRequest, "there must be at least one line")
	}
	return checkLines(c.Lines)
}

// Validate explains what is wrong with c.
func (c *CommitCommand) Validate() error {
	if err := CheckText("reference", c.Reference); err != nil {
		return err
	}
	return checkLines(c.Lines)
}

// Validate has nothing to find.
func (c *ReleaseCommand) Validate() error { return nil }

// Validate explains what is wrong with c.
func (c *ExtendCommand) Validate() error {
	if c.Until.IsZero() {
		return fault.New(fault.InvalidRequest, "expires_at is missing")
	}
	return nil
}

// Validate has nothing to find.
func (c *ExpireCommand) Validate() error { return nil }

// Validate explains what is wrong with c.
func (c *ReceiveCommand) Validate() error {
	if c.Quantity < 1 || c.Quantity > MaxDelta {
		return fault.New(fault.InvalidRequest, "quantity must be 1 to %d, not %d", MaxDelta, c.Quantity)
	}
	if err := CheckText("reference", c.Reference); err != nil {
		return err
	}
	return checkPlace(c.Place)
}

// Validate explains what is wrong with c.
func (c *AdjustCommand) Validate() error {
	if c.Delta == 0 || c.Delta < -MaxDelta || c.Delta > MaxDelta {
		return fault.New(fault.InvalidRequest, "delta must be -%d to %d and not 0, not %d", MaxDelta, MaxDelta, c.Delta)
	}
	if c.Reason == "" {
		return fault.New(fault.InvalidRequest, "reason is missing")
	}
	if err := CheckText("reason", c.Reason); err != nil {
		return err
	}
	if err := CheckText("reference", c.Reference); err != nil {
		return err
	}
	return checkPlace(c.Place)
}

func checkLines(lines []Line) error {
	if len(lines) > MaxLines {
		return fault.New(fault.InvalidRequest, "there may be up to %d lines, not %d", MaxLines, len(lines))
	}
	for i, l := range lines {
		if l.Quantity < 1 || l.Quantity > MaxQuantity {
			return fault.New(fault.InvalidRequest, "lines[%d].quantity must be 1 to %d, not %d", i, MaxQuantity, l.Quantity)
		}
		if err := checkPlace(l.Place); err != nil {
			return err
		}
	}
	return nil
}

func checkPlace(p Place) error {
	if err := CheckCode("sku", p.SKU); err != nil {
		return err
	}
	return CheckCode("location", p.Location)
}

// merged adds up the lines that name the same place and sorts them by place.
func merged(lines []Line) []Line {
	if len(lines) == 1 {
		return lines[:1:1]
	}
	sorted := slices.Clone(lines)
	slices.SortStableFunc(sorted, func(a, b Line) int { return a.Compare(b.Place) })
	out := sorted[:1]
	for _, l := range sorted[1:] {
		if last := &out[len(out)-1]; last.Place == l.Place {
			last.Quantity += l.Quantity
		} else {
			out = append(out, l)
		}
	}
	return out
}
