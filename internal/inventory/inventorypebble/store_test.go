package inventorypebble_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/penstockhq/penstock/internal/id"
	"github.com/penstockhq/penstock/internal/inventory"
	"github.com/penstockhq/penstock/internal/inventory/inventorypebble"
	"github.com/penstockhq/penstock/internal/inventory/inventorytest"
	"github.com/penstockhq/penstock/internal/pebbledb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// folder is a data folder in memory that can be opened again.
type folder struct {
	t     testing.TB
	fs    vfs.FS
	clock *inventorytest.Clock
	db    *pebbledb.DB
	store *inventorypebble.Store
}

func newFolder(t testing.TB) *folder {
	t.Helper()
	f := &folder{t: t, fs: vfs.NewMem(), clock: inventorytest.NewClock()}
	t.Cleanup(f.close)
	f.open()
	return f
}

func (f *folder) open() {
	f.t.Helper()
	var err error
	if f.db, err = pebbledb.Open(pebbledb.Config{Dir: "data", FS: f.fs, MinFreeBytes: -1}); err != nil {
		f.t.Fatal(err)
	}
	if f.store, err = inventorypebble.Open(inventorypebble.Config{Now: f.clock.Now}, f.db); err != nil {
		f.t.Fatal(err)
	}
}

func (f *folder) close() {
	f.t.Helper()
	if err := f.store.Stop(context.Background()); err != nil {
		f.t.Error(err)
	}
	if err := f.db.Close(); err != nil {
		f.t.Error(err)
	}
}

func TestStore_KeepsThePromisesOfAnInventoryStore(t *testing.T) {
	t.Parallel()
	inventorytest.Run(t, func(t *testing.T) *inventorytest.Fixture {
		t.Helper()
		f := newFolder(t)
		return &inventorytest.Fixture{Store: f.store, Clock: f.clock, Exact: true, Reopen: func() inventorytest.Store {
			f.close()
			f.open()
			return f.store
		}, Trim: func(ctx context.Context, before time.Time, followed uint64) (int64, error) {
			return f.store.Trim(ctx, before, followed)
		}}
	})
}

//nolint:paralleltest // it counts allocations
func TestDue_AMillionOpenReservationsAreNotScanned(t *testing.T) {
	f := newFolder(t)
	ctx := context.Background()
	place := inventory.Place{SKU: "A", Location: inventory.DefaultLocation}
	const open = 20_000 // what is looked at does not depend on it, so a test needs no million
	cmds := []inventory.Command{&inventory.ReceiveCommand{Place: place, Quantity: open}}
	for i := range open - 1 {
		cmds = append(cmds, &inventory.ReserveCommand{
			ID: id.New(id.Reservation, f.clock.Now()), TTL: time.Hour + time.Duration(i)*time.Second, Lines: []inventory.Line{{Place: place, Quantity: 1}},
		})
	}
	cmds = append(cmds, &inventory.ReserveCommand{
		ID: id.New(id.Reservation, f.clock.Now()), TTL: time.Second, Lines: []inventory.Line{{Place: place, Quantity: 1}},
	})
	if _, err := f.store.Execute(ctx, cmds); err != nil {
		t.Fatal(err)
	}
	f.clock.Advance(2 * time.Second)
	looks := testing.AllocsPerRun(1, func() {
		ids, err := f.store.Due(ctx, f.clock.Now(), open)
		if err != nil || len(ids) > 1 {
			t.Errorf("%d are due, %v", len(ids), err)
		}
	})
	if looks > 20 {
		t.Fatalf("a look for one due reservation among %d made %v allocations", open, looks)
	}
	if f.store.Active() != open {
		t.Fatalf("%d are active", f.store.Active())
	}
}

func TestTrim_AReservationMayBeCutInTwo(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	ctx := context.Background()
	places := []inventory.Place{{SKU: "A", Location: "main"}, {SKU: "B", Location: "main"}, {SKU: "C", Location: "main"}}
	var cmds []inventory.Command
	for i := range 1999 { // 2000 entries are removed in one commit
		cmds = append(cmds, &inventory.ReceiveCommand{Place: places[i%3], Quantity: 1})
	}
	var want []inventory.BaseHold
	for range 2 {
		rsv := id.New(id.Reservation, f.clock.Now())
		cmds = append(cmds, &inventory.ReserveCommand{ID: rsv, TTL: time.Hour, Lines: []inventory.Line{
			{Place: places[0], Quantity: 1}, {Place: places[1], Quantity: 2}, {Place: places[2], Quantity: 4},
		}})
		want = append(want, inventory.BaseHold{ReservationID: rsv, Open: 7})
	}
	if _, err := f.store.Execute(ctx, cmds); err != nil {
		t.Fatal(err)
	}
	one, cancel := context.WithCancel(ctx)
	cancel() // it ends after one commit
	if removed, err := f.store.Trim(one, f.clock.Now().Add(time.Second), 1<<40); removed != 2000 || !errors.Is(err, context.Canceled) {
		t.Fatalf("%d were removed, %v", removed, err)
	}
	if removed, err := f.store.Trim(ctx, f.clock.Now().Add(time.Second), 1<<40); removed != 5 || err != nil {
		t.Fatalf("then %d, %v", removed, err)
	}
	base, err := inventorypebble.Snapshot{R: f.db}.Base(ctx)
	slices.SortFunc(want, func(a, b inventory.BaseHold) int { return strings.Compare(a.ReservationID, b.ReservationID) })
	if err != nil || !slices.Equal(base.Holds, want) || base.Seq != 2005 {
		t.Errorf("the base up to %d is %+v, %v; want %+v", base.Seq, base.Holds, err, want)
	}
	for i, l := range base.Levels {
		if onHand := []int64{667, 666, 666}[i]; l.OnHand != onHand || l.Reserved != []int64{2, 4, 8}[i] {
			t.Errorf("the base has %+v", l)
		}
	}
}
