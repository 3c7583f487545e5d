package app

import (
	"context"
	"errors"
	"log/slog"

	"github.com/go-faster/jx"

	"github.com/penstockhq/penstock/api/gen/oas"
	"github.com/penstockhq/penstock/internal/catalogue/cataloguerest"
	"github.com/penstockhq/penstock/internal/event"
	"github.com/penstockhq/penstock/internal/fault"
	"github.com/penstockhq/penstock/internal/gateway"
	"github.com/penstockhq/penstock/internal/inventory"
	"github.com/penstockhq/penstock/internal/inventory/inventoryrest"
	"github.com/penstockhq/penstock/internal/inventory/inventoryservice"
	"github.com/penstockhq/penstock/internal/order"
	"github.com/penstockhq/penstock/internal/order/orderrest"
	"github.com/penstockhq/penstock/internal/order/orderservice"
	"github.com/penstockhq/penstock/internal/problem"
)

type (
	catalogueOperations = cataloguerest.Handler
	inventoryOperations = inventoryrest.Handler
	orderOperations     = orderrest.Handler
)

// operations is every operation of the contract: each service's handlers, the feed,
// and the one place where failures become problems.
type operations struct {
	catalogueOperations
	inventoryOperations
	orderOperations
	eventOperations

	log *slog.Logger
}

// eventOperations serves GET /v1/events.
type eventOperations struct{ feed *event.Feed }

// ListEvents serves GET /v1/events.
func (e eventOperations) ListEvents(ctx context.Context, params oas.ListEventsParams) (*oas.EventPage, error) {
	events, next, err := e.feed.Read(ctx, params.After.Value, params.Limit.Value)
	if err != nil {
		return nil, err
	}
	page := &oas.EventPage{Events: make([]oas.CloudEvent, len(events)), Next: next}
	for i, ev := range events {
		page.Events[i] = oas.CloudEvent{
			Specversion: oas.CloudEventSpecversion(ev.SpecVersion), ID: ev.ID, Source: ev.Source, Type: ev.Type,
			Subject: oas.NewOptString(ev.Subject), Time: ev.Time, Datacontenttype: ev.ContentType, Data: jx.Raw(ev.Data),
		}
	}
	return page, nil
}

// NewError shows a failure to the client and logs what the client must not see.
func (o operations) NewError(_ context.Context, err error) *oas.ProblemStatusCodeWithHeaders {
	gateway.LogFailure(o.log, err)
	return problem.Of(err)
}

// expired tells the orders which of their reservations have run out.
func (a *App) expired(ctx context.Context, reservations []inventory.Reservation) {
	var closings []orderservice.Closing
	for _, r := range reservations {
		if r.OrderID != "" {
			closings = append(closings, orderservice.Closing{
				Time: r.ClosedAt, OrderID: r.OrderID, ReservationID: r.ID, State: orderservice.HoldExpired,
			})
		}
	}
	a.services.orders.ReservationsExpired(ctx, closings)
}

// policies shows the catalogue to the inventory.
type policies struct{ catalogue catalogueStore }

func (p policies) Policy(sku string) (inventory.Policy, bool) {
	offer, ok := p.catalogue.Offer(sku)
	if !ok {
		return inventory.Reserve, false
	}
	policy, err := inventory.ParsePolicy(offer.Policy())
	return policy, err == nil
}

// prices shows the catalogue to the orders.
type prices struct{ catalogue catalogueStore }

func (p prices) Price(sku string) (order.Money, bool) {
	offer, ok := p.catalogue.Offer(sku)
	return order.Money{Amount: offer.Amount, Currency: offer.Currency()}, ok
}

// lateOrders and lateInventory let the feed be made before the stores that it reads.
type lateOrders struct{ app *App }

func (l lateOrders) Events(ctx context.Context, after uint64, limit int) ([]order.Event, error) {
	return l.app.orders.Events(ctx, after, limit)
}

func (l lateOrders) Order(ctx context.Context, id string) (order.Order, error) {
	return l.app.orders.Order(ctx, id)
}

type lateInventory struct{ app *App }

func (l lateInventory) Crossings(ctx context.Context, after uint64, limit int) ([]inventory.Crossing, error) {
	return l.app.inventory.Crossings(ctx, after, limit)
}

// stock shows the inventory to the orders.
type stock struct{ inventory *inventoryservice.Service }

func (s stock) Hold(ctx context.Context, holds []orderservice.Hold) ([]orderservice.Held, error) {
	cmds := make([]*inventory.ReserveCommand, len(holds))
	for i := range holds {
		cmds[i] = reserve(&holds[i])
		cmds[i].Key = holds[i].Key
	}
	outcomes, err := s.inventory.Reserve(ctx, cmds)
	if err != nil {
		return nil, err
	}
	held := make([]orderservice.Held, len(outcomes))
	for i := range outcomes {
		held[i] = toHeld(&outcomes[i])
	}
	return held, nil
}

func (s stock) HoldAgain(ctx context.Context, hold orderservice.Hold) (orderservice.Held, error) {
	cmd := reserve(&hold)
	// Remembered, so that a later try finds the reservation even after it was sold.
	cmd.Memory.Key = "order:" + hold.Key
	outcomes, err := s.inventory.ReserveAgain(ctx, []*inventory.ReserveCommand{cmd})
	if err != nil {
		return orderservice.Held{}, err
	}
	return toHeld(&outcomes[0]), nil
}

func reserve(h *orderservice.Hold) *inventory.ReserveCommand {
	cmd := &inventory.ReserveCommand{
		ID: h.ReservationID, OrderID: h.OrderID, TTL: h.TTL, Lines: make([]inventory.Line, len(h.Lines)),
	}
	for i, l := range h.Lines {
		cmd.Lines[i] = inventory.Line{Place: inventory.Place{SKU: l.SKU, Location: l.Location}, Quantity: l.Quantity}
	}
	return cmd
}

func toHeld(out *inventory.Outcome) orderservice.Held {
	r := &out.Reservation
	return orderservice.Held{
		ReservationID: r.ID, OrderID: r.OrderID, ExpiresAt: r.ExpiresAt, State: toState(r.Status), Err: out.Err,
	}
}

func toState(s inventory.Status) orderservice.HoldState {
	switch s {
	case inventory.Active:
		return orderservice.Holding
	case inventory.Committed:
		return orderservice.Sold
	case inventory.Released:
		return orderservice.Released
	case inventory.Expired:
		return orderservice.HoldExpired
	default:
		return 0
	}
}

func (s stock) Sell(ctx context.Context, orderID, reservationID, reference string) (orderservice.HoldState, error) {
	out, err := s.inventory.Commit(ctx, &inventory.CommitCommand{ID: reservationID, OrderID: orderID, Reference: reference})
	return ended(&out, err)
}

func (s stock) Release(ctx context.Context, orderID, reservationID string) (orderservice.HoldState, error) {
	out, err := s.inventory.Release(ctx, &inventory.ReleaseCommand{ID: reservationID, OrderID: orderID})
	return ended(&out, err)
}

// ended returns the reservation's state. That it is closed otherwise than was wanted is
// an answer, not an error: the order follows it.
func ended(out *inventory.Outcome, err error) (orderservice.HoldState, error) {
	state := toState(out.Reservation.Status)
	if err != nil && !fault.Is(err, fault.ReservationClosed) {
		return 0, err
	}
	if state == 0 {
		return 0, errors.New("the inventory did not tell the reservation's state")
	}
	return state, nil
}

func (s stock) Closings(ctx context.Context, after uint64, limit int) ([]orderservice.Closing, uint64, error) {
	entries, last, err := s.inventory.Closings(ctx, after, limit)
	if err != nil {
		return nil, after, err
	}
	var closings []orderservice.Closing
	for i := range entries {
		e := &entries[i]
		if n := len(closings); n > 0 && closings[n-1].ReservationID == e.ReservationID {
			closings[n-1].Seq = e.Seq // another line of the same reservation
			continue
		}
		closings = append(closings, orderservice.Closing{
			Seq: e.Seq, Time: e.Time, OrderID: e.OrderID, ReservationID: e.ReservationID, State: closingState(e.Kind), Reference: e.Reference,
		})
	}
	return closings, last, nil
}

func closingState(k inventory.EntryKind) orderservice.HoldState {
	switch k {
	case inventory.EntryCommitted:
		return orderservice.Sold
	case inventory.EntryReleased:
		return orderservice.Released
	case inventory.EntryExpired:
		return orderservice.HoldExpired
	default:
		return 0
	}
}
