package app

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/penstockhq/penstock/internal/app/audit"
	"github.com/penstockhq/penstock/internal/catalogue/cataloguepg"
	"github.com/penstockhq/penstock/internal/inventory/inventorypg"
	"github.com/penstockhq/penstock/internal/order/orderpg"
	"github.com/penstockhq/penstock/internal/order/orderservice"
	"github.com/penstockhq/penstock/internal/pgdb"
	"github.com/penstockhq/penstock/internal/telemetry"
)

// postgres is the backend of any number of processes on one database.
type postgres struct {
	url     string
	now     func() time.Time // nil for the database's clock
	db      *pgdb.DB
	stock   *inventorypg.Store
	orders  *orderpg.Store
	placing *together
	cancel  context.CancelFunc
	running sync.WaitGroup
}

func openPostgres(ctx context.Context, cfg Config) (*postgres, error) {
	pg := *cfg.Postgres
	pg.Logger = cfg.Logger
	db, err := pgdb.Open(ctx, pg)
	if err != nil {
		return nil, err
	}
	return &postgres{url: pg.URL, now: cfg.now, db: db, cancel: func() {}}, nil
}

func (p *postgres) openers(a *App) []func(context.Context) error {
	feed := a.services.feed
	return []func(context.Context) error{
		func(ctx context.Context) error {
			s, err := cataloguepg.Open(ctx, cataloguepg.Config{Batch: a.batch("catalogue", nil), Now: p.now}, p.db)
			if err == nil {
				a.catalogue = s
			}
			return err
		},
		func(context.Context) error {
			s, err := inventorypg.Open(inventorypg.Config{ //nolint:contextcheck // its goroutines outlive the start
				KeepKeys: a.cfg.KeepKeys, Batch: a.batch("inventory", feed.Notify), Now: p.now,
			}, p.db)
			if err == nil {
				a.inventory, p.stock = s, s
			}
			return err
		},
		func(context.Context) error {
			s, err := orderpg.Open(orderpg.Config{ //nolint:contextcheck // likewise
				KeepKeys: a.cfg.KeepKeys, Batch: a.batch("orders", feed.Notify), Now: p.now,
			}, p.db)
			if err == nil {
				a.orders, p.orders = s, s
			}
			return err
		},
	}
}

// opened begins to watch what other processes do, and to remove old keys.
func (p *postgres) opened(a *App) {
	offers := a.catalogue.(*cataloguepg.Store) //nolint:forcetypeassert // openers made it
	seen := uint64(0)
	p.db.Watch(func(ctx context.Context, counters map[string]uint64) error {
		a.services.feed.Notify()
		if counters[pgdb.CounterCatalogue] == seen {
			return nil
		}
		if err := offers.Refresh(ctx); err != nil {
			return fmt.Errorf("refresh catalogue: %w", err)
		}
		seen = counters[pgdb.CounterCatalogue]
		return nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.running.Go(func() {
		a.forgetting(ctx, p.forget)
	})
	for name, value := range map[string]func(pgdb.Stats) float64{
		"penstock_postgres_connections_max":    func(s pgdb.Stats) float64 { return float64(s.Max) },
		"penstock_postgres_connections_open":   func(s pgdb.Stats) float64 { return float64(s.Open) },
		"penstock_postgres_connections_in_use": func(s pgdb.Stats) float64 { return float64(s.InUse) },
		"penstock_postgres_acquire_waits":      func(s pgdb.Stats) float64 { return float64(s.Waits) },
		"penstock_postgres_acquire_seconds":    func(s pgdb.Stats) float64 { return s.Waited.Seconds() },
	} {
		telemetry.Gauge(a.registry, name, "Of the connection pools: their size, what is open and in use, how often and how long one was waited for.",
			nil, func() float64 { return value(p.db.Stats()) })
	}
}

// placer starts the group commit of orders with their stock.
func (p *postgres) placer(a *App) (orderservice.Placer, error) {
	var err error
	p.placing, err = startTogether(a.batch("placements", a.services.feed.Notify), p.db, a.services.inventory, p.stock, p.orders)
	return p.placing, err
}

// forget removes old idempotency keys. All processes do: it is cheap, and what one has
// removed the next does not find.
func (p *postgres) forget(ctx context.Context) error {
	_, err1 := p.stock.Forget(ctx)
	_, err2 := p.orders.Forget(ctx)
	_, err3 := p.db.Forget(ctx)
	return errors.Join(err1, err2, err3)
}

func (p *postgres) trim(ctx context.Context, keep time.Duration) (int64, error) {
	if keep <= 0 {
		return 0, nil
	}
	before := p.db.Now().Add(-keep)
	entries, err1 := p.stock.Trim(ctx, before)
	events, err2 := p.orders.Trim(ctx, before)
	return entries + events, errors.Join(err1, err2)
}

func (p *postgres) audit(ctx context.Context) (*audit.Report, error) {
	return audit.Database(ctx, p.db)
}

func (p *postgres) ready(time.Time) error { return p.db.Ping() }

func (p *postgres) place() string { return pgdb.Redacted(p.url) }

func (p *postgres) close() error {
	p.cancel()
	if p.placing != nil {
		if err := p.placing.batcher.Stop(context.Background()); err != nil {
			return err
		}
	}
	p.running.Wait()
	p.db.Close()
	return nil
}
