// Package audit proves from stored data that Penstock's promises hold: it recomputes
// every balance from the ledger and matches orders, reservations, keys and events to
// each other. It reads a snapshot, so it may run beside a working server.
//
// What a reader would get wrong: an order and its reservation are committed apart, so
// at any moment a few steps are half done. The ledger tells which: a closing after the
// position up to which the orders have followed the inventory is "in flight", not
// wrong. One before that position must be matched exactly.
package audit

import (
	"context"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/penstockhq/penstock/internal/inventory"
	"github.com/penstockhq/penstock/internal/inventory/inventorypebble"
	"github.com/penstockhq/penstock/internal/inventory/inventorypg"
	"github.com/penstockhq/penstock/internal/order"
	"github.com/penstockhq/penstock/internal/order/orderpebble"
	"github.com/penstockhq/penstock/internal/order/orderpg"
	"github.com/penstockhq/penstock/internal/pgdb"
)

// maxProblems is how many problems a report spells out.
const maxProblems = 100

// Report is what an audit found.
type Report struct {
	OK       bool     `json:"ok"`
	Checked  Checked  `json:"checked"`
	Oversold int64    `json:"oversold"` // units held or sold beyond what was there
	InFlight int64    `json:"in_flight"`
	Problems []string `json:"problems"` // the first 100
	Total    int64    `json:"problems_total"`
}

// Checked counts what was looked at.
type Checked struct {
	Levels       int64 `json:"levels"`
	Ledger       int64 `json:"ledger_entries"`
	Reservations int64 `json:"reservations"`
	Orders       int64 `json:"orders"`
	Keys         int64 `json:"keys"`
	OrderEvents  int64 `json:"order_events"`
	StockEvents  int64 `json:"stock_events"`
	Listed       int64 `json:"listed"`
}

// Inventory is what an audit reads of the inventory; each method calls fn for everything.
type Inventory interface {
	Levels(ctx context.Context, fn func(inventory.Level) error) error
	Reservations(ctx context.Context, fn func(*inventory.Reservation) error) error
	// Base is what the part of the ledger that was removed comes to.
	Base(ctx context.Context) (inventory.Base, error)
	Ledger(ctx context.Context, fn func(inventory.Entry) error) error // oldest first
	// CrossingsTrimmed returns the number of the last crossing that was removed, 0 for none.
	CrossingsTrimmed(ctx context.Context) (uint64, error)
	Crossings(ctx context.Context, fn func(inventory.Crossing) error) error // oldest first
}

// An Inventory, or Orders, that takes its numbers from counters has these as well: the last
// number of each log.
type (
	numberedInventory interface {
		Numbered(ctx context.Context) (ledger, crossings uint64, err error)
	}
	numberedOrders interface {
		Numbered(ctx context.Context) (events uint64, err error)
	}
)

// Orders is what an audit reads of the orders; each method calls fn for everything.
type Orders interface {
	Followed(ctx context.Context) (uint64, error)
	Orders(ctx context.Context, fn func(*order.Order) error) error // in order of ID
	Keys(ctx context.Context, fn func(order.KeyHash, order.Key) error) error
	Events(ctx context.Context, fn func(order.Event) error) error // oldest first
	// Trimmed returns the number of the last event that was removed, 0 for none.
	Trimmed(ctx context.Context) (uint64, error)
}

// Lists are lists of orders that a store keeps beside the orders. A database that keeps
// its own indexes has none to audit.
type Lists interface {
	Listed(ctx context.Context, fn func(customer string, status order.Status, raw [16]byte) error) error
	Order(id string) (*order.Order, error)
}

// Folder audits a data folder's database.
func Folder(ctx context.Context, r pebble.Reader) (*Report, error) {
	orders := orderpebble.Snapshot{R: r}
	return run(ctx, inventorypebble.Snapshot{R: r}, orders, orders)
}

// Database audits what is in PostgreSQL, as it is at one moment.
func Database(ctx context.Context, db *pgdb.DB) (report *Report, err error) {
	err = db.Snapshot(ctx, func(tx pgdb.Snapshot) (err error) {
		report, err = run(ctx, inventorypg.NewSnapshot(tx), orderpg.NewSnapshot(tx), nil)
		return err
	})
	return report, err
}

// run audits everything. An error means that it could not be read.
func run(ctx context.Context, stock Inventory, orders Orders, lists Lists) (*Report, error) {
	a := &auditor{
		ctx: ctx, report: &Report{Problems: []string{}},
		inventory: stock, orders: orders, lists: lists,
		levels: map[inventory.Place]*inventory.Level{}, reservations: map[string]*held{}, placed: map[string]*seen{},
	}
	var err error
	if a.followed, err = a.orders.Followed(ctx); err != nil {
		return nil, fmt.Errorf("read position: %w", err)
	}
	for _, check := range []func() error{
		a.begin, a.replayLedger, a.compareLevels, a.compareReservations, a.readEvents, a.compareOrders, a.compareKeys, a.compareLists,
		a.missingOrders,
	} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	a.report.OK = a.report.Total == 0
	return a.report, nil
}

// held is what ledger and reservation say of one reservation.
type held struct {
	orderID   string
	open      int64 // units reserved and neither committed, released nor expired
	committed int64
	closedAt  uint64 // position of the last entry that closed it
	kind      inventory.EntryKind
	status    inventory.Status // 0 until the reservation itself was read
	quantity  int64
}

// seen is what events and rows say of one order.
type seen struct {
	version uint64
	status  order.Status
	row     bool
}

type auditor struct {
	ctx          context.Context //nolint:containedctx // one call's
	report       *Report
	inventory    Inventory
	orders       Orders
	lists        Lists // nil for none
	followed     uint64
	levels       map[inventory.Place]*inventory.Level
	crossings    []inventory.Crossing
	reservations map[string]*held
	placed       map[string]*seen
	newest       time.Time // when the newest order was placed
	ledgerFrom   uint64    // the last entry that was removed, 0 for none
	eventsFrom   uint64    // the last event of an order that was removed, 0 for none
	oldestEvent  time.Time // that is left
}

func (a *auditor) problemf(format string, args ...any) {
	a.report.Total++
	if len(a.report.Problems) < maxProblems {
		a.report.Problems = append(a.report.Problems, fmt.Sprintf(format, args...))
	}
}

// begin takes what history that was removed came to.
func (a *auditor) begin() error {
	var err error
	if a.eventsFrom, err = a.orders.Trimmed(a.ctx); err != nil {
		return fmt.Errorf("read what was removed of the events: %w", err)
	}
	base, err := a.inventory.Base(a.ctx)
	if err != nil {
		return fmt.Errorf("read what was removed of the ledger: %w", err)
	}
	a.ledgerFrom = base.Seq
	for _, l := range base.Levels {
		a.levels[l.Place] = &l
	}
	for _, h := range base.Holds {
		a.reservations[h.ReservationID] = &held{orderID: h.OrderID, open: h.Open, committed: h.Committed}
	}
	return nil
}

// replayLedger recomputes every balance, and with it when each crossed zero.
func (a *auditor) replayLedger() error {
	last, err := a.inventory.CrossingsTrimmed(a.ctx)
	if err != nil {
		return fmt.Errorf("read what was removed of the stock events: %w", err)
	}
	err = a.inventory.Crossings(a.ctx, func(c inventory.Crossing) error {
		if c.Seq != last+1 {
			a.problemf("stock events: event %d follows event %d", c.Seq, last)
		}
		last = c.Seq
		a.crossings = append(a.crossings, c)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read stock events: %w", err)
	}
	a.report.Checked.StockEvents = int64(len(a.crossings))
	next := a.ledgerFrom + 1
	err = a.inventory.Ledger(a.ctx, func(e inventory.Entry) error {
		a.report.Checked.Ledger++
		if e.Seq != next {
			a.problemf("ledger: entry %d follows entry %d", e.Seq, next-1)
		}
		next = e.Seq + 1
		a.enter(&e)
		return a.ctx.Err()
	})
	if err != nil {
		return fmt.Errorf("read ledger: %w", err)
	}
	for _, c := range a.crossings {
		a.problemf("stock events: %s at %s, version %d, is told but not in the ledger", c.Level.SKU, c.Level.Location, c.Level.Version)
	}
	stock, ok := a.inventory.(numberedInventory)
	if !ok {
		return nil
	}
	ledger, crossings, err := stock.Numbered(a.ctx)
	if err != nil {
		return fmt.Errorf("read the numbers of ledger and stock events: %w", err)
	}
	a.compareNumber("ledger", next-1, ledger)
	a.compareNumber("stock events", last, crossings)
	return nil
}

// compareNumber matches the end of a log to its counter: one that is behind would give
// numbers twice, and before one that is ahead something is missing.
func (a *auditor) compareNumber(log string, last, counter uint64) {
	if last != counter {
		a.problemf("%s: the last number is %d; its counter stands at %d", log, last, counter)
	}
}

func (a *auditor) enter(e *inventory.Entry) {
	a.enterReservation(e)
	if e.Policy == inventory.Untracked {
		return
	}
	level := a.levels[e.Place]
	if level == nil {
		level = &inventory.Level{Place: e.Place}
		a.levels[e.Place] = level
	}
	after, crossed := level.After(e)
	if short := -after.Available(); e.Kind == inventory.EntryReserved && e.Policy == inventory.Reserve && short > 0 {
		a.report.Oversold += min(short, e.Quantity)
		a.problemf("oversold: ledger entry %d holds %d of %s at %s where %d were available",
			e.Seq, e.Quantity, e.Place.SKU, e.Place.Location, level.Available())
	}
	*level = after
	if crossed {
		a.expectCrossing(e, level)
	}
}

func (a *auditor) expectCrossing(e *inventory.Entry, level *inventory.Level) {
	if len(a.crossings) == 0 || a.crossings[0].Level != *level || a.crossings[0].Depleted != (level.Available() <= 0) {
		a.problemf("stock events: %s at %s crossed zero in ledger entry %d, and no event tells so in its place",
			level.SKU, level.Location, e.Seq)
		return
	}
	a.crossings = a.crossings[1:]
}

func (a *auditor) enterReservation(e *inventory.Entry) {
	if e.ReservationID == "" {
		return
	}
	h := a.reservations[e.ReservationID]
	if h == nil {
		h = &held{orderID: e.OrderID}
		a.reservations[e.ReservationID] = h
	}
	switch e.Kind {
	case inventory.EntryReserved:
		h.open += e.Quantity
		return
	case inventory.EntryCommitted:
		h.committed += e.Quantity
	case inventory.EntryReleased, inventory.EntryExpired:
	default:
		a.problemf("ledger: entry %d books stock in the name of reservation %s", e.Seq, e.ReservationID)
	}
	h.open -= e.Quantity
	h.closedAt, h.kind = e.Seq, e.Kind
}

func (a *auditor) compareLevels() error {
	err := a.inventory.Levels(a.ctx, func(l inventory.Level) error {
		a.report.Checked.Levels++
		want := a.levels[l.Place]
		if want == nil {
			want = &inventory.Level{Place: l.Place}
		}
		if l != *want {
			a.problemf("stock: %s at %s has %d on hand and %d reserved (version %d); the ledger gives %d and %d (version %d)",
				l.SKU, l.Location, l.OnHand, l.Reserved, l.Version, want.OnHand, want.Reserved, want.Version)
		}
		delete(a.levels, l.Place)
		return a.ctx.Err()
	})
	if err != nil {
		return fmt.Errorf("read stock: %w", err)
	}
	for p := range a.levels {
		a.problemf("stock: %s at %s is in the ledger but has no level", p.SKU, p.Location)
	}
	return nil
}

// closedBefore takes a reservation's own word for what it sold: its entries were removed,
// which happens only when it was closed before, and the orders had followed.
func (a *auditor) closedBefore(r *inventory.Reservation) *held {
	h := &held{orderID: r.OrderID, closedAt: a.ledgerFrom}
	for _, l := range r.Lines {
		h.committed += l.Committed
	}
	a.reservations[r.ID] = h
	return h
}

func (a *auditor) compareReservations() error {
	err := a.inventory.Reservations(a.ctx, func(r *inventory.Reservation) error {
		a.report.Checked.Reservations++
		h := a.reservations[r.ID]
		if h == nil && a.ledgerFrom > 0 && r.Status != inventory.Active {
			h = a.closedBefore(r)
		}
		if h == nil {
			a.problemf("reservation %s is not in the ledger", r.ID)
			return a.ctx.Err()
		}
		if h.status != 0 {
			a.problemf("reservation %s is stored twice", r.ID)
		}
		h.status = r.Status
		var quantity, committed int64
		for _, l := range r.Lines {
			quantity += l.Quantity
			committed += l.Committed
		}
		h.quantity = quantity
		wantOpen := int64(0)
		if r.Status == inventory.Active {
			wantOpen = quantity
		}
		if h.open != wantOpen || h.committed != committed || h.orderID != r.OrderID {
			a.problemf("reservation %s (%s) holds %d and sold %d units for %q; the ledger gives %d and %d for %q",
				r.ID, r.Status, wantOpen, committed, r.OrderID, h.open, h.committed, h.orderID)
		}
		return a.ctx.Err()
	})
	if err != nil {
		return fmt.Errorf("read reservations: %w", err)
	}
	for id, h := range a.reservations {
		if h.status == 0 {
			a.problemf("reservation %s is in the ledger but not stored", id)
		}
	}
	return nil
}
