package inventorypg_test

import (
	"context"
	"fmt"
	"math/rand/v2"
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

// TestReserve_BatchesLockLevelsInOrder has two processes write batches of many SKUs at
// once. The server does not look for deadlocks, so that batches that waited for each other
// in a circle would run into the lock timeout.
func TestReserve_BatchesLockLevelsInOrder(t *testing.T) {
	t.Parallel()
	ctx, url, clock := context.Background(), testkit.Database(t), inventorytest.NewClock()
	conn, err := pgx.Connect(ctx, url)
	if err == nil {
		_, err = conn.Exec(ctx, "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = ''1h''', current_database()); END $$")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	const skus, batches, lines = 60, 150, 40
	place := func(i int) inventory.Place {
		return inventory.Place{SKU: fmt.Sprintf("SKU-%d", i), Location: inventory.DefaultLocation}
	}
	type process struct {
		db    *pgdb.DB
		store *inventorypg.Store
	}
	var processes []process
	for range 2 {
		db, err := pgdb.Open(ctx, pgdb.Config{URL: url, LockTimeout: 15 * time.Second, StatementTimeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(db.Close)
		processes = append(processes, process{db, open(t, db, clock)})
	}
	for i := range skus {
		for _, p := range processes { // and each knows the levels then, so that it can guess
			if _, err := p.store.Execute(ctx, []inventory.Command{&inventory.ReceiveCommand{Place: place(i), Quantity: 1 << 30}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	var working sync.WaitGroup
	for _, p := range processes {
		for worker := range 2 {
			working.Go(func() {
				random := rand.New(rand.NewPCG(uint64(worker), 2))
				for range batches {
					var cmds []inventory.Command
					for range lines {
						cmds = append(cmds, &inventory.ReserveCommand{
							ID: id.New(id.Reservation, time.Now()), TTL: time.Hour,
							Lines: []inventory.Line{{Place: place(random.IntN(skus)), Quantity: 1}},
						})
					}
					work := &guessing{Batch: p.store.NewBatch(cmds, make([]inventory.Outcome, lines))}
					commit, err := p.db.Begin(work)
					if err == nil && commit != nil {
						err = commit.Wait()
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	working.Wait()
	var reserved int64
	if err := conn.QueryRow(ctx, "SELECT sum(reserved)::bigint FROM stock").Scan(&reserved); err != nil || reserved != 2*2*batches*lines {
		t.Errorf("%d are reserved (%v), want %d", reserved, err, 2*2*batches*lines)
	}
}
