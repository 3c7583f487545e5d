package app

import (
	"context"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/internal/groupcommit"
	"github.com/penstockhq/penstock/internal/inventory"
	"github.com/penstockhq/penstock/internal/inventory/inventorypg"
	"github.com/penstockhq/penstock/internal/inventory/inventoryservice"
	"github.com/penstockhq/penstock/internal/order"
	"github.com/penstockhq/penstock/internal/order/orderpg"
	"github.com/penstockhq/penstock/internal/order/orderservice"
	"github.com/penstockhq/penstock/internal/pgdb"
)

// together places orders with their stock in one transaction: an orderservice.Placer for
// inventory and orders in one database. It has a group commit of its own; what each
// store decides and writes is that store's.
type together struct {
	db        *pgdb.DB
	service   *inventoryservice.Service
	inventory *inventorypg.Store
	orders    *orderpg.Store
	batcher   *groupcommit.Batcher[*placement, placed]
	cautious  atomic.Int64 // how many batches are to read before they decide
}

// cautiousFor is how many batches read after a guess did not hold.
const cautiousFor = 100

// placement is one order with its stock on its way.
type placement struct {
	reserve *inventory.ReserveCommand
	create  *order.CreateCommand
}

type placed struct {
	stock inventory.Outcome
	order order.Outcome
}

func startTogether(
	cfg groupcommit.Config, db *pgdb.DB, service *inventoryservice.Service, stock *inventorypg.Store, orders *orderpg.Store,
) (*together, error) {
	cfg.Name = "orders' database"
	// A second batch would wait for the same rows and counters, and leave both smaller.
	cfg.InFlight = 1
	// What a transaction costs by itself is that of some ten orders.
	cfg.Gather = 64
	t := &together{db: db, service: service, inventory: stock, orders: orders}
	var err error
	t.batcher, err = groupcommit.New(cfg, t)
	return t, err
}

// PlaceTogether places orders; see orderservice.Placer.
func (t *together) PlaceTogether(ctx context.Context, wanted []orderservice.Placement) ([]orderservice.Placed, error) {
	answers := make([]orderservice.Placed, len(wanted))
	reserves := make([]*inventory.ReserveCommand, len(wanted))
	for i := range wanted {
		reserves[i] = reserve(&wanted[i].Hold) // a retry finds the order by its own key, so the stock needs none
	}
	var open []*placement
	var index []int
	for i, refusal := range t.service.Prepare(ctx, reserves) {
		if refusal != nil {
			answers[i].Err = refusal
			continue
		}
		open = append(open, &placement{reserves[i], wanted[i].Create})
		index = append(index, i)
	}
	done, err := t.batcher.SubmitAll(ctx, open)
	if err != nil {
		return nil, err
	}
	for j := range done {
		answers[index[j]] = orderservice.Placed{Err: done[j].stock.Err, Outcome: done[j].order}
	}
	return answers, nil
}

// Apply decides a batch and begins to write it; it is the group commit's to call.
func (t *together) Apply(placements []*placement, out []placed) (groupcommit.Commit, error) {
	work := &placementWork{together: t, placements: placements, out: out}
	reserves := make([]inventory.Command, len(placements))
	creates := make([]order.Command, len(placements))
	for i, p := range placements {
		reserves[i], creates[i] = p.reserve, p.create
	}
	work.reserves = reserves
	work.stock, work.orders = t.inventory.NewBatch(reserves, nil), t.orders.NewBatch(creates, nil)
	return t.db.Begin(work)
}

// placementWork is a batch of placements as a transaction.
type placementWork struct {
	together   *together
	placements []*placement
	reserves   []inventory.Command
	out        []placed
	stock      *inventorypg.Batch
	orders     *orderpg.Batch
}

// Read queues what both need. The first time that is nothing, if stock levels can be
// guessed: then the batch takes one round trip. Where other processes sell the same SKUs
// a guess seldom holds, so after one that did not, some batches read at once.
func (w *placementWork) Read(b *pgx.Batch, again bool) {
	t := w.together
	w.stock.Narrow(w.reserves, nil)
	if again {
		t.inventory.Forgo(w.reserves)
		t.cautious.Store(cautiousFor)
	}
	if !again && t.cautious.Add(-1) < 0 && w.stock.Guess() {
		w.orders.Read(b, false)
		return
	}
	w.stock.Read(b, again)
	w.orders.Read(b, again)
}

// Decide holds stock for every order whose key is not known, and stores those that got it.
func (w *placementWork) Decide() error {
	n := len(w.placements)
	fresh, index := make([]inventory.Command, 0, n), make([]int, 0, n)
	first := make(map[order.KeyHash]int, n)
	for i, p := range w.placements {
		w.out[i] = placed{}
		hash := p.create.Order.KeyHash
		if _, twice := first[hash]; !twice && !w.orders.Knows(hash) {
			first[hash] = i
			fresh, index = append(fresh, p.reserve), append(index, i)
		}
	}
	held := make([]inventory.Outcome, len(fresh))
	w.stock.Narrow(fresh, held)
	if err := w.stock.Decide(); err != nil {
		return err
	}
	for j := range held {
		w.out[index[j]].stock = held[j]
		if r := &held[j].Reservation; held[j].Err == nil {
			o := &w.placements[index[j]].create.Order
			o.ID, o.ReservationID, o.HoldExpiresAt = r.OrderID, r.ID, r.ExpiresAt
		}
	}
	for i, p := range w.placements {
		// The second of two with one key shares the stock of the first, or its refusal.
		if f, ok := first[p.create.Order.KeyHash]; ok {
			w.out[i].stock.Err = w.out[f].stock.Err
		}
	}
	return w.decideOrders()
}

func (w *placementWork) decideOrders() error {
	creates, index := make([]order.Command, 0, len(w.placements)), make([]int, 0, len(w.placements))
	for i, p := range w.placements {
		if w.out[i].stock.Err == nil {
			creates, index = append(creates, p.create), append(index, i)
		}
	}
	outcomes := make([]order.Outcome, len(creates))
	w.orders.Narrow(creates, outcomes)
	if err := w.orders.Decide(); err != nil {
		return err
	}
	for j := range outcomes {
		w.out[index[j]].order = outcomes[j]
	}
	return nil
}

// Write queues the rows of both.
func (w *placementWork) Write(to *pgdb.Writes) {
	w.stock.Write(to)
	w.orders.Write(to)
}

// Number queues what the counters number, the inventory's first.
func (w *placementWork) Number(to *pgdb.Writes) {
	w.stock.Number(to)
	w.orders.Number(to)
}

// Committed tells both.
func (w *placementWork) Committed() {
	w.stock.Committed()
	w.orders.Committed()
}
