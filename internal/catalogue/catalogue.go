// Package catalogue is the domain of what is for sale: SKUs with a title, a price and
// a stock policy. It does no I/O and reads no clock. It does not count stock.
package catalogue

import (
	"slices"
	"time"
	"unicode/utf8"

	"github.com/penstockhq/penstock/internal/fault"
)

// Bounds on a SKU.
const (
	MaxCode   = 64                // characters of a SKU's code
	MaxTitle  = 500               // bytes
	MaxAmount = 1_000_000_000_000 // minor units of a unit price
)

// SKU is a thing that can be ordered.
type SKU struct {
	Code      string
	Title     string
	Amount    int64  // unit price in minor units
	Currency  string // ISO 4217
	Policy    string // reserve, track or untracked
	Version   uint64 // 1 when created
	UpdatedAt time.Time
}

// Policies are the stock policies that a SKU may have; the first is the default.
//
//nolint:gochecknoglobals // a constant
var Policies = [...]string{"reserve", "track", "untracked"}

// PolicyIndex returns where in Policies the policy stands, 0 for one that is unknown.
func PolicyIndex(policy string) uint8 {
	return uint8(max(slices.Index(Policies[:], policy), 0))
}

// Offer is what pricing needs of a SKU, small enough to keep a million in memory.
type Offer struct {
	Amount   int64 // minor units
	currency [3]byte
	policy   uint8 // index into Policies
}

// OfferOf returns the SKU's offer.
func OfferOf(sku SKU) Offer {
	o := Offer{Amount: sku.Amount, policy: PolicyIndex(sku.Policy)}
	copy(o.currency[:], sku.Currency)
	return o
}

// Currency returns the ISO 4217 code.
func (o Offer) Currency() string { return string(o.currency[:]) }

// Policy returns the stock policy.
func (o Offer) Policy() string { return Policies[o.policy] }

// Put is the wish to create or replace a SKU.
type Put struct {
	SKU SKU // Version and UpdatedAt are not used
	// IfVersion, where it is not 0, is the version that must be there.
	IfVersion uint64
	// Create says that there must be none.
	Create bool
}

// Validate explains what is wrong with p.
func (p Put) Validate() error {
	if err := CheckCode(p.SKU.Code); err != nil {
		return err
	}
	if len(p.SKU.Title) > MaxTitle || !utf8.ValidString(p.SKU.Title) {
		return fault.New(fault.InvalidRequest, "title must be valid UTF-8 of at most %d bytes", MaxTitle)
	}
	if p.SKU.Amount < 0 || p.SKU.Amount > MaxAmount {
		return fault.New(fault.InvalidRequest, "unit_price.amount must be 0 to %d minor units, not %d", int64(MaxAmount), p.SKU.Amount)
	}
	if err := checkCurrency(p.SKU.Currency); err != nil {
		return err
	}
	for _, policy := range Policies {
		if p.SKU.Policy == policy {
			return nil
		}
	}
	return fault.New(fault.InvalidRequest, "policy must be reserve, track or untracked, not %q", p.SKU.Policy)
}

// Decide returns the SKU as it will be stored, given what is there (nil for none).
func (p Put) Decide(current *SKU, now time.Time) (SKU, error) {
	switch {
	case p.Create && current != nil:
		return SKU{}, fault.New(fault.PreconditionFailed, "SKU %s exists already, with version %d", p.SKU.Code, current.Version)
	case p.IfVersion != 0 && current == nil:
		return SKU{}, fault.New(fault.PreconditionFailed, "there is no SKU %s", p.SKU.Code)
	case p.IfVersion != 0 && current.Version != p.IfVersion:
		return SKU{}, fault.New(fault.PreconditionFailed, "SKU %s has version %d, not %d", p.SKU.Code, current.Version, p.IfVersion)
	}
	next := p.SKU
	next.Version, next.UpdatedAt = 1, now
	if current != nil {
		next.Version = current.Version + 1
	}
	return next, nil
}

// CheckCode explains what is wrong with a SKU's code.
func CheckCode(code string) error {
	if code == "" || len(code) > MaxCode {
		return fault.New(fault.InvalidRequest, "sku must have 1 to %d characters, not %d", MaxCode, len(code))
	}
	for i := range len(code) {
		if c := code[i]; c <= ' ' || c > '~' || c == '/' {
			return fault.New(fault.InvalidRequest, "sku %q must be of printable ASCII characters without spaces and slashes", code)
		}
	}
	return nil
}

func checkCurrency(code string) error {
	if len(code) == 3 {
		ok := true
		for i := range len(code) {
			ok = ok && code[i] >= 'A' && code[i] <= 'Z'
		}
		if ok {
			return nil
		}
	}
	return fault.New(fault.InvalidRequest, "currency must be an ISO 4217 code such as GBP, not %q", code)
}
