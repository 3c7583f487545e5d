package app

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/penstockhq/penstock/internal/app/audit"
	"github.com/penstockhq/penstock/internal/catalogue/cataloguepebble"
	"github.com/penstockhq/penstock/internal/catalogue/catalogueservice"
	"github.com/penstockhq/penstock/internal/event"
	"github.com/penstockhq/penstock/internal/gateway"
	"github.com/penstockhq/penstock/internal/groupcommit"
	"github.com/penstockhq/penstock/internal/inventory/inventorypebble"
	"github.com/penstockhq/penstock/internal/inventory/inventoryrest"
	"github.com/penstockhq/penstock/internal/inventory/inventoryservice"
	"github.com/penstockhq/penstock/internal/order/orderpebble"
	"github.com/penstockhq/penstock/internal/order/orderrest"
	"github.com/penstockhq/penstock/internal/order/orderservice"
	"github.com/penstockhq/penstock/internal/pebbledb"
	"github.com/penstockhq/penstock/internal/telemetry"
)

// services are the use cases, and the feed of what they did.
type services struct {
	catalogue *catalogueservice.Service
	inventory *inventoryservice.Service
	orders    *orderservice.Service
	feed      *event.Feed
}

// step starts a part of the App and returns how to stop it.
type step struct {
	name  string
	start func(ctx context.Context) (stop func(context.Context) error, err error)
}

// graph is the order in which parts start. Ports are bound first, so that a taken one
// is told before the data folder is touched; they are served last.
func (a *App) graph() []step {
	return []step{
		{"ports", a.bind},
		{"collector", a.paceGC},
		{"data folder", a.openData},
		{"stores", a.openStores},
		{"inventory", a.startInventory},
		{"orders", a.startOrders},
		{"operational port", a.serveOps},
		{"API", a.serveHTTP},
	}
}

func (a *App) bind(ctx context.Context) (func(context.Context) error, error) {
	var err error
	if a.http, err = listen(ctx, "the API (--http)", a.cfg.HTTP, a.cfg.MaxConnections); err != nil {
		return nil, err
	}
	if a.ops, err = listen(ctx, "operations (--ops)", a.cfg.Ops, 64); err != nil {
		_ = a.http.listener.Close() // the other error is the one to tell
		return nil, err
	}
	return func(context.Context) error {
		// Serving closes them; this is for a start that did not come so far.
		_, _ = a.http.listener.Close(), a.ops.listener.Close()
		return nil
	}, nil
}

func (a *App) paceGC(context.Context) (func(context.Context) error, error) {
	pacer := startGCPacer()
	return func(context.Context) error {
		pacer.stop()
		return nil
	}, nil
}

func (a *App) openData(context.Context) (func(context.Context) error, error) {
	var err error
	a.db, err = pebbledb.Open(pebbledb.Config{
		Dir: a.cfg.Dir, FS: a.cfg.FS, CacheBytes: a.cfg.CacheBytes, MinFreeBytes: a.cfg.MinFreeBytes, Logger: a.cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	return func(context.Context) error { return a.db.Close() }, nil
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
	var open errgroup.Group
	open.Go(func() (err error) {
		a.catalogue, err = cataloguepebble.Open(cataloguepebble.Config{Batch: a.batch("catalogue", nil), Now: a.cfg.Now}, a.db)
		return err
	})
	feed := func() {
		if f := a.services.feed; f != nil {
			f.Notify()
		}
	}
	// The feed must be there before a store can commit; its logs are the stores.
	a.services.feed = event.NewFeed(
		orderrest.Events{Changes: lateOrders{a}}, inventoryrest.Events{Crossings: lateInventory{a}},
	)
	open.Go(func() (err error) {
		a.inventory, err = inventorypebble.Open(inventorypebble.Config{
			KeepKeys: a.cfg.KeepKeys, Batch: a.batch("inventory", feed), Now: a.cfg.Now,
		}, a.db)
		return err
	})
	open.Go(func() (err error) {
		a.orders, err = orderpebble.Open(orderpebble.Config{
			KeepKeys: a.cfg.KeepKeys, Batch: a.batch("orders", feed), Now: a.cfg.Now,
		}, a.db)
		return err
	})
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
	}
	a.registerGauges()
	return func(ctx context.Context) error {
		err := stop(ctx)
		cancel()
		_ = watch.Wait() // it returns no error
		return err
	}, nil
}

// store is what the three stores have in common.
type store interface {
	Stop(ctx context.Context) error
	Failed() <-chan struct{}
	Err() error
	Queued() int
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

func (a *App) registerGauges() {
	for name, s := range a.stores() {
		telemetry.Gauge(a.registry, "penstock_groupcommit_queued", "Requests that wait in the queue of the store.",
			prometheus.Labels{"store": name}, func() float64 { return float64(s.Queued()) })
	}
	telemetry.Gauge(a.registry, "penstock_reservations_active", "Reservations that hold stock.", nil,
		func() float64 { return float64(a.inventory.Active()) })
	telemetry.Gauge(a.registry, "penstock_storage_disk_bytes", "Space that the data folder takes.", nil,
		func() float64 { return float64(a.db.Metrics().DiskSpaceUsage()) })
	telemetry.Gauge(a.registry, "penstock_storage_compactions_running", "Compactions in progress; they take up to one core.", nil,
		func() float64 { return float64(a.db.Metrics().Compact.NumInProgress) })
	telemetry.Gauge(a.registry, "penstock_storage_read_amplification", "Places that a read may have to look at; it grows when compaction falls behind.", nil,
		func() float64 { return float64(a.db.Metrics().ReadAmp()) })
}

func (a *App) startInventory(ctx context.Context) (func(context.Context) error, error) {
	a.services.catalogue = catalogueservice.New(a.catalogue)
	a.services.inventory = inventoryservice.New(inventoryservice.Config{
		Now: a.cfg.Now, Logger: a.cfg.Logger, OnExpired: a.expired,
	}, a.inventory, policies{a.catalogue})
	a.services.orders = orderservice.New(orderservice.Config{
		Now: a.cfg.Now, Logger: a.cfg.Logger,
	}, a.orders, stock{a.services.inventory}, prices{a.catalogue})
	return a.services.inventory.Stop, a.services.inventory.Start(ctx)
}

func (a *App) startOrders(ctx context.Context) (func(context.Context) error, error) {
	return a.services.orders.Stop, a.services.orders.Start(ctx)
}

func (a *App) serveOps(context.Context) (func(context.Context) error, error) {
	mux := telemetry.Ops(a.registry, a.Ready)
	mux.HandleFunc("POST /verify", a.verify)
	a.ops.http = http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	a.ops.serve(a.fail)
	return a.ops.stop, nil
}

// verify audits the data while the process goes on, on a snapshot.
func (a *App) verify(w http.ResponseWriter, r *http.Request) {
	snap := a.db.NewSnapshot()
	report, err := audit.Run(r.Context(), snap)
	if cerr := snap.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		a.cfg.Logger.Error("verify could not read the data", "error", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(report) //nolint:errchkjson // the client is gone if this fails
}

func (a *App) serveHTTP(context.Context) (func(context.Context) error, error) {
	cfg := a.cfg.Gateway
	cfg.Registry = a.registry
	var err error
	a.gateway, err = gateway.New(cfg, operations{
		catalogueOperations: catalogueOperations{Service: a.services.catalogue},
		inventoryOperations: inventoryOperations{Service: a.services.inventory},
		orderOperations:     orderOperations{Service: a.services.orders},
		eventOperations:     eventOperations{feed: a.services.feed},
		log:                 a.cfg.Logger,
	}, a.services.feed)
	if err != nil {
		return nil, err
	}
	telemetry.Gauge(a.registry, "penstock_http_wait_seconds", "How long requests wait before they are looked at.", nil,
		func() float64 { return a.gateway.Wait().Seconds() })
	telemetry.Gauge(a.registry, "penstock_http_in_flight", "Requests that are being handled.", nil,
		func() float64 { return float64(a.gateway.InFlight()) })
	a.http.http = http.Server{
		Handler:           a.gateway,
		ReadHeaderTimeout: a.cfg.ReadTimeout,
		ReadTimeout:       a.cfg.ReadTimeout, // the same, which saves net/http setting one more deadline
		WriteTimeout:      3 * a.cfg.ReadTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(a.cfg.Logger.Handler(), slog.LevelDebug),
	}
	a.http.serve(a.fail)
	return func(ctx context.Context) error {
		a.gateway.Close()
		return a.http.stop(ctx)
	}, nil
}
