package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/penstockhq/penstock/api/gen/oas"
	"github.com/penstockhq/penstock/internal/app/audit"
	"github.com/penstockhq/penstock/internal/inventory/inventorypebble"
	"github.com/penstockhq/penstock/internal/pgdb"
	"github.com/penstockhq/penstock/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// opener starts a Penstock for a test.
type opener func(change func(*Config)) *run

// eachStore runs a test on a data folder and on PostgreSQL.
func eachStore(t *testing.T, test func(t *testing.T, open opener)) {
	t.Helper()
	t.Run("folder", func(t *testing.T) {
		t.Parallel()
		fs := vfs.NewMem()
		test(t, func(change func(*Config)) *run { return start(t, fs, change) })
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		url := testkit.Database(t)
		test(t, func(change func(*Config)) *run { return startOn(t, url, change) })
	})
}

// startOn starts a Penstock on a database.
func startOn(t testing.TB, url string, change func(*Config)) *run {
	t.Helper()
	return start(t, nil, func(cfg *Config) {
		cfg.Postgres = &pgdb.Config{URL: url, PoolSize: 10}
		if change != nil {
			change(cfg)
		}
	})
}

// disk is a file system in memory whose log file can be made to fail or to stand still.
type disk struct {
	mem  *vfs.MemFS
	fs   vfs.FS
	fail atomic.Pointer[func(op errorfs.Op) error]
}

func newDisk() *disk {
	d := &disk{mem: vfs.NewCrashableMem()}
	d.fs = errorfs.Wrap(d.mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if f := d.fail.Load(); f != nil && strings.HasSuffix(op.Path, ".log") {
			return (*f)(op)
		}
		return nil
	}))
	return d
}

// onLog has f decide over every operation on the write-ahead log.
func (d *disk) onLog(f func(op errorfs.Op) error) { d.fail.Store(&f) }

func isSync(op errorfs.Op) bool {
	return op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
}

// stall makes the log's flushes wait until the returned function is called.
func (d *disk) stall(t *testing.T) (release func()) {
	t.Helper()
	gate := make(chan struct{})
	d.onLog(func(op errorfs.Op) error {
		if isSync(op) {
			<-gate
		}
		return nil
	})
	return func() {
		d.fail.Store(nil)
		close(gate)
	}
}

// afterCrash is the disk as a machine would find it that lost its power now.
func (d *disk) afterCrash() vfs.FS { return d.mem.CrashClone(vfs.CrashCloneCfg{}) }

// run is a Penstock under test with a client.
type run struct {
	*App

	t      testing.TB
	client *oas.Client
	http   *http.Client
}

// start starts a Penstock on fs that the test's end stops.
func start(t testing.TB, fs vfs.FS, change func(*Config)) *run {
	t.Helper()
	cfg := Config{Dir: "data", HTTP: "127.0.0.1:0", Ops: "127.0.0.1:0", FS: fs, MinFreeBytes: -1}
	if change != nil {
		change(&cfg)
	}
	r := &run{App: New(cfg), t: t, http: &http.Client{Transport: &http.Transport{}}}
	if err := r.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.stop() })
	var err error
	if r.client, err = oas.NewClient("http://"+r.HTTPAddr(), oas.WithClient(r.http)); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *run) stop() {
	r.t.Helper()
	r.http.CloseIdleConnections()
	if err := r.Stop(context.Background()); err != nil && r.storesFailed() == nil {
		r.t.Error(err)
	}
}

// shop puts SKUs with the given units, at 1.85 GBP each.
func (r *run) shop(units map[string]int64) {
	r.t.Helper()
	for sku, n := range units {
		_, err := r.client.PutSKU(context.Background(), &oas.PutSKU{
			Title: sku, UnitPrice: oas.Money{Amount: 185, Currency: "GBP"},
		}, oas.PutSKUParams{Sku: oas.SKUCode(sku)})
		if err == nil && n > 0 {
			_, err = r.client.ReceiveStock(context.Background(), &oas.StockReceipt{Quantity: n},
				oas.ReceiveStockParams{Sku: oas.SKUCode(sku), IdempotencyKey: "po-" + sku})
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
}

func want(sku string, quantity int64) *oas.PlaceOrder {
	return &oas.PlaceOrder{CustomerID: "c-1", Lines: []oas.PlaceOrderLine{{Sku: oas.SKUCode(sku), Quantity: oas.Quantity(quantity)}}}
}

func (r *run) place(key string, req *oas.PlaceOrder) (*oas.OrderHeaders, error) {
	return r.client.PlaceOrder(context.Background(), req, oas.PlaceOrderParams{IdempotencyKey: key})
}

func (r *run) mustPlace(key string, req *oas.PlaceOrder) oas.Order {
	r.t.Helper()
	o, err := r.place(key, req)
	if err != nil {
		r.t.Fatal(err)
	}
	return o.Response
}

func (r *run) pay(id, reference string) (*oas.Order, error) {
	return r.client.PayOrder(context.Background(), &oas.PayOrder{Reference: reference}, oas.PayOrderParams{ID: id})
}

func (r *run) order(id string) *oas.Order {
	r.t.Helper()
	o, err := r.client.GetOrder(context.Background(), oas.GetOrderParams{ID: id})
	if err != nil {
		r.t.Fatal(err)
	}
	return o
}

func (r *run) level(sku string) *oas.StockLevel {
	r.t.Helper()
	l, err := r.client.GetStock(context.Background(), oas.GetStockParams{Sku: oas.SKUCode(sku)})
	if err != nil {
		r.t.Fatal(err)
	}
	return l
}

// active returns how many reservations hold stock in the data folder.
func (r *run) active() int {
	r.t.Helper()
	return r.inventory.(*inventorypebble.Store).Active()
}

func (r *run) storesFailed() error { return errors.Join(r.inventory.Err(), r.orders.Err()) }

// until waits for something that happens by itself.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("%s did not happen in a minute", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// refused checks that err is a problem of the kind slug with the status.
func refused(t testing.TB, err error, status int, slug string) *oas.ProblemStatusCodeWithHeaders {
	t.Helper()
	p, ok := errors.AsType[*oas.ProblemStatusCodeWithHeaders](err)
	if !ok || p.StatusCode != status || p.Response.Type != "/problems/"+slug {
		t.Fatalf("got %v, want a problem %s with status %d", err, slug, status)
	}
	return p
}

// verified audits what is stored and expects nothing to disagree.
func (r *run) verified() *audit.Report {
	r.t.Helper()
	report, err := r.backend.audit(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	if !report.OK {
		r.t.Fatalf("verify: %s", strings.Join(report.Problems, "\n"))
	}
	return report
}

// get fetches a path and returns status, content type and body.
func (r *run) get(method, path string, header http.Header, body string) (int, string, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, "http://"+r.HTTPAddr()+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	maps.Copy(req.Header, header)
	res, err := r.http.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil {
		r.t.Fatal(err)
	}
	return res.StatusCode, res.Header.Get("Content-Type"), string(raw)
}

func key(n int) string { return fmt.Sprintf("key-%d", n) }

func contains(err error, part string) bool { return strings.Contains(err.Error(), part) }
