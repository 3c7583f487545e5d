package inventorypg_test

import (
	"context"
	"testing"

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
