package orderpebble_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/penstockhq/penstock/internal/order"
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

func TestTrim_WhatHappenedAtOneTimeGoesTogether(t *testing.T) {
	t.Parallel()
	db, err := pebbledb.Open(pebbledb.Config{Dir: "data", FS: vfs.NewMem(), MinFreeBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 27, 9, 0, 0, 0, time.UTC)
	store, err := orderpebble.Open(orderpebble.Config{Now: func() time.Time { return now }}, db)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(store.Stop(context.Background()), db.Close()); err != nil {
			t.Error(err)
		}
	})
	ctx := context.Background()
	create := (&ordertest.Fixture{Now: time.Now}).Make
	const orders = 20_100 // some more than are removed in one commit otherwise
	cmds := []order.Command{}
	for n := range orders {
		cmds = append(cmds, create(n, "c-1"))
	}
	if _, err := store.Continue(ctx, cmds); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Second)
	if _, err := store.Continue(ctx, []order.Command{create(orders, "c-1")}); err != nil {
		t.Fatal(err)
	}
	stopping, cancel := context.WithCancel(ctx)
	cancel() // it ends after one commit
	removed, err := store.Trim(stopping, now.Add(time.Hour))
	if removed != orders || !errors.Is(err, context.Canceled) {
		t.Errorf("%d of %d were removed, %v", removed, orders, err)
	}
	if removed, err = store.Trim(ctx, now.Add(time.Hour)); err != nil || removed != 1 {
		t.Errorf("then %d, %v", removed, err)
	}
}
