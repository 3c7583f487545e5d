package app

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/penstockhq/penstock/api/gen/oas"
	"github.com/penstockhq/penstock/internal/app/transfer"
	"github.com/penstockhq/penstock/internal/pebbledb"
	"github.com/penstockhq/penstock/internal/pgdb"
	"github.com/penstockhq/penstock/internal/testkit"
)

func TestTransfer_BrokenOffAndGoneOnWithMovesEverythingAndTheDatabaseServes(t *testing.T) {
	t.Parallel()
	fs, ctx := vfs.NewMem(), context.Background()
	r := start(t, fs, nil)
	r.shop(map[string]int64{"A": 50, "22632": 7})
	held, paid, cancelled := r.mustPlace("k1", want("A", 1)), r.mustPlace("k2", want("A", 2)), r.mustPlace("k3", want("22632", 7))
	if _, err := r.pay(paid.ID, "p-1"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.client.CancelOrder(ctx, oas.CancelOrderParams{ID: cancelled.ID}); err != nil {
		t.Fatal(err)
	}
	settled(t, r)
	events := read(t, r)
	r.stop()
	folder, err := pebbledb.Open(pebbledb.Config{Dir: "data", FS: fs, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := folder.Close(); err != nil {
			t.Error(err)
		}
	}()
	url := testkit.Database(t)
	cfg := transfer.Config{From: folder, To: pgdb.Config{URL: url}}

	// It is broken off in the middle.
	breaking, cancel := context.WithCancel(ctx)
	cfg.Progress = func(table string, _, _ int64) {
		if table == "orders" {
			cancel()
		}
	}
	if _, err := transfer.Run(breaking, cfg); !errors.Is(err, context.Canceled) {
		t.Fatalf("broken off: %v", err)
	}
	if _, err := pgdb.Open(ctx, pgdb.Config{URL: url}); err == nil || !contains(err, "penstock copy") {
		t.Fatalf("half a copy can be served: %v", err)
	}
	cfg.Progress = nil
	report, err := transfer.Run(ctx, cfg)
	if err != nil || report.Checked.Orders != 3 {
		t.Fatalf("gone on with: %+v, %v", report, err)
	}
	if _, err := transfer.Run(ctx, cfg); err == nil || !contains(err, "not empty") {
		t.Fatalf("a second copy: %v", err)
	}

	// What was begun on the folder goes on in the database.
	p := startOn(t, url, nil)
	again, err := p.place("k1", want("A", 1))
	if err != nil || again.Response.ID != held.ID || !again.IdempotentReplayed.Value {
		t.Fatalf("got %+v, %v", again, err)
	}
	if _, err := p.pay(held.ID, "p-2"); err != nil {
		t.Fatal(err)
	}
	if l := p.level("A"); l.OnHand != 47 || l.Reserved != 0 {
		t.Errorf("got %+v", l)
	}
	if l := p.level("22632"); l.Available != 7 {
		t.Errorf("got %+v", l)
	}
	if now := read(t, p); len(now) != len(events)+1 || now[0].ID != events[0].ID {
		t.Errorf("there were %d events, and after one more payment there are %d", len(events), len(now))
	}
	p.mustPlace("k4", want("22632", 7))
	settled(t, p)
}

func TestTransfer_OfAFolderWhoseHistoryWasRemovedGoesOnWhereThatEnds(t *testing.T) {
	t.Parallel()
	fs, ctx := vfs.NewMem(), context.Background()
	r := start(t, fs, nil)
	r.shop(map[string]int64{"A": 50, "B": 1})
	paid, open := r.mustPlace("k1", want("A", 2)), r.mustPlace("k2", want("A", 1))
	if _, err := r.pay(paid.ID, "p-1"); err != nil {
		t.Fatal(err)
	}
	r.mustPlace("k3", want("B", 1)) // an event of stock that is gone
	first, err := r.client.ListEvents(ctx, oas.ListEventsParams{Limit: oas.NewOptInt(1)})
	if err != nil {
		t.Fatal(err)
	}
	told := read(t, r)
	allTrimmed(t, r)
	r.mustPlace("k4", want("A", 1))
	settled(t, r)
	r.stop()
	folder, err := pebbledb.Open(pebbledb.Config{Dir: "data", FS: fs, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	url := testkit.Database(t)
	report, err := transfer.Run(ctx, transfer.Config{From: folder, To: pgdb.Config{URL: url}})
	if err := errors.Join(err, folder.Close()); err != nil || report.Checked.Orders != 4 || report.Checked.OrderEvents != 1 {
		t.Fatalf("%+v, %v", report, err)
	}

	p := startOn(t, url, nil)
	_, err = p.client.ListEvents(ctx, oas.ListEventsParams{After: oas.NewOptString(first.Next)})
	refused(t, err, http.StatusGone, "events-removed")
	if _, err := p.pay(open.ID, "p-2"); err != nil {
		t.Fatal(err)
	}
	if l := p.level("A"); l.OnHand != 47 || l.Reserved != 1 {
		t.Errorf("got %+v", l)
	}
	now := read(t, p)
	for _, before := range told {
		for _, e := range now {
			if e.ID == before.ID {
				t.Errorf("event %s is there though it was removed, or its number was given again", e.ID)
			}
		}
	}
	if len(now) != 2 {
		t.Errorf("there are %d events, want those of one order and one payment", len(now))
	}
	settled(t, p)
	allTrimmed(t, p)
	p.verified()
}
