package orderpebble_test

import (
	"context"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/penstockhq/penstock/internal/order/orderpebble"
	"github.com/penstockhq/penstock/internal/order/ordertest"
	"github.com/penstockhq/penstock/internal/pebbledb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStore_KeepsThePromisesOfAnOrderStore(t *testing.T) {
	t.Parallel()
	ordertest.Run(t, func(t *testing.T) *ordertest.Fixture {
		t.Helper()
		fs := vfs.NewMem()
		var db *pebbledb.DB
		var store *orderpebble.Store
		open := func() ordertest.Store {
			var err error
			if db, err = pebbledb.Open(pebbledb.Config{Dir: "data", FS: fs, MinFreeBytes: -1}); err != nil {
				t.Fatal(err)
			}
			if store, err = orderpebble.Open(orderpebble.Config{}, db); err != nil {
				t.Fatal(err)
			}
			return store
		}
		closeAll := func() {
			if err := store.Stop(context.Background()); err != nil {
				t.Error(err)
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}
		t.Cleanup(func() { closeAll() })
		return &ordertest.Fixture{Store: open(), Now: time.Now, Reopen: func() ordertest.Store {
			closeAll()
			return open()
		}}
	})
}
