package cataloguepebble_test

import (
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/penstockhq/penstock/internal/catalogue"
	"github.com/penstockhq/penstock/internal/catalogue/cataloguepebble"
	"github.com/penstockhq/penstock/internal/catalogue/cataloguetest"
	"github.com/penstockhq/penstock/internal/pebbledb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type folder struct {
	t     testing.TB
	fs    vfs.FS
	db    *pebbledb.DB
	store *cataloguepebble.Store
}

func (f *folder) open() cataloguetest.Store {
	f.t.Helper()
	var err error
	if f.db, err = pebbledb.Open(pebbledb.Config{Dir: "data", FS: f.fs, MinFreeBytes: -1}); err != nil {
		f.t.Fatal(err)
	}
	if f.store, err = cataloguepebble.Open(cataloguepebble.Config{}, f.db); err != nil {
		f.t.Fatal(err)
	}
	return f.store
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

func TestStore_KeepsThePromisesOfACatalogueStore(t *testing.T) {
	t.Parallel()
	cataloguetest.Run(t, func(t *testing.T) *cataloguetest.Fixture {
		t.Helper()
		f := &folder{t: t, fs: vfs.NewMem()}
		t.Cleanup(f.close)
		return &cataloguetest.Fixture{Store: f.open(), Reopen: func() cataloguetest.Store {
			f.close()
			return f.open()
		}}
	})
}

func TestOffer_IsInMemoryAlsoAfterAReopen(t *testing.T) {
	t.Parallel()
	f := &folder{t: t, fs: vfs.NewMem()}
	f.open()
	t.Cleanup(f.close)
	put := catalogue.Put{SKU: catalogue.SKU{Code: "A", Amount: 185, Currency: "EUR", Policy: "untracked"}}
	if _, err := f.store.Put(context.Background(), []catalogue.Put{put}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		offer, ok := f.store.Offer("A")
		if !ok || offer.Amount != 185 || offer.Currency() != "EUR" || offer.Policy() != "untracked" {
			t.Fatalf("got %+v, %v", offer, ok)
		}
		f.close()
		f.open()
	}
	if _, ok := f.store.Offer("B"); ok {
		t.Fatal("there is an offer for a SKU that was never put")
	}
}
