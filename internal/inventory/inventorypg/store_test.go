package inventorypg_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

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

// execute carries out a statement of the test's own.
func execute(t *testing.T, url, sql string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Exec(context.Background(), sql, args...)
	if err := errors.Join(err, conn.Close(context.Background())); err != nil {
		t.Fatal(err)
	}
}

func TestStore_KeepsThePromisesOfAnInventoryStore(t *testing.T) {
	t.Parallel()
	inventorytest.Run(t, func(t *testing.T) *inventorytest.Fixture {
		t.Helper()
		url, clock := testkit.Database(t), inventorytest.NewClock()
		db := testkit.Open(t, url)
		store := open(t, db, clock)
		return &inventorytest.Fixture{
			Store: store, Clock: clock,
			Reopen: func() inventorytest.Store { return open(t, db, clock) },
			Trim: func(ctx context.Context, before time.Time, followed uint64) (int64, error) {
				execute(t, url, "UPDATE counters SET value = $1 WHERE name = 'ledger_followed'", followed)
				return store.Trim(ctx, before)
			},
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

// guessing is a batch that decides on levels from memory the first time.
type guessing struct {
	*inventorypg.Batch
	attempts int
}

func (g *guessing) Read(b *pgx.Batch, again bool) {
	if g.attempts++; again || !g.Guess() {
		g.Batch.Read(b, again)
	}
}

func TestReserve_OnAStaleGuessHoldsWhatIsLeftAndNoMore(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	place := inventory.Place{SKU: "A", Location: inventory.DefaultLocation}
	beside := inventory.Place{SKU: "B", Location: inventory.DefaultLocation}
	reserve := func(n int64, more ...inventory.Line) []inventory.Command {
		lines := append([]inventory.Line{{Place: place, Quantity: n}}, more...)
		return []inventory.Command{&inventory.ReserveCommand{ID: id.New(id.Reservation, time.Now()), TTL: time.Hour, Lines: lines}}
	}
	for name, tc := range map[string]struct {
		sold     int64 // by another process meanwhile, of 10
		wanted   int64
		attempts int
		held     bool
		events   int // stock crossing zero
	}{
		"plenty is left":           {sold: 4, wanted: 5, attempts: 1, held: true, events: 1},
		"it takes the last":        {sold: 4, wanted: 6, attempts: 2, held: true, events: 2},
		"less is left than wanted": {sold: 4, wanted: 7, attempts: 2, held: false, events: 1},
		"nothing is left":          {sold: 10, wanted: 1, attempts: 2, held: false, events: 2},
	} {
		check := func(t *testing.T, more ...inventory.Line) {
			t.Parallel()
			url, clock := testkit.Database(t), inventorytest.NewClock()
			db := testkit.Open(t, url)
			one, other := open(t, db, clock), open(t, testkit.Open(t, url), clock)
			receive := []inventory.Command{&inventory.ReceiveCommand{Place: place, Quantity: 10}}
			for _, l := range more {
				receive = append(receive, &inventory.ReceiveCommand{Place: l.Place, Quantity: 10})
			}
			if _, err := one.Execute(ctx, receive); err != nil {
				t.Fatal(err)
			}
			if out, err := other.Execute(ctx, reserve(tc.sold)); err != nil || out[0].Err != nil {
				t.Fatal(err, out)
			}
			out := make([]inventory.Outcome, 1)
			work := &guessing{Batch: one.NewBatch(reserve(tc.wanted, more...), out)}
			commit, err := db.Begin(work)
			if err == nil && commit != nil {
				err = commit.Wait()
			}
			if err != nil || work.attempts != tc.attempts || (out[0].Err == nil) != tc.held {
				t.Fatalf("%v after %d attempts; the outcome is %v", err, work.attempts, out[0].Err)
			}
			want := tc.sold
			if tc.held {
				want += tc.wanted
			}
			level, _, err := other.Level(ctx, place)
			if err != nil || level.Reserved != want || level.OnHand != 10 {
				t.Errorf("%+v, %v; want %d reserved", level, err, want)
			}
			events, err := other.Crossings(ctx, 0, 10)
			if err != nil || len(events) != tc.events+len(more) {
				t.Errorf("%d events of stock crossing zero, %v; want %d", len(events), err, tc.events+len(more))
			}
		}
		// One row and several are written by different statements.
		t.Run(name, func(t *testing.T) { check(t) })
		t.Run(name+", beside another SKU", func(t *testing.T) { check(t, inventory.Line{Place: beside, Quantity: 1}) })
	}
}
