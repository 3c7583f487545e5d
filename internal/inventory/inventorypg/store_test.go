package inventorypg_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/penstockhq/penstock/internal/id"
	"github.com/penstockhq/penstock/internal/inventory"
	"github.com/penstockhq/penstock/internal/inventory/inventorypg"
	"github.com/penstockhq/penstock/internal/inventory/inventorytest"
	"github.com/penstockhq/penstock/internal/pgdb"
	"github.com/penstockhq/penstock/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// open opens a store that the test's end stops.
func open(t *testing.T, db *pgdb.DB, clock *inventorytest.Clock) *inventorypg.Store {
	t.Helper()
	store, err := inventorypg.Open(inventorypg.Config{Now: clock.Now}, db)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return store
}

func TestStore_KeepsThePromisesOfAnInventoryStore(t *testing.T) {
	t.Parallel()
	inventorytest.Run(t, func(t *testing.T) *inventorytest.Fixture {
		t.Helper()
		db, clock := testkit.Open(t, testkit.Database(t)), inventorytest.NewClock()
		return &inventorytest.Fixture{
			Store: open(t, db, clock), Clock: clock,
			Reopen: func() inventorytest.Store { return open(t, db, clock) },
		}
	})
}

func TestReserve_OfTwoProcessesWithOneKeyOneTakesTheStock(t *testing.T) {
	t.Parallel()
	url, clock := testkit.Database(t), inventorytest.NewClock()
	stores := []*inventorypg.Store{open(t, testkit.Open(t, url), clock), open(t, testkit.Open(t, url), clock)}
	place, ctx := inventory.Place{SKU: "A", Location: inventory.DefaultLocation}, context.Background()
	if _, err := stores[0].Execute(ctx, []inventory.Command{&inventory.ReceiveCommand{Place: place, Quantity: 1000}}); err != nil {
		t.Fatal(err)
	}
	const keys = 100
	for n := range keys {
		var both sync.WaitGroup
		var ids [2]string
		for i, s := range stores {
			both.Go(func() {
				out, err := s.Execute(ctx, []inventory.Command{&inventory.ReserveCommand{
					ID: id.New(id.Reservation, clock.Now()), Key: fmt.Sprintf("key-%012d", n), TTL: time.Hour,
					Lines: []inventory.Line{{Place: place, Quantity: 1}},
				}})
				if err != nil || out[0].Err != nil {
					t.Error(err, out)
					return
				}
				ids[i] = out[0].Reservation.ID
			})
		}
		both.Wait()
		if ids[0] != ids[1] {
			t.Fatalf("key %d: reservations %s and %s", n, ids[0], ids[1])
		}
	}
	if l, _, err := stores[0].Level(ctx, place); err != nil || l.Reserved != keys {
		t.Fatalf("%d are reserved for %d keys, %v", l.Reserved, keys, err)
	}
}
