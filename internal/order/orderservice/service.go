// Package orderservice has the use cases of orders: placing, reading, paying,
// cancelling, and following what becomes of their reservations.
//
// # How two stores agree
//
// Stock and orders are committed apart, first the inventory, then the order. The
// inventory decides: of a payment and a cancellation that race, the one whose commit
// or release comes first wins, and the order follows. If the process dies between the
// two commits, the Follower (follower.go) reads in the inventory's ledger what
// happened and brings the order up to it: nothing paid is forgotten.
package orderservice

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"time"

	"github.com/puzpuzpuz/xsync/v4"

	"github.com/penstockhq/penstock/internal/fault"
	"github.com/penstockhq/penstock/internal/id"
	"github.com/penstockhq/penstock/internal/order"
)

// Store keeps orders, their idempotency keys and their events. Every answer is durable.
type Store interface {
	// Continue carries out commands; their stock is held already, so it waits rather than refuse.
	Continue(ctx context.Context, cmds []order.Command) ([]order.Outcome, error)
	// Order returns the order or fault.OrderNotFound.
	Order(ctx context.Context, id string) (order.Order, error)
	// Key returns what is stored under the hash; ok is false for nothing.
	Key(ctx context.Context, hash order.KeyHash) (key order.Key, ok bool, err error)
	// List returns up to limit orders, newest first; see ListQuery.
	List(ctx context.Context, q ListQuery) ([]order.Order, error)
	// Events returns up to limit events after the given position, oldest first.
	Events(ctx context.Context, after uint64, limit int) ([]order.Event, error)
	// Followed returns how far the inventory's ledger has been followed.
	Followed(ctx context.Context) (uint64, error)
	// Ready refuses new work when the store cannot take it: failed, full or overloaded.
	Ready() error
}

// ListQuery selects orders. Empty fields do not restrict.
type ListQuery struct {
	CustomerID string
	Status     order.Status // order.None for any
	Before     string       // only orders with a smaller ID
	Limit      int
}

// Inventory is what the orders need of the inventory.
type Inventory interface {
	// Hold reserves stock for each request on its own.
	Hold(ctx context.Context, holds []Hold) ([]Held, error)
	// HoldAgain reserves stock for a late payment. Repeated with the same key it gives
	// the same reservation, in whatever state that is now.
	HoldAgain(ctx context.Context, hold Hold) (Held, error)
	// Sell commits the reservation. The state tells what it is afterwards.
	Sell(ctx context.Context, orderID, reservationID, reference string) (HoldState, error)
	// Release gives the stock back. The state tells what the reservation is afterwards.
	Release(ctx context.Context, orderID, reservationID string) (HoldState, error)
	// Closings tells what became of orders' reservations, after a position in the
	// ledger: at most limit entries of it. last is the position of the last one read.
	Closings(ctx context.Context, after uint64, limit int) (closings []Closing, last uint64, err error)
}

// Placer holds stock and stores orders in one commit, where both are in one database.
type Placer interface {
	// PlaceTogether holds the stock of each order and stores the order if it got it; the
	// i-th answer is the i-th placement's. An order whose key is known takes no stock.
	PlaceTogether(ctx context.Context, placements []Placement) ([]Placed, error)
}

// Placement is an order to be placed with its stock.
type Placement struct {
	Hold   Hold
	Create *order.CreateCommand
}

// Placed answers a Placement.
type Placed struct {
	Err     error // why there was no stock
	Outcome order.Outcome
}

// Hold is a wish to reserve stock for an order.
type Hold struct {
	ReservationID string // of the new reservation
	OrderID       string
	Key           string // finds the reservation of an earlier try
	Lines         []order.Line
	TTL           time.Duration
}

// Held answers a Hold.
type Held struct {
	ReservationID string
	OrderID       string // of the earlier try, where the key found one
	ExpiresAt     time.Time
	State         HoldState
	Err           error // the refusal
}

// HoldState is what a reservation is.
type HoldState uint8

// The states of a reservation.
const (
	Holding HoldState = iota + 1
	Sold
	Released
	HoldExpired
)

// Closing is the end of an order's reservation.
type Closing struct {
	Seq           uint64 // position in the ledger
	Time          time.Time
	OrderID       string
	ReservationID string
	State         HoldState // Sold, Released or HoldExpired
	Reference     string    // of the payment, when sold
}

// Prices knows what SKUs cost.
type Prices interface {
	// Price returns the SKU's unit price; ok is false where there is no such SKU.
	Price(sku string) (price order.Money, ok bool)
}

// Config of a Service.
type Config struct {
	// RepairAfter is how long the two commits of a step may be apart before the
	// Follower completes it. Defaults to 2 s.
	RepairAfter time.Duration
	// FollowEvery is how often the Follower looks. Defaults to 500 ms.
	FollowEvery time.Duration
	// Placer places orders in one commit. Defaults to none: the stock is held in one
	// commit, and the order stored in the next.
	Placer Placer
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
	// Logger gets what goes wrong in the background. Defaults to none.
	Logger *slog.Logger
}

// Service is the orders.
type Service struct {
	cfg       Config
	store     Store
	inventory Inventory
	prices    Prices
	inFlight  *xsync.Map[order.KeyHash, struct{}]
	follower  follower
}

// New returns a Service on store.
func New(cfg Config, store Store, inventory Inventory, prices Prices) *Service {
	cfg.RepairAfter = cmp.Or(cfg.RepairAfter, 2*time.Second)
	cfg.FollowEvery = cmp.Or(cfg.FollowEvery, 500*time.Millisecond)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		cfg: cfg, store: store, inventory: inventory, prices: prices,
		inFlight: xsync.NewMap[order.KeyHash, struct{}](),
	}
	s.follower.service = s
	return s
}

// Get returns an order or fault.OrderNotFound.
func (s *Service) Get(ctx context.Context, id string) (order.Order, error) {
	o, err := s.store.Order(ctx, id)
	if err != nil {
		return order.Order{}, fmt.Errorf("read order: %w", err)
	}
	return o, nil
}

// List lists orders, newest first.
func (s *Service) List(ctx context.Context, q ListQuery) ([]order.Order, error) {
	found, err := s.store.List(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("list orders: %w", err)
	}
	return found, nil
}

// Pay records a payment taken elsewhere and sells the order's stock. A reservation
// that has run out is made again; where there is no stock for that, the refusal is
// fault.InsufficientStock and the order stays as it is.
func (s *Service) Pay(ctx context.Context, id, reference string) (order.Order, error) {
	if err := order.CheckText("reference", reference); err != nil {
		return order.Order{}, err
	}
	o, err := s.Get(ctx, id)
	if err != nil {
		return order.Order{}, err
	}
	switch o.Status {
	case order.Paid:
		if o.PaymentReference != reference {
			return o, order.PaidOtherwise(&o)
		}
		return o, nil
	case order.Reserved, order.Expired:
	default:
		return o, order.Illegal(&o, order.Pay)
	}
	ctx = context.WithoutCancel(ctx) // from here on it is done or not begun
	sold, err := s.sell(ctx, &o, reference)
	if err != nil {
		return o, err
	}
	return s.step(ctx, &order.StepCommand{
		ID: o.ID, Action: order.Pay, PaymentReference: reference, ReservationID: sold,
	})
}

// sell sells the order's stock and returns the reservation through which it did.
func (s *Service) sell(ctx context.Context, o *order.Order, reference string) (string, error) {
	reservation := o.ReservationID
	for {
		state, err := s.inventory.Sell(ctx, o.ID, reservation, reference)
		switch {
		case state == Sold:
			return reservation, nil
		case state == Released:
			return "", fault.New(fault.IllegalTransition, "order %s is being cancelled; it cannot be paid", o.ID)
		case state != HoldExpired:
			return "", fmt.Errorf("sell reservation %s: %w", reservation, err)
		}
		// The key is made of the reservation that ran out, so that payments which race,
		// or come again after a crash, find one and the same new reservation.
		hash := sha256.Sum256([]byte("again:" + reservation))
		held, err := s.inventory.HoldAgain(ctx, Hold{
			ReservationID: id.New(id.Reservation, s.cfg.Now()), OrderID: o.ID,
			Key: string(hash[:16]), Lines: o.Lines, TTL: time.Minute,
		})
		if err != nil {
			return "", fmt.Errorf("reserve again for a late payment: %w", err)
		}
		if held.Err != nil {
			return "", held.Err
		}
		reservation = held.ReservationID
	}
}

// Cancel gives the order's stock back and closes the order.
func (s *Service) Cancel(ctx context.Context, id string) (order.Order, error) {
	o, err := s.Get(ctx, id)
	if err != nil {
		return order.Order{}, err
	}
	if o.Status == order.Cancelled {
		return o, nil
	}
	if _, ok := o.Status.Next(order.Cancel); !ok {
		return o, order.Illegal(&o, order.Cancel)
	}
	ctx = context.WithoutCancel(ctx) // from here on it is done or not begun
	state, err := s.inventory.Release(ctx, o.ID, o.ReservationID)
	switch state {
	case Released:
		return s.step(ctx, &order.StepCommand{ID: o.ID, Action: order.Cancel, ReservationID: o.ReservationID})
	case HoldExpired:
		now, err := s.step(ctx, &order.StepCommand{ID: o.ID, Action: order.Expire, ReservationID: o.ReservationID})
		if err != nil {
			return now, err
		}
		return now, order.Illegal(&now, order.Cancel)
	case Sold:
		return o, fault.New(fault.IllegalTransition, "order %s is being paid; it cannot be cancelled", o.ID)
	default:
		return o, fmt.Errorf("release reservation %s: %w", o.ReservationID, err)
	}
}

func (s *Service) step(ctx context.Context, cmd *order.StepCommand) (order.Order, error) {
	outcomes, err := s.store.Continue(ctx, []order.Command{cmd})
	if err != nil {
		return order.Order{}, fmt.Errorf("%s order %s: %w", cmd.Action, cmd.ID, err)
	}
	return outcomes[0].Order, outcomes[0].Err
}

// PlaceRequest is an order as a customer asks for it.
type PlaceRequest struct {
	Key        string
	CustomerID string
	Lines      []order.Line  // UnitPrice is not used
	Hold       time.Duration // 0 for the default
}

func (r *PlaceRequest) prepare() error {
	r.Hold = cmp.Or(r.Hold, order.DefaultHold)
	if err := order.CheckKey(r.Key); err != nil {
		return err
	}
	if err := order.CheckText("customer_id", r.CustomerID); err != nil {
		return err
	}
	if r.Hold < order.MinHold || r.Hold > order.MaxHold {
		return fault.New(fault.InvalidRequest, "hold_seconds must be 1 to %d", int(order.MaxHold.Seconds()))
	}
	if len(r.Lines) == 0 || len(r.Lines) > order.MaxLines {
		return fault.New(fault.InvalidRequest, "an order has 1 to %d lines, not %d", order.MaxLines, len(r.Lines))
	}
	for i := range r.Lines {
		l := &r.Lines[i]
		l.Location = cmp.Or(l.Location, order.DefaultLocation)
		if l.Quantity < 1 || l.Quantity > order.MaxQuantity {
			return fault.New(fault.InvalidRequest, "lines[%d].quantity must be 1 to %d, not %d", i, order.MaxQuantity, l.Quantity)
		}
	}
	return nil
}

// fingerprint identifies what is asked for: the same for the same order, however its
// JSON was written.
func (r *PlaceRequest) fingerprint() (f [16]byte) {
	b := make([]byte, 0, 256)
	b = appendText(b, r.CustomerID)
	b = binary.AppendVarint(b, int64(r.Hold))
	for _, l := range r.Lines {
		b = appendText(appendText(b, l.SKU), l.Location)
		b = binary.AppendVarint(b, l.Quantity)
	}
	sum := sha256.Sum256(b)
	copy(f[:], sum[:])
	return f
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func hashKey(key string) (h order.KeyHash) {
	sum := sha256.Sum256([]byte(key))
	copy(h[:], sum[:])
	return h
}
