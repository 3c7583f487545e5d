package audit

import (
	"fmt"
	"time"

	"github.com/penstockhq/penstock/internal/id"
	"github.com/penstockhq/penstock/internal/inventory"
	"github.com/penstockhq/penstock/internal/order"
)

// readEvents replays the events of orders through the state machine.
func (a *auditor) readEvents() error {
	next := a.eventsFrom + 1
	err := a.orders.Events(a.ctx, func(e order.Event) error {
		a.report.Checked.OrderEvents++
		if e.Seq != next {
			a.problemf("events: event %d of the orders follows event %d", e.Seq, next-1)
		}
		next = e.Seq + 1
		s := a.placed[e.OrderID]
		if a.oldestEvent.IsZero() {
			a.oldestEvent = e.Time
		}
		if s == nil {
			s = &seen{}
			a.placed[e.OrderID] = s
			if a.eventsFrom > 0 && e.Version > 1 { // those before were removed
				s.version, s.status = e.Version, e.Status
				return a.ctx.Err()
			}
		}
		if e.Version != s.version+1 || !follows(s.status, e.Status) {
			a.problemf("events: order %s goes from %s (version %d) to %s (version %d) in event %d",
				e.OrderID, s.status, s.version, e.Status, e.Version, e.Seq)
		}
		s.version, s.status = e.Version, e.Status
		return a.ctx.Err()
	})
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	if orders, ok := a.orders.(numberedOrders); ok {
		events, err := orders.Numbered(a.ctx)
		if err != nil {
			return fmt.Errorf("read the number of events: %w", err)
		}
		a.compareNumber("events", next-1, events)
	}
	return nil
}

// clocks is how far the clocks may differ by which events are in order of time: those of
// several processes a little.
func (a *auditor) clocks() time.Duration {
	if _, several := a.orders.(numberedOrders); several {
		return time.Minute
	}
	return 0
}

// follows reports whether an arrow of the state machine leads from one status to the other.
func follows(from, to order.Status) bool {
	for _, t := range order.Transitions {
		if t.From == from && t.To == to {
			return true
		}
	}
	return false
}

func (a *auditor) compareOrders() error {
	err := a.orders.Orders(a.ctx, func(o *order.Order) error {
		a.report.Checked.Orders++
		s := a.placed[o.ID]
		if s == nil {
			removed := a.eventsFrom > 0 && (a.oldestEvent.IsZero() || o.UpdatedAt.Before(a.oldestEvent.Add(a.clocks())))
			if !removed {
				a.problemf("order %s has no events", o.ID)
			}
			s = &seen{version: o.Version, status: o.Status}
			a.placed[o.ID] = s
		}
		s.row = true
		if o.CreatedAt.After(a.newest) {
			a.newest = o.CreatedAt
		}
		if s.version != o.Version || s.status != o.Status {
			a.problemf("order %s is %s (version %d); its events end with %s (version %d)", o.ID, o.Status, o.Version, s.status, s.version)
		}
		a.comparePrice(o)
		a.compareStock(o)
		return a.ctx.Err()
	})
	if err != nil {
		return fmt.Errorf("read orders: %w", err)
	}
	return nil
}

// comparePrice looks whether an order says who pays how much for what.
func (a *auditor) comparePrice(o *order.Order) {
	if total, err := order.Total(o.Lines); err != nil || total != o.Total.Amount {
		a.problemf("order %s has a total of %d; its lines give %d", o.ID, o.Total.Amount, total)
	}
	if o.CustomerID == "" || len(o.Total.Currency) != 3 || len(o.Lines) == 0 {
		a.problemf("order %s is of customer %q, in currency %q, and has %d lines", o.ID, o.CustomerID, o.Total.Currency, len(o.Lines))
	}
}

// wanted is the state of the reservation that belongs to each status of an order.
//
//nolint:gochecknoglobals // a constant table
var wanted = map[order.Status]inventory.Status{
	order.Reserved: inventory.Active, order.Paid: inventory.Committed,
	order.Cancelled: inventory.Released, order.Expired: inventory.Expired,
}

// compareStock matches an order to its reservation.
func (a *auditor) compareStock(o *order.Order) {
	h := a.reservations[o.ReservationID]
	if h == nil || h.status == 0 {
		a.problemf("order %s (%s): its reservation %s does not exist", o.ID, o.Status, o.ReservationID)
		return
	}
	units := int64(0)
	for _, l := range o.Lines {
		units += l.Quantity
	}
	if h.orderID != o.ID || h.quantity != units {
		a.problemf("order %s has %d units; its reservation %s holds %d for %q", o.ID, units, o.ReservationID, h.quantity, h.orderID)
	}
	if o.Status == order.Paid && h.committed != units {
		a.problemf("order %s is paid for %d units; %d are sold", o.ID, units, h.committed)
	}
	if h.status == wanted[o.Status] {
		return
	}
	if h.closedAt > a.followed && o.Status != order.Paid {
		a.report.InFlight++
		return
	}
	a.problemf("order %s is %s, its reservation %s is %s", o.ID, o.Status, o.ReservationID, h.status)
}

// compareKeys checks that each key stands for the one order that was placed with it.
func (a *auditor) compareKeys() error {
	keys := map[order.KeyHash]string{}
	first := "" // the oldest order whose key is still there
	err := a.orders.Keys(a.ctx, func(hash order.KeyHash, k order.Key) error {
		a.report.Checked.Keys++
		if other := keys[hash]; other != "" {
			a.problemf("keys: %x stands for order %s and for order %s", hash, other, k.OrderID)
		}
		keys[hash] = k.OrderID
		if s := a.placed[k.OrderID]; s == nil || !s.row {
			a.problemf("keys: %x stands for order %s, which does not exist", hash, k.OrderID)
		}
		if first == "" || k.OrderID < first {
			first = k.OrderID
		}
		return a.ctx.Err()
	})
	if err != nil {
		return fmt.Errorf("read keys: %w", err)
	}
	return a.compareKeysOfOrders(keys, first)
}

// shortestMemory is the least time for which a server can be told to keep keys.
const shortestMemory = time.Minute

// compareKeysOfOrders is the other direction. Keys are forgotten oldest first, so every
// order since the first one that has a key must have its own; the minute after it is
// left out where any were forgotten, because an ID is made a little before its key.
func (a *auditor) compareKeysOfOrders(keys map[order.KeyHash]string, first string) error {
	var certain time.Time
	forgotten := false
	err := a.orders.Orders(a.ctx, func(o *order.Order) error {
		mine := keys[o.KeyHash]
		switch {
		case mine == o.ID:
			if o.ID == first && forgotten {
				certain = o.CreatedAt.Add(time.Minute)
			}
		case (first == "" || o.ID < first) && a.newest.Sub(o.CreatedAt) >= shortestMemory:
			forgotten = true
		case o.CreatedAt.Before(certain):
		case mine != "":
			a.problemf("keys: order %s and order %s were placed with the same key", mine, o.ID)
		default:
			a.problemf("keys: order %s has no key", o.ID)
		}
		return a.ctx.Err()
	})
	if err != nil {
		return fmt.Errorf("read orders: %w", err)
	}
	return nil
}

// compareLists checks that every order is once in each list, under what it is.
func (a *auditor) compareLists() error {
	if a.lists == nil {
		return nil
	}
	counts := map[bool]int64{}
	err := a.lists.Listed(a.ctx, func(customer string, status order.Status, raw [16]byte) error {
		a.report.Checked.Listed++
		byStatus := status != order.None
		counts[byStatus]++
		text := id.FromBytes(id.Order, raw)
		s := a.placed[text]
		switch {
		case s == nil || !s.row:
			a.problemf("lists: order %s is listed but does not exist", text)
		case byStatus && s.status != status:
			a.problemf("lists: order %s is listed as %s but is %s", text, status, s.status)
		case !byStatus:
			o, err := a.lists.Order(text)
			if err != nil {
				return err
			}
			if o == nil || o.CustomerID != customer {
				a.problemf("lists: order %s is listed under customer %q and belongs to another", text, customer)
			}
		}
		return a.ctx.Err()
	})
	if err != nil {
		return fmt.Errorf("read lists: %w", err)
	}
	for byStatus, name := range map[bool]string{true: "status", false: "customer"} {
		if counts[byStatus] != a.report.Checked.Orders {
			a.problemf("lists: %d orders are listed by %s, %d are stored", counts[byStatus], name, a.report.Checked.Orders)
		}
	}
	return nil
}

// missingOrders looks for orders that only something else knows of.
func (a *auditor) missingOrders() error {
	for text, s := range a.placed {
		if !s.row {
			a.problemf("order %s has events but is not stored", text)
		}
	}
	sold := map[string]string{}
	for reservation, h := range a.reservations {
		if h.orderID == "" || h.status != inventory.Committed {
			continue
		}
		if first := sold[h.orderID]; first != "" {
			a.problemf("order %s is sold twice, by reservations %s and %s", h.orderID, first, reservation)
		}
		sold[h.orderID] = reservation
		s := a.placed[h.orderID]
		switch {
		case s == nil || !s.row:
			a.problemf("reservation %s was sold for order %s, which is not stored", reservation, h.orderID)
		case s.status != order.Paid && h.closedAt <= a.followed:
			a.problemf("reservation %s was sold for order %s, which is %s", reservation, h.orderID, s.status)
		}
	}
	return a.ctx.Err()
}
