package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/penstockhq/penstock/api/gen/oas"
	"github.com/penstockhq/penstock/internal/app/audit"
	"github.com/penstockhq/penstock/internal/pebbledb"
	"github.com/penstockhq/penstock/internal/testkit"
)

// acknowledged is what customers were told.
type acknowledged struct {
	mu     sync.Mutex
	orders map[string]string // order by key
	paid   map[string]bool
	failed int
}

// hammer has customers place and pay orders until n requests each are answered.
func (r *run) hammer(customers, n int) *acknowledged {
	r.t.Helper()
	told := &acknowledged{orders: map[string]string{}, paid: map[string]bool{}}
	var all sync.WaitGroup
	for c := range customers {
		all.Go(func() {
			for i := range n {
				k := fmt.Sprintf("c%d-%d", c, i)
				res, err := r.place(k, want("A", 1))
				if err != nil {
					r.failure(told, err)
					continue
				}
				told.mu.Lock()
				told.orders[k] = res.Response.ID
				told.mu.Unlock()
				if _, err := r.pay(res.Response.ID, "p-"+k); err != nil {
					r.failure(told, err)
					continue
				}
				told.mu.Lock()
				told.paid[res.Response.ID] = true
				told.mu.Unlock()
			}
		})
	}
	all.Wait()
	return told
}

// failure checks that a failed request was told to come back.
func (r *run) failure(told *acknowledged, err error) {
	p, ok := errors.AsType[*oas.ProblemStatusCodeWithHeaders](err)
	if !ok || p.StatusCode != http.StatusServiceUnavailable || !p.RetryAfter.Set {
		r.t.Errorf("a failed request was answered %v", err)
	}
	told.mu.Lock()
	defer told.mu.Unlock()
	told.failed++
}

func TestFaults_NothingAcknowledgedIsLostWhenTheLogFails(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]func(op errorfs.Op) error{
		"sync error": func(op errorfs.Op) error {
			if isSync(op) {
				return errors.New("input/output error")
			}
			return nil
		},
		"write error": func(op errorfs.Op) error {
			if op.Kind == errorfs.OpFileWrite {
				return errors.New("input/output error")
			}
			return nil
		},
		"disk full": func(op errorfs.Op) error {
			if op.Kind == errorfs.OpFileWrite {
				return syscall.ENOSPC
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDisk()
			r := start(t, d.fs, nil)
			t.Cleanup(func() {
				if r.backend.(*folder).db.GaveUp() { // a write met the failure before anyone had been told of it
					testkit.PebbleGaveUp()
				}
			})
			r.shop(map[string]int64{"A": 1_000_000})
			var mu sync.Mutex
			writes := 0
			d.onLog(func(op errorfs.Op) error {
				mu.Lock()
				defer mu.Unlock()
				if writes++; writes > 150 { // in the middle of it
					return broken(op)
				}
				return nil
			})
			told := r.hammer(8, 60)
			if told.failed == 0 || len(told.orders) == 0 {
				t.Fatalf("%d orders were acknowledged, %d requests failed: the fault was not in the middle", len(told.orders), told.failed)
			}
			if err := <-r.Failed(); err == nil {
				t.Fatal("the failure was not told to whoever runs the process")
			}
			if err := r.Ready(); err == nil {
				t.Fatal("a failed process says that it is ready")
			}
			restarted := start(t, d.afterCrash(), nil)
			restarted.remembers(told)
		})
	}
}

// remembers checks that everything that was acknowledged is there after a restart.
func (r *run) remembers(told *acknowledged) {
	r.t.Helper()
	for k, id := range told.orders {
		o, err := r.place(k, want("A", 1))
		if err != nil || o.Response.ID != id || !o.IdempotentReplayed.Value {
			r.t.Fatalf("order %s, placed under %s, is %+v, %v", id, k, o, err)
		}
	}
	for id := range told.paid {
		if o := r.order(id); o.Status != oas.OrderStatusPaid {
			r.t.Fatalf("order %s was paid and is %s", id, o.Status)
		}
	}
	r.verified()
}

func TestFaults_ALossOfPowerLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	d := newDisk()
	r := start(t, d.fs, nil)
	r.shop(map[string]int64{"A": 1_000_000})
	told := r.hammer(8, 20)
	if told.failed > 0 {
		t.Fatalf("%d requests failed", told.failed)
	}
	start(t, d.afterCrash(), nil).remembers(told)
}

// crowded is a file system that tells how much room is left.
type crowded struct {
	vfs.FS

	free uint64
}

func (c *crowded) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: c.free}, nil
}

func TestFaults_ANearlyFullDiskRefusesNewWorkAndLetsOldWorkEnd(t *testing.T) {
	t.Parallel()
	disk := &crowded{FS: vfs.NewMem(), free: 1 << 40}
	r := start(t, disk, func(c *Config) { c.MinFreeBytes = 1 << 20 })
	r.shop(map[string]int64{"A": 10})
	o := r.mustPlace("k", want("A", 1))
	disk.free = 1000
	until(t, "the server noticing", func() bool { return r.Ready() != nil })
	_, err := r.place("k2", want("A", 1))
	if p := refused(t, err, 503, "disk-full"); !p.RetryAfter.Set {
		t.Error("no Retry-After")
	}
	if paid, err := r.pay(o.ID, "p"); err != nil || paid.Status != oas.OrderStatusPaid {
		t.Fatalf("an order that stands could not be paid: %v", err)
	}
	if again, err := r.place("k", want("A", 1)); err != nil || !again.IdempotentReplayed.Value {
		t.Fatalf("a repeated request: %v", err)
	}
	disk.free = 1 << 40
	until(t, "the server recovering", func() bool { return r.Ready() == nil })
	r.mustPlace("k2", want("A", 1))
}

func TestStop_FinishesWhatIsInFlight(t *testing.T) {
	t.Parallel()
	d := newDisk()
	r := start(t, d.fs, nil)
	r.shop(map[string]int64{"A": 10})
	release := d.stall(t)
	answered := make(chan error, 1)
	go func() { _, err := r.place("k", want("A", 1)); answered <- err }()
	until(t, "the request being decided", func() bool { return r.active() == 1 })
	stopped := make(chan error, 1)
	go func() { stopped <- r.Stop(context.Background()) }()
	until(t, "the process turning unready", func() bool { return r.Ready() != nil })
	release()
	if err := <-answered; err != nil {
		t.Fatalf("a request in flight was not finished: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
}

func TestStart_ATakenPortLeavesTheDataFolderAlone(t *testing.T) {
	t.Parallel()
	r := start(t, vfs.NewMem(), nil)
	fs := vfs.NewMem()
	second := New(Config{Dir: "data", HTTP: r.HTTPAddr(), Ops: "127.0.0.1:0", FS: fs})
	err := second.Start(context.Background())
	if err == nil || !strings.Contains(err.Error(), r.HTTPAddr()) || !strings.Contains(err.Error(), "--http") {
		t.Fatalf("got %v", err)
	}
	if names, _ := fs.List(""); len(names) > 0 {
		t.Fatalf("it left %v behind", names)
	}
}

func TestVerify_FindsEveryKindOfDamage(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	r := start(t, fs, nil)
	r.shop(map[string]int64{"A": 5})
	for n := range 4 {
		o := r.mustPlace(key(n), want("A", 1))
		if n == 0 {
			if _, err := r.pay(o.ID, "p"); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.mustPlace("last", want("A", 1)) // the level has crossed zero
	r.verified()
	r.stop()
	findsEveryLoss(t, fs, map[string]string{
		"is": "stock", "io": "reservation", "ir": "reservation", "il": "ledger", "ie": "stock events",
		"oo": "order", "oc": "lists", "os": "lists", "oe": "events", "ok": "keys",
	})
}

// findsEveryLoss removes each row under the prefixes of a folder, expects an audit to tell
// of something by that name, and puts it back.
func findsEveryLoss(t *testing.T, fs vfs.FS, kinds map[string]string) {
	t.Helper()
	for prefix, what := range kinds {
		t.Run(prefix, func(t *testing.T) {
			db, err := pebbledb.Open(pebbledb.Config{Dir: "data", FS: fs, MinFreeBytes: -1})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			}()
			rows := rowsOf(t, db, prefix)
			if len(rows) == 0 {
				t.Fatalf("there is nothing under %s", prefix)
			}
			for k, v := range rows {
				if err := db.Delete([]byte(k), nil); err != nil {
					t.Fatal(err)
				}
				report, err := audit.Folder(context.Background(), db)
				if err == nil && (report.OK || !strings.Contains(strings.Join(report.Problems, "\n"), what)) {
					t.Errorf("without row %q: %+v", k, report)
				}
				if err := db.Set([]byte(k), v, nil); err != nil {
					t.Fatal(err)
				}
			}
			if report, err := audit.Folder(context.Background(), db); err != nil || !report.OK {
				t.Fatalf("put back: %+v, %v", report, err)
			}
		})
	}
}

func rowsOf(t *testing.T, db *pebbledb.DB, prefix string) map[string][]byte {
	t.Helper()
	it, err := db.NewIter(pebbledb.PrefixRange([]byte(prefix)))
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]byte{}
	for ok := it.First(); ok; ok = it.Next() {
		rows[string(it.Key())] = append([]byte(nil), it.Value()...)
	}
	if err := it.Close(); err != nil {
		t.Fatal(err)
	}
	return rows
}
