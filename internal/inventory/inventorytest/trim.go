package inventorytest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/penstockhq/penstock/internal/fault"
)

// left are the first entry and the first crossing that are left, 0 for none.
func (f *Fixture) left(t *testing.T) (entry, crossing uint64) {
	t.Helper()
	entries, err1 := f.Store.Ledger(context.Background(), 0, 1)
	crossings, err2 := f.Store.Crossings(context.Background(), 0, 1)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if len(entries) > 0 {
		entry = entries[0].Seq
	}
	if len(crossings) > 0 {
		crossing = crossings[0].Seq
	}
	return entry, crossing
}

func trim(t *testing.T, f *Fixture) {
	ctx := context.Background()
	f.receive(t, "A", 5) // crosses zero
	f.reserve(t, line("A", 2))
	f.reserve(t, line("A", 3)) // again
	now := f.Clock.Now()
	if none, err := f.Trim(ctx, now, 9); err != nil || none != 0 {
		t.Fatalf("nothing is so old: %d, %v", none, err)
	}
	for _, step := range []struct {
		followed        uint64
		removed         int64
		entry, crossing uint64 // the first that are left
	}{{0, 0, 1, 1}, {2, 2, 3, 2}, {2, 0, 3, 2}, {9, 1, 0, 0}} {
		removed, err := f.Trim(ctx, now.Add(time.Second), step.followed)
		if err != nil || removed != step.removed {
			t.Fatalf("followed up to %d: %d removed, %v", step.followed, removed, err)
		}
		if entry, crossing := f.left(t); entry != step.entry || crossing != step.crossing {
			t.Fatalf("followed up to %d: the first entry is %d and the first crossing %d", step.followed, entry, crossing)
		}
	}
	if _, err := f.Store.Crossings(ctx, 1, 1); !fault.Is(err, fault.EventsRemoved) {
		t.Fatalf("reading on after crossing 1 of 2 that are gone: %v", err)
	}
	if _, err := f.Store.Crossings(ctx, 2, 1); err != nil {
		t.Fatalf("reading on after the last crossing: %v", err)
	}
	// Numbers go on where they were.
	f.Store = f.Reopen()
	f.receive(t, "A", 1)
	if entry, crossing := f.left(t); entry != 4 || crossing != 3 {
		t.Fatalf("the next entry is %d and the next crossing %d", entry, crossing)
	}
	f.level(t, "A", 6, 5)
	if _, err := f.Store.Crossings(ctx, 1, 1); !fault.Is(err, fault.EventsRemoved) {
		t.Fatalf("reading on over what is gone: %v", err)
	}
	f.Clock.Advance(time.Hour)
	if removed, err := f.Trim(ctx, now.Add(time.Second), 9); err != nil || removed != 1 {
		t.Fatalf("%d removed, %v", removed, err)
	}
}
