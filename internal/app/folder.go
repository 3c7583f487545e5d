package app

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/penstockhq/penstock/internal/app/audit"
	"github.com/penstockhq/penstock/internal/catalogue/cataloguepebble"
	"github.com/penstockhq/penstock/internal/inventory/inventorypebble"
	"github.com/penstockhq/penstock/internal/order/orderpebble"
	"github.com/penstockhq/penstock/internal/order/orderservice"
	"github.com/penstockhq/penstock/internal/pebbledb"
	"github.com/penstockhq/penstock/internal/telemetry"
)

// folder is the backend of one process with a data folder.
type folder struct {
	dir     string
	now     func() time.Time
	db      *pebbledb.DB
	stock   *inventorypebble.Store
	orders  *orderpebble.Store
	cancel  context.CancelFunc
	running sync.WaitGroup
}

func openFolder(cfg Config) (*folder, error) {
	db, err := pebbledb.Open(pebbledb.Config{
		Dir: cfg.Dir, FS: cfg.FS, CacheBytes: cfg.CacheBytes, MinFreeBytes: cfg.MinFreeBytes, Logger: cfg.Logger,
	})
	return &folder{dir: cfg.Dir, now: cfg.Now, db: db, cancel: func() {}}, err
}

func (f *folder) openers(a *App) []func(context.Context) error {
	feed := a.services.feed
	return []func(context.Context) error{
		func(context.Context) error {
			s, err := cataloguepebble.Open(cataloguepebble.Config{Batch: a.batch("catalogue", nil), Now: a.cfg.Now}, f.db)
			if err == nil {
				a.catalogue = s
			}
			return err
		},
		func(context.Context) error {
			s, err := inventorypebble.Open(inventorypebble.Config{ //nolint:contextcheck // its goroutines outlive the start
				KeepKeys: a.cfg.KeepKeys, Batch: a.batch("inventory", feed.Notify), Now: a.cfg.Now,
			}, f.db)
			if err != nil {
				return err
			}
			a.inventory, f.stock = s, s
			telemetry.Gauge(a.registry, "penstock_reservations_active", "Reservations that hold stock.", nil,
				func() float64 { return float64(s.Active()) })
			return nil
		},
		func(context.Context) error {
			s, err := orderpebble.Open(orderpebble.Config{ //nolint:contextcheck // likewise
				KeepKeys: a.cfg.KeepKeys, Batch: a.batch("orders", feed.Notify), Now: a.cfg.Now,
			}, f.db)
			if err == nil {
				a.orders, f.orders = s, s
			}
			return err
		},
	}
}

func (f *folder) opened(a *App) {
	if a.cfg.KeepHistory > 0 {
		ctx, cancel := context.WithCancel(context.Background())
		f.cancel = cancel
		f.running.Go(func() {
			a.forgetting(ctx, func(context.Context) error { return nil }) // old keys its stores drop themselves
		})
	}
	telemetry.Gauge(a.registry, "penstock_storage_disk_bytes", "Space that the data folder takes.", nil,
		func() float64 { return float64(f.db.Metrics().DiskSpaceUsage()) })
	telemetry.Gauge(a.registry, "penstock_storage_compactions_running", "Compactions in progress; they take up to one core.", nil,
		func() float64 { return float64(f.db.Metrics().Compact.NumInProgress) })
	telemetry.Gauge(a.registry, "penstock_storage_read_amplification", "Places that a read may have to look at; it grows when compaction falls behind.", nil,
		func() float64 { return float64(f.db.Metrics().ReadAmp()) })
}

func (f *folder) placer(*App) (orderservice.Placer, error) {
	return nil, nil //nolint:nilnil // two commits of one disk are as fast, and each store batches by itself
}

func (f *folder) trim(ctx context.Context, keep time.Duration) (int64, error) {
	if keep <= 0 {
		return 0, nil
	}
	before := f.now().Add(-keep)
	followed, err := f.orders.Followed(ctx)
	if err != nil {
		return 0, err
	}
	entries, err1 := f.stock.Trim(ctx, before, followed)
	events, err2 := f.orders.Trim(ctx, before)
	return entries + events, errors.Join(err1, err2)
}

func (f *folder) audit(ctx context.Context) (*audit.Report, error) {
	snap := f.db.NewSnapshot()
	report, err := audit.Folder(ctx, snap)
	if cerr := snap.Close(); err == nil {
		err = cerr
	}
	return report, err
}

func (f *folder) ready(now time.Time) error { return f.db.CheckSpace(now) }

func (f *folder) place() string { return f.dir }

func (f *folder) close() error {
	f.cancel()
	if !f.db.GaveUp() { // a write may wait for Pebble without end
		f.running.Wait()
	}
	return f.db.Close()
}
