package app

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"time"

	"github.com/penstockhq/penstock/guard"
	"github.com/penstockhq/penstock/internal/catalogue/catalogueservice"
	"github.com/penstockhq/penstock/internal/event"
	"github.com/penstockhq/penstock/internal/gateway"
	"github.com/penstockhq/penstock/internal/inventory/inventoryservice"
	"github.com/penstockhq/penstock/internal/order/orderservice"
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
		{"database", a.openBackend},
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

func (a *App) startInventory(ctx context.Context) (func(context.Context) error, error) {
	a.services.catalogue = catalogueservice.New(a.catalogue)
	a.services.inventory = inventoryservice.New(inventoryservice.Config{
		Now: a.cfg.Now, Logger: a.cfg.Logger, OnExpired: a.expired,
	}, a.inventory, policies{a.catalogue})
	placer, err := a.backend.placer(a)
	if err != nil {
		return nil, err
	}
	a.services.orders = orderservice.New(orderservice.Config{
		Placer: placer, Now: a.cfg.Now, Logger: a.cfg.Logger,
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
	report, err := a.backend.audit(r.Context())
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
	watch, err := guard.New(a.cfg.Guard)
	if err != nil {
		return nil, err
	}
	cfg.Guard = watch
	telemetry.Guard(a.registry, watch)
	a.gateway, err = gateway.New(cfg, operations{
		catalogueOperations: catalogueOperations{Service: a.services.catalogue},
		inventoryOperations: inventoryOperations{Service: a.services.inventory},
		orderOperations:     orderOperations{Service: a.services.orders},
		eventOperations:     eventOperations{feed: a.services.feed},
		log:                 a.cfg.Logger,
	}, a.services.feed)
	if err != nil {
		watch.Close()
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
		watch.Close()
		return a.http.stop(ctx)
	}, nil
}
