package app

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/penstockhq/penstock/internal/app/audit"
	"github.com/penstockhq/penstock/internal/catalogue"
	"github.com/penstockhq/penstock/internal/catalogue/catalogueservice"
	"github.com/penstockhq/penstock/internal/event"
	"github.com/penstockhq/penstock/internal/groupcommit"
	"github.com/penstockhq/penstock/internal/inventory/inventoryrest"
	"github.com/penstockhq/penstock/internal/inventory/inventoryservice"
	"github.com/penstockhq/penstock/internal/order/orderrest"
	"github.com/penstockhq/penstock/internal/order/orderservice"
	"github.com/penstockhq/penstock/internal/telemetry"
)

// backend is where the stores keep what they have: a data folder or PostgreSQL.
type backend interface {
	// openers open the three stores, each into a.
	openers(a *App) []func(ctx context.Context) error
	// opened is called when the stores are there, and begins what goes on beside them.
	opened(a *App)
	// placer returns how orders are placed in one commit, nil where that takes two.
	placer(a *App) (orderservice.Placer, error)
	// trim removes events and ledger entries that are older than keep, 0 for none, and
	// returns how many.
	trim(ctx context.Context, keep time.Duration) (int64, error)
	// audit proves from what is stored that the promises hold.
	audit(ctx context.Context) (*audit.Report, error)
	// ready returns why new work cannot be taken, nil when it can.
	ready(now time.Time) error
	// place says where the data is, for logs.
	place() string
	close() error
}

// forgetEvery is how often old idempotency keys, and old history, are removed.
const forgetEvery = 10 * time.Minute

// forgetting removes what is older than it is kept, now and then until ctx ends: first what
// forget does, then history. What it could not do is tried again.
func (a *App) forgetting(ctx context.Context, forget func(context.Context) error) {
	tick := time.NewTicker(forgetEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := forget(ctx)
		removed, err2 := a.backend.trim(ctx, a.cfg.KeepHistory)
		if removed > 0 {
			a.cfg.Logger.Info("old history was removed", "older_than", a.cfg.KeepHistory.String(), "entries", removed)
		}
		if err = errors.Join(err, err2); err != nil && ctx.Err() == nil {
			a.cfg.Logger.Warn("what is older than it is kept was not removed; it is tried again", "error", err)
		}
	}
}

// store is what the three stores have in common.
type store interface {
	Stop(ctx context.Context) error
	Failed() <-chan struct{}
	Err() error
	Queued() int
}

type catalogueStore interface {
	store
	catalogueservice.Store
	// Offer returns what pricing needs of the SKU, from memory.
	Offer(code string) (catalogue.Offer, bool)
}

type inventoryStore interface {
	store
	inventoryservice.Store
}

type orderStore interface {
	store
	orderservice.Store
}

func (a *App) openBackend(ctx context.Context) (func(context.Context) error, error) {
	var err error
	if a.cfg.Postgres != nil {
		a.backend, err = openPostgres(ctx, a.cfg)
	} else {
		a.backend, err = openFolder(a.cfg)
	}
	if err != nil {
		return nil, err
	}
	return func(context.Context) error { return a.backend.close() }, nil
}

// openStores opens the three stores side by side: each reads what it keeps in memory.
func (a *App) openStores(ctx context.Context) (func(context.Context) error, error) {
	stop := func(ctx context.Context) error {
		var stops errgroup.Group
		for _, s := range a.stores() {
			stops.Go(func() error { return s.Stop(ctx) })
		}
		return stops.Wait()
	}
	// The feed must be there before a store can commit; its logs are the stores.
	a.services.feed = event.NewFeed(
		orderrest.Events{Changes: lateOrders{a}}, inventoryrest.Events{Crossings: lateInventory{a}},
	)
	var open errgroup.Group
	for _, opener := range a.backend.openers(a) {
		open.Go(func() error { return opener(ctx) })
	}
	if err := open.Wait(); err != nil {
		_ = stop(context.WithoutCancel(ctx)) // nothing is queued yet; the other error is the one to tell
		return nil, err
	}
	watching, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var watch errgroup.Group
	for name, s := range a.stores() {
		watch.Go(func() error {
			select {
			case <-s.Failed():
				a.cfg.Logger.Error("a store has failed and takes no more work; restart the process to recover what is on disk",
					"store", name, "error", s.Err())
				a.fail(s.Err())
			case <-watching.Done():
			}
			return nil
		})
		telemetry.Gauge(a.registry, "penstock_groupcommit_queued", "Requests that wait in the queue of the store.",
			prometheus.Labels{"store": name}, func() float64 { return float64(s.Queued()) })
	}
	a.backend.opened(a)
	return func(ctx context.Context) error {
		err := stop(ctx)
		cancel()
		_ = watch.Wait() // it returns no error
		return err
	}, nil
}

// stores returns those that are open.
func (a *App) stores() map[string]store {
	open := map[string]store{}
	if a.catalogue != nil {
		open["catalogue"] = a.catalogue
	}
	if a.inventory != nil {
		open["inventory"] = a.inventory
	}
	if a.orders != nil {
		open["orders"] = a.orders
	}
	return open
}

// batch returns the group commit's configuration for a store.
func (a *App) batch(name string, committed func()) groupcommit.Config {
	cfg := a.cfg.Batch
	measure := telemetry.Batches(a.registry, name)
	cfg.OnBatch = func(s groupcommit.BatchStats) {
		measure(s)
		if committed != nil {
			committed()
		}
	}
	return cfg
}
