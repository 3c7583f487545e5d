// Package testkit has what tests of several packages need: a private PostgreSQL. It is
// imported from tests alone.
package testkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstockhq/penstock/internal/pgdb"
	"github.com/penstockhq/penstock/internal/pgserver"
)

// fast are settings that only a server may have whose data is worth nothing.
func fast() map[string]string {
	return map[string]string{"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_connections": "400"}
}

var shared struct {
	start     sync.Once
	server    *pgserver.Server
	err       error
	databases atomic.Int64
}

// Main runs a package's tests, ends the PostgreSQL that they shared, and fails if a
// goroutine is left.
func Main(m *testing.M) {
	code := m.Run()
	if err := Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if code == 0 {
		if err := goleak.Find(tolerated()...); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// pebbleGaveUp is set when a Pebble panicked while it held its locks.
var pebbleGaveUp atomic.Bool

// PebbleGaveUp says that a test has driven a Pebble so far that it cannot be closed any
// more. What is left of it is then no leak.
func PebbleGaveUp() { pebbleGaveUp.Store(true) }

func tolerated() []goleak.Option {
	if !pebbleGaveUp.Load() {
		return nil
	}
	return []goleak.Option{
		goleak.IgnoreAnyFunction("github.com/cockroachdb/pebble/v2.(*cleanupManager).mainLoop"),
		goleak.IgnoreAnyFunction("github.com/cockroachdb/pebble/v2.(*ConcurrencyLimitScheduler).periodicGranter"),
		goleak.IgnoreAnyFunction("github.com/cockroachdb/pebble/v2/record.(*LogWriter).flushLoop"),
		goleak.IgnoreAnyFunction("github.com/cockroachdb/pebble/v2.(*commitPipeline).prepare"), // somebody's write
		goleak.IgnoreAnyFunction("github.com/cockroachdb/pebble/v2/internal/genericcache.(*shard[...]).releaseLoop"),
	}
}

// Stop ends the PostgreSQL that tests shared, for a TestMain that has more to do than Main.
func Stop() error {
	if shared.server == nil {
		return nil
	}
	return shared.server.Stop()
}

// Database returns the URL of a fresh database on a server that the package's tests
// share; its TestMain must be Main. Where PostgreSQL is not installed the test is
// skipped, or fails if CI=true.
func Database(t testing.TB) string {
	t.Helper()
	shared.start.Do(func() {
		shared.server, shared.err = pgserver.Start(context.Background(), pgserver.Config{Settings: fast()})
	})
	need(t, shared.err)
	url, err := shared.server.Create(context.Background(), fmt.Sprintf("test%d", shared.databases.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	return url
}

// Server returns a server of the test's own, which it may kill.
func Server(t testing.TB) *pgserver.Server {
	t.Helper()
	return ServerWith(t, pgserver.Config{})
}

// ServerWith is Server with a configuration.
func ServerWith(t testing.TB, cfg pgserver.Config) *pgserver.Server {
	t.Helper()
	server, err := pgserver.Start(context.Background(), cfg)
	need(t, err)
	end(t, server)
	return server
}

// Standby returns a standby of primary.
func Standby(t testing.TB, primary *pgserver.Server) *pgserver.Server {
	t.Helper()
	server, err := primary.Standby(context.Background(), pgserver.Config{})
	need(t, err)
	end(t, server)
	return server
}

func end(t testing.TB, server *pgserver.Server) {
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
}

// Open opens a database that the test's end closes.
func Open(t testing.TB, url string) *pgdb.DB {
	t.Helper()
	db, err := pgdb.Open(context.Background(), pgdb.Config{URL: url, StatementTimeout: 30 * time.Second, LockTimeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

func need(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, pgserver.ErrNotInstalled) && os.Getenv("CI") != "true":
		t.Skip(err)
	default:
		t.Fatal(err)
	}
}
