// Package app wires the services into a running Penstock: it alone knows all of them.
//
// Parts start in the order of the graph in start.go and stop in reverse; readiness
// turns false before anything stops. It reads no flags and prints nothing.
package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/netutil"

	"github.com/penstockhq/penstock/api"
	"github.com/penstockhq/penstock/guard"
	"github.com/penstockhq/penstock/internal/gateway"
	"github.com/penstockhq/penstock/internal/groupcommit"
	"github.com/penstockhq/penstock/internal/order/orderservice"
	"github.com/penstockhq/penstock/internal/pgdb"
	"github.com/penstockhq/penstock/internal/telemetry"
)

// Config of an App.
type Config struct {
	// Dir is the data folder, where Postgres is nil.
	Dir string
	// Postgres is the database to use instead of a data folder; any number of processes
	// may use one. Defaults to none.
	Postgres *pgdb.Config
	// HTTP is the address of the API. Defaults to 127.0.0.1:8080; port 0 takes any.
	HTTP string
	// Ops is the address of the operational port. Defaults to 127.0.0.1:6060.
	Ops string
	// KeepKeys is how long idempotency keys are remembered. Defaults to 24 h.
	KeepKeys time.Duration
	// KeepHistory is how long events and the ledger are kept. Defaults to for ever.
	KeepHistory time.Duration
	// MaxConnections bounds the open connections of the API. Defaults to 10000.
	MaxConnections int
	// ReadTimeout is the time a client may take for a request's head and body.
	// Defaults to 10 s.
	ReadTimeout time.Duration
	// DrainTimeout bounds a clean stop. Defaults to 20 s.
	DrainTimeout time.Duration
	// UnreadyFor is how long a stopping process goes on serving after /readyz has
	// turned false, for load balancers to see it. Defaults to 0.
	UnreadyFor time.Duration
	// CacheBytes and MinFreeBytes are pebbledb.Config's.
	CacheBytes   int64
	MinFreeBytes int64
	// FS is the file system of the data folder. Defaults to the machine's.
	FS vfs.FS
	// Batch bounds the group commits; see groupcommit.Config for defaults.
	Batch groupcommit.Config
	// Gateway bounds the edge; see gateway.Config for defaults.
	Gateway gateway.Config
	// Guard looks for goroutines that requests leave behind; see guard.Config.
	Guard guard.Config
	// Now is the clock. Defaults to time.Now, and for what is decided in PostgreSQL to
	// the database's.
	Now func() time.Time
	now func() time.Time // as it was given
	// Logger gets what operators must know. Defaults to none.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.HTTP = cmp.Or(c.HTTP, "127.0.0.1:8080")
	c.Ops = cmp.Or(c.Ops, "127.0.0.1:6060")
	c.MaxConnections = cmp.Or(c.MaxConnections, 10_000)
	c.ReadTimeout = cmp.Or(c.ReadTimeout, 10*time.Second)
	c.DrainTimeout = cmp.Or(c.DrainTimeout, 20*time.Second)
	c.now = c.Now
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Gateway.Logger = c.Logger
	c.Guard.Logger = c.Logger
	c.Gateway.OpenAPI = api.OpenAPI
	return c
}

// App is a Penstock that runs in this process. Make one with New, then Start it; Stop
// ends it. Stopping twice is fine.
type App struct {
	cfg       Config
	registry  *prometheus.Registry
	backend   backend
	catalogue catalogueStore
	inventory inventoryStore
	orders    orderStore
	services  services
	gateway   *gateway.Gateway

	parts    []part // that have started, in order
	http     *server
	ops      *server
	stopping atomic.Bool
	stopOnce sync.Once
	stopErr  error
	failed   chan error // gets the first failure
}

// part is something that runs, with the way to end it.
type part struct {
	name string
	stop func(ctx context.Context) error
}

// New returns an App that has not started.
func New(cfg Config) *App {
	return &App{cfg: cfg.withDefaults(), registry: telemetry.NewRegistry(), failed: make(chan error, 1)}
}

// Start opens the data folder and serves. When it fails nothing is left running.
func (a *App) Start(ctx context.Context) error {
	for _, step := range a.graph() {
		stop, err := step.start(ctx)
		if err != nil {
			a.stopping.Store(true)
			return errors.Join(err, a.stopParts(context.WithoutCancel(ctx)))
		}
		a.parts = append(a.parts, part{step.name, stop})
	}
	a.cfg.Logger.Info("penstock is ready", "http", a.HTTPAddr(), "ops", a.OpsAddr(), "data", a.backend.place())
	return nil
}

// Stop drains: unready, then every part in reverse order.
func (a *App) Stop(ctx context.Context) error {
	a.stopOnce.Do(func() {
		a.stopping.Store(true)
		a.cfg.Logger.Info("penstock is stopping")
		if a.cfg.UnreadyFor > 0 {
			select {
			case <-time.After(a.cfg.UnreadyFor):
			case <-ctx.Done():
			}
		}
		ctx, cancel := context.WithTimeout(ctx, a.cfg.DrainTimeout)
		defer cancel()
		if a.stopErr = a.stopParts(ctx); a.stopErr != nil {
			a.cfg.Logger.Error("penstock has stopped, but not cleanly", "error", a.stopErr)
			return
		}
		a.cfg.Logger.Info("penstock has stopped")
	})
	return a.stopErr
}

func (a *App) stopParts(ctx context.Context) error {
	var errs []error
	for len(a.parts) > 0 {
		last := a.parts[len(a.parts)-1]
		a.parts = a.parts[:len(a.parts)-1]
		if err := last.stop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", last.name, err))
		}
	}
	return errors.Join(errs...)
}

// Failed gets the error when a store has failed: the process should stop, and start
// again to read what is really on disk.
func (a *App) Failed() <-chan error { return a.failed }

// Orders returns the orders' use cases, once started, for programs that have no need of HTTP.
func (a *App) Orders() *orderservice.Service { return a.services.orders }

// HTTPAddr returns the address that the API listens on, once started.
func (a *App) HTTPAddr() string { return a.http.addr() }

// OpsAddr returns the address that the operational port listens on, once started.
func (a *App) OpsAddr() string { return a.ops.addr() }

// Ready returns why the process should get no requests, nil when it should.
func (a *App) Ready() error {
	if a.stopping.Load() {
		return errors.New("stopping")
	}
	for name, err := range map[string]error{
		"catalogue": a.catalogue.Err(), "inventory": a.inventory.Err(), "orders": a.orders.Err(),
	} {
		if err != nil {
			return fmt.Errorf("%s failed: %w", name, err)
		}
	}
	return a.backend.ready(a.cfg.Now())
}

// server is an http.Server with its listener.
type server struct {
	http     http.Server
	listener net.Listener
	serving  sync.WaitGroup
}

func (s *server) addr() string {
	if s == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// listen binds the address; nothing is served yet, so a taken port shows before any
// data is touched.
func listen(ctx context.Context, what, address string, maxConnections int) (*server, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s for %s: %w; is another process using it? name another with the flag", address, what, err)
	}
	if maxConnections > 0 {
		l = netutil.LimitListener(l, maxConnections)
	}
	return &server{listener: l}, nil
}

func (s *server) serve(failed func(error)) {
	s.serving.Go(func() {
		if err := s.http.Serve(s.listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
			failed(fmt.Errorf("serve %s: %w", s.addr(), err))
		}
	})
}

// stop waits for the requests in flight; those that do not end in time are cut.
func (s *server) stop(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("requests were cut: %w", err), s.http.Close())
	}
	s.serving.Wait()
	return err
}

func (a *App) fail(err error) {
	select {
	case a.failed <- err:
	default:
	}
}
