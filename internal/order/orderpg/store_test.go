package orderpg_test

import (
	"context"
	"testing"
	"time"

	"github.com/penstockhq/penstock/internal/order/orderpg"
	"github.com/penstockhq/penstock/internal/order/ordertest"
	"github.com/penstockhq/penstock/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestStore_KeepsThePromisesOfAnOrderStore(t *testing.T) {
	t.Parallel()
	ordertest.Run(t, func(t *testing.T) *ordertest.Fixture {
		t.Helper()
		db := testkit.Open(t, testkit.Database(t))
		open := func() ordertest.Store {
			store, err := orderpg.Open(orderpg.Config{}, db)
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
		return &ordertest.Fixture{Store: open(), Now: time.Now, Reopen: open}
	})
}
