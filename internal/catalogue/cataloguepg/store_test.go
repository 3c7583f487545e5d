package cataloguepg_test

import (
	"context"
	"testing"

	"github.com/penstockhq/penstock/internal/catalogue"
	"github.com/penstockhq/penstock/internal/catalogue/cataloguepg"
	"github.com/penstockhq/penstock/internal/catalogue/cataloguetest"
	"github.com/penstockhq/penstock/internal/pgdb"
	"github.com/penstockhq/penstock/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// open opens a store that the test's end stops.
func open(t *testing.T, db *pgdb.DB) *cataloguepg.Store {
	t.Helper()
	store, err := cataloguepg.Open(context.Background(), cataloguepg.Config{}, db)
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

func TestStore_KeepsThePromisesOfACatalogueStore(t *testing.T) {
	t.Parallel()
	cataloguetest.Run(t, func(t *testing.T) *cataloguetest.Fixture {
		t.Helper()
		db := testkit.Open(t, testkit.Database(t))
		return &cataloguetest.Fixture{Store: open(t, db), Reopen: func() cataloguetest.Store { return open(t, db) }}
	})
}

func TestRefresh_BringsInWhatAnotherProcessPut(t *testing.T) {
	t.Parallel()
	url := testkit.Database(t)
	here, there := open(t, testkit.Open(t, url)), open(t, testkit.Open(t, url))
	ctx := context.Background()
	for _, amount := range []int64{100, 200} {
		put := catalogue.Put{SKU: catalogue.SKU{Code: "A", Title: "a", Amount: amount, Currency: "GBP", Policy: "track"}}
		if out, err := there.Put(ctx, []catalogue.Put{put}); err != nil || out[0].Err != nil {
			t.Fatal(err, out)
		}
		if err := here.Refresh(ctx); err != nil {
			t.Fatal(err)
		}
		if o, ok := here.Offer("A"); !ok || o.Amount != amount || o.Currency() != "GBP" || o.Policy() != "track" {
			t.Errorf("got %+v, %v; want the price %d that another process has put", o, ok, amount)
		}
	}
}
