// Package inventorytest is the conformance suite of inventory stores: every promise
// that a store makes, as tests that each store runs. It is imported from tests alone.
package inventorytest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/penstockhq/penstock/internal/fault"
	"github.com/penstockhq/penstock/internal/id"
	"github.com/penstockhq/penstock/internal/inventory"
	"github.com/penstockhq/penstock/internal/inventory/inventoryservice"
)

// Clock is a clock that tests turn.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock that stands.
func NewClock() *Clock { return &Clock{now: time.Date(2026, 11, 27, 9, 0, 0, 0, time.UTC)} }

// Now returns the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Store is what the suite tests.
type Store interface {
	inventoryservice.Store
	// Ledger returns up to limit entries after the given position, oldest first.
	Ledger(ctx context.Context, after uint64, limit int) ([]inventory.Entry, error)
}

// Fixture is a store for one test.
type Fixture struct {
	Store Store
	Clock *Clock
	// Exact says that a quick look is always right, not only when it says "sold out".
	Exact bool
	// Reopen closes the store and opens it again on the same data.
	Reopen func() Store
	// Trim removes ledger entries that are older than before, where the orders have followed
	// the ledger up to a number, and returns how many.
	Trim func(ctx context.Context, before time.Time, followed uint64) (int64, error)
}

// Run runs the suite. open returns a fresh fixture that the test's end closes.
func Run(t *testing.T, open func(t *testing.T) *Fixture) {
	t.Helper()
	for name, test := range map[string]func(t *testing.T, f *Fixture){
		"Receive_IsBookedOnceForAKey":                    receiveOnce,
		"Receive_AKeyWithAnotherRequestIsRefused":        receiveKeyReused,
		"Adjust_MayNotTakeWhatIsHeld":                    adjustHeld,
		"Reserve_HoldsEveryLineOrNone":                   reserveAllOrNothing,
		"Reserve_AddsUpLinesOfTheSamePlace":              reserveMergesLines,
		"Reserve_LaterRequestsOfABatchSeeEarlierOnes":    reserveBatch,
		"Reserve_ARetryFindsItsReservation":              reserveRetry,
		"Reserve_ARememberedAnswerOutlivesTheEnd":        reserveRemembered,
		"Reserve_LocationsAreApart":                      reserveLocations,
		"Policies_TrackSellsBelowZeroUntrackedNotAtAll":  policies,
		"Commit_SellsOnceHoweverOften":                   commitIdempotent,
		"Commit_InPartReleasesTheRest":                   commitPartial,
		"Commit_MoreThanIsHeldIsRefused":                 commitTooMuch,
		"Release_GivesBackOnceHoweverOften":              releaseIdempotent,
		"Close_TheFirstWins":                             closeFirstWins,
		"Close_OnlyTheOwnerMay":                          closeOwner,
		"Expire_ToTheSecondAndWithoutBeingAsked":         expire,
		"Expire_IsTrueBeforeItIsWrittenDown":             expireInline,
		"Extend_MovesTheEndAndNeverBack":                 extend,
		"Reopen_KeepsEverything":                         reopen,
		"Ledger_ReplaysToTheLevels":                      ledgerReplays,
		"Crossings_TellEachTimeALevelPassesZero":         crossings,
		"Levels_AreListedInOrderByPrefixAndPage":         levels,
		"Context_ThatHasEndedChangesNothing":             endedContext,
		"Concurrent_BuyersOfAHotSKUNeverTakeOneTooMany":  concurrentHot,
		"Trim_RemovesWhatWasFollowedAndTheEventsOfThat":  trim,
		"Histories_OfOneSKUAreLinearizable":              linearizable,
		"Model_RandomCommandsAgreeWithAPlainCalculation": model,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func at(sku string) inventory.Place {
	return inventory.Place{SKU: sku, Location: inventory.DefaultLocation}
}

func line(sku string, quantity int64) inventory.Line {
	return inventory.Line{Place: at(sku), Quantity: quantity}
}

// do carries out one command.
func (f *Fixture) do(t testing.TB, cmd inventory.Command) inventory.Outcome {
	t.Helper()
	out, err := f.Store.Execute(context.Background(), []inventory.Command{cmd})
	if err != nil {
		t.Fatal(err)
	}
	return out[0]
}

// must carries out one command that has to succeed.
func (f *Fixture) must(t testing.TB, cmd inventory.Command) inventory.Outcome {
	t.Helper()
	out := f.do(t, cmd)
	if out.Err != nil {
		t.Fatalf("%T: %v", cmd, out.Err)
	}
	return out
}

// refused carries out one command that has to be refused with code.
func (f *Fixture) refused(t testing.TB, cmd inventory.Command, code fault.Code) inventory.Outcome {
	t.Helper()
	out := f.do(t, cmd)
	if !fault.Is(out.Err, code) {
		t.Fatalf("%T: got %v, want %s", cmd, out.Err, code)
	}
	return out
}

func (f *Fixture) receive(t testing.TB, sku string, quantity int64) {
	t.Helper()
	f.must(t, &inventory.ReceiveCommand{Place: at(sku), Quantity: quantity})
}

func (f *Fixture) reserve(t testing.TB, lines ...inventory.Line) string {
	t.Helper()
	return f.must(t, f.hold(lines...)).Reservation.ID
}

func (f *Fixture) hold(lines ...inventory.Line) *inventory.ReserveCommand {
	return &inventory.ReserveCommand{ID: id.New(id.Reservation, f.Clock.Now()), TTL: time.Minute, Lines: lines}
}

// level checks what is on hand and reserved.
func (f *Fixture) level(t testing.TB, sku string, onHand, reserved int64) {
	t.Helper()
	l, _, err := f.Store.Level(context.Background(), at(sku))
	if err != nil {
		t.Fatal(err)
	}
	if l.OnHand != onHand || l.Reserved != reserved {
		t.Fatalf("%s has %d on hand and %d reserved, want %d and %d", sku, l.OnHand, l.Reserved, onHand, reserved)
	}
	switch out := f.Store.SoldOut(at(sku)); {
	case out && onHand > reserved:
		t.Fatalf("a quick look says that %s is sold out; %d are available", sku, onHand-reserved)
	case !out && onHand <= reserved && f.Exact:
		t.Fatalf("a quick look does not say that %s is sold out", sku)
	}
}

func (f *Fixture) status(t testing.TB, id string, want inventory.Status) inventory.Reservation {
	t.Helper()
	r, err := f.Store.Reservation(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	if r.Status != want {
		t.Fatalf("reservation %s is %s, want %s", id, r.Status, want)
	}
	return r
}

func receiveOnce(t *testing.T, f *Fixture) {
	cmd := &inventory.ReceiveCommand{Place: at("A"), Quantity: 5, Memory: inventory.Memory{Key: "po-1", Fingerprint: [16]byte{1}}}
	first := f.must(t, cmd)
	f.receive(t, "A", 2)
	again := f.must(t, cmd)
	if first.Replayed || !again.Replayed || again.Level != first.Level {
		t.Fatalf("got %+v, then %+v", first, again)
	}
	f.level(t, "A", 7, 0)
}

func receiveKeyReused(t *testing.T, f *Fixture) {
	f.must(t, &inventory.ReceiveCommand{Place: at("A"), Quantity: 5, Memory: inventory.Memory{Key: "k", Fingerprint: [16]byte{1}}})
	f.refused(t, &inventory.ReceiveCommand{Place: at("A"), Quantity: 6, Memory: inventory.Memory{Key: "k", Fingerprint: [16]byte{2}}}, fault.KeyReused)
	f.level(t, "A", 5, 0)
}

func adjustHeld(t *testing.T, f *Fixture) {
	f.receive(t, "A", 5)
	f.reserve(t, line("A", 3))
	f.refused(t, &inventory.AdjustCommand{Place: at("A"), Delta: -3, Reason: "damaged"}, fault.StockHeld)
	f.must(t, &inventory.AdjustCommand{Place: at("A"), Delta: -2, Reason: "damaged"})
	f.level(t, "A", 3, 3)
}

func reserveAllOrNothing(t *testing.T, f *Fixture) {
	f.receive(t, "A", 5)
	f.receive(t, "B", 1)
	out := f.refused(t, f.hold(line("A", 5), line("B", 2), line("C", 1)), fault.InsufficientStock)
	lines := fault.From(out.Err).Lines
	if len(lines) != 2 || lines[0].SKU != "B" || lines[0].Requested != 2 || lines[0].Available != 1 || lines[1].SKU != "C" {
		t.Fatalf("failed lines: %+v", lines)
	}
	f.level(t, "A", 5, 0)
	f.reserve(t, line("A", 5), line("B", 1))
	f.level(t, "A", 5, 5)
	f.level(t, "B", 1, 1)
}

func reserveMergesLines(t *testing.T, f *Fixture) {
	f.receive(t, "A", 5)
	f.refused(t, f.hold(line("A", 3), line("A", 3)), fault.InsufficientStock)
	r := f.must(t, f.hold(line("A", 3), line("A", 2))).Reservation
	if len(r.Lines) != 1 || r.Lines[0].Quantity != 5 {
		t.Fatalf("got %+v", r.Lines)
	}
	f.level(t, "A", 5, 5)
}

func reserveBatch(t *testing.T, f *Fixture) {
	f.receive(t, "A", 3)
	first, second := f.hold(line("A", 2)), f.hold(line("A", 2))
	out, err := f.Store.Execute(context.Background(), []inventory.Command{
		first, second, &inventory.ReleaseCommand{ID: first.ID}, f.hold(line("A", 3)),
	})
	if err != nil {
		t.Fatal(err)
	}
	if out[0].Err != nil || !fault.Is(out[1].Err, fault.InsufficientStock) || out[2].Err != nil || out[3].Err != nil {
		t.Fatalf("got %v, %v, %v, %v", out[0].Err, out[1].Err, out[2].Err, out[3].Err)
	}
	f.level(t, "A", 3, 3)
	f.status(t, first.ID, inventory.Released)
}

func reserveRetry(t *testing.T, f *Fixture) {
	f.receive(t, "A", 1)
	first, again := f.hold(line("A", 1)), f.hold(line("A", 1))
	first.Key, again.Key = "work", "work"
	f.must(t, first)
	if known, err := f.Store.Known(context.Background(), again); err != nil || !known {
		t.Fatalf("the earlier try is not known: %v", err)
	}
	f.Store = f.Reopen() // as after a crash
	out := f.must(t, again)
	if !out.Replayed || out.Reservation.ID != first.ID {
		t.Fatalf("got %s, want %s", out.Reservation.ID, first.ID)
	}
	f.level(t, "A", 1, 1)
	f.must(t, &inventory.ReleaseCommand{ID: first.ID})
	if out := f.must(t, again); out.Replayed || out.Reservation.ID != again.ID {
		t.Fatal("a closed reservation must not be found by its key")
	}
}

func reserveRemembered(t *testing.T, f *Fixture) {
	f.receive(t, "A", 9)
	first, again, other := f.hold(line("A", 1)), f.hold(line("A", 1)), f.hold(line("A", 2))
	first.Memory = inventory.Memory{Key: "till", Fingerprint: [16]byte{1}}
	again.Memory, other.Memory = first.Memory, inventory.Memory{Key: "till", Fingerprint: [16]byte{2}}
	f.must(t, first)
	f.must(t, &inventory.CommitCommand{ID: first.ID})
	f.Store = f.Reopen()
	out := f.must(t, again)
	if !out.Replayed || out.Reservation.ID != first.ID || out.Reservation.Status != inventory.Committed {
		t.Fatalf("got %+v", out)
	}
	f.refused(t, other, fault.KeyReused)
	f.level(t, "A", 8, 0)
}

func reserveLocations(t *testing.T, f *Fixture) {
	shop := inventory.Place{SKU: "A", Location: "shop-2"}
	f.receive(t, "A", 1)
	f.must(t, &inventory.ReceiveCommand{Place: shop, Quantity: 1})
	f.reserve(t, line("A", 1), inventory.Line{Place: shop, Quantity: 1})
	out := f.refused(t, f.hold(inventory.Line{Place: shop, Quantity: 1}), fault.InsufficientStock)
	if l := fault.From(out.Err).Lines[0]; l.Location != "shop-2" {
		t.Fatalf("got %+v", l)
	}
}

func policies(t *testing.T, f *Fixture) {
	f.receive(t, "T", 1)
	tracked, free := line("T", 4), line("U", 1000)
	tracked.Policy, free.Policy = inventory.Track, inventory.Untracked
	id := f.reserve(t, tracked, free)
	f.level(t, "T", 1, 4)
	f.level(t, "U", 0, 0)
	f.must(t, &inventory.CommitCommand{ID: id})
	f.level(t, "T", -3, 0)
	f.level(t, "U", 0, 0)
	r := f.status(t, id, inventory.Committed)
	for _, l := range r.Lines {
		if l.Committed != l.Quantity {
			t.Fatalf("got %+v", l)
		}
	}
	f.refused(t, f.hold(line("T", 1)), fault.InsufficientStock) // once it is not tracked any more
}

func commitIdempotent(t *testing.T, f *Fixture) {
	f.receive(t, "A", 5)
	id := f.reserve(t, line("A", 3))
	first := f.must(t, &inventory.CommitCommand{ID: id, Reference: "pay-1"})
	again := f.must(t, &inventory.CommitCommand{ID: id, Reference: "pay-1"})
	if first.Replayed || !again.Replayed || again.Reservation.Version != first.Reservation.Version {
		t.Fatalf("got %+v, then %+v", first, again)
	}
	f.level(t, "A", 2, 0)
	f.refused(t, &inventory.CommitCommand{ID: id, Lines: []inventory.Line{line("A", 1)}}, fault.ReservationClosed)
}

func commitPartial(t *testing.T, f *Fixture) {
	f.receive(t, "A", 5)
	f.receive(t, "B", 5)
	id := f.reserve(t, line("A", 3), line("B", 2))
	cmd := &inventory.CommitCommand{ID: id, Lines: []inventory.Line{line("A", 1), line("A", 1)}}
	r := f.must(t, cmd).Reservation
	if r.Status != inventory.Committed || r.Lines[0].Committed != 2 || r.Lines[1].Committed != 0 {
		t.Fatalf("got %+v", r)
	}
	if out := f.must(t, cmd); !out.Replayed {
		t.Fatal("a repeated partial commit must give the same answer")
	}
	f.level(t, "A", 3, 0)
	f.level(t, "B", 5, 0)
	f.refused(t, &inventory.CommitCommand{ID: id}, fault.ReservationClosed)
}

func commitTooMuch(t *testing.T, f *Fixture) {
	f.receive(t, "A", 5)
	f.receive(t, "B", 5)
	id := f.reserve(t, line("A", 3))
	f.refused(t, &inventory.CommitCommand{ID: id, Lines: []inventory.Line{line("A", 4)}}, fault.InvalidRequest)
	f.refused(t, &inventory.CommitCommand{ID: id, Lines: []inventory.Line{line("B", 1)}}, fault.InvalidRequest)
	f.status(t, id, inventory.Active)
	f.level(t, "A", 5, 3)
}

func releaseIdempotent(t *testing.T, f *Fixture) {
	f.receive(t, "A", 5)
	id := f.reserve(t, line("A", 3))
	f.must(t, &inventory.ReleaseCommand{ID: id})
	if out := f.must(t, &inventory.ReleaseCommand{ID: id}); !out.Replayed {
		t.Fatal("a repeated release must give the same answer")
	}
	f.level(t, "A", 5, 0)
	f.refused(t, &inventory.ReleaseCommand{ID: "rsv_nope"}, fault.ReservationNotFound)
}

func closeFirstWins(t *testing.T, f *Fixture) {
	f.receive(t, "A", 5)
	sold, freed := f.reserve(t, line("A", 1)), f.reserve(t, line("A", 1))
	f.must(t, &inventory.CommitCommand{ID: sold})
	f.must(t, &inventory.ReleaseCommand{ID: freed})
	out := f.refused(t, &inventory.ReleaseCommand{ID: sold}, fault.ReservationClosed)
	if out.Reservation.Status != inventory.Committed {
		t.Fatalf("a refusal must show what the reservation is: %+v", out.Reservation)
	}
	out = f.refused(t, &inventory.CommitCommand{ID: freed}, fault.ReservationClosed)
	if out.Reservation.Status != inventory.Released {
		t.Fatalf("a refusal must show what the reservation is: %+v", out.Reservation)
	}
	f.level(t, "A", 4, 0)
}

func closeOwner(t *testing.T, f *Fixture) {
	f.receive(t, "A", 5)
	order := id.New(id.Order, f.Clock.Now())
	cmd := f.hold(line("A", 1))
	cmd.OrderID = order
	f.must(t, cmd)
	f.refused(t, &inventory.CommitCommand{ID: cmd.ID}, fault.ReservationOwned)
	f.refused(t, &inventory.ReleaseCommand{ID: cmd.ID}, fault.ReservationOwned)
	f.refused(t, &inventory.ExtendCommand{ID: cmd.ID, Until: f.Clock.Now().Add(time.Hour)}, fault.ReservationOwned)
	f.must(t, &inventory.CommitCommand{ID: cmd.ID, OrderID: order})
}

func expire(t *testing.T, f *Fixture) {
	f.receive(t, "A", 100)
	var ids []string
	for i := range 10 {
		cmd := f.hold(line("A", 1))
		cmd.TTL = time.Duration(i+1) * time.Second
		f.must(t, cmd)
		ids = append(ids, cmd.ID)
	}
	f.must(t, &inventory.CommitCommand{ID: ids[2]})
	f.Store = f.Reopen()
	svc := inventoryservice.New(inventoryservice.Config{Now: f.Clock.Now}, f.Store, nil)
	f.Clock.Advance(5*time.Second - time.Millisecond)
	for _, want := range []int64{4, 5} { // ends of 1 to 4 s have passed, then also that of 5 s
		if err := svc.ExpireDue(context.Background()); err != nil {
			t.Fatal(err)
		}
		f.level(t, "A", 99, 10-want) // one of them is sold
		f.Clock.Advance(time.Millisecond)
	}
	f.status(t, ids[0], inventory.Expired)
	f.status(t, ids[2], inventory.Committed)
	f.status(t, ids[5], inventory.Active)
}

func expireInline(t *testing.T, f *Fixture) {
	f.receive(t, "A", 1)
	cmd := f.hold(line("A", 1))
	cmd.Key = "work"
	f.must(t, cmd)
	f.Clock.Advance(time.Minute)
	out := f.refused(t, &inventory.CommitCommand{ID: cmd.ID}, fault.ReservationClosed)
	if out.Reservation.Status != inventory.Expired {
		t.Fatalf("got %s", out.Reservation.Status)
	}
	f.level(t, "A", 1, 0)
	again := f.hold(line("A", 1))
	again.Key = "work"
	if out := f.must(t, again); out.Replayed {
		t.Fatal("a reservation that has run out was given to a retry")
	}
}

func extend(t *testing.T, f *Fixture) {
	f.receive(t, "A", 1)
	id := f.reserve(t, line("A", 1))
	end := f.Clock.Now().Add(time.Hour)
	if r := f.must(t, &inventory.ExtendCommand{ID: id, Until: end}).Reservation; !r.ExpiresAt.Equal(end) {
		t.Fatalf("ends at %v, want %v", r.ExpiresAt, end)
	}
	if out := f.must(t, &inventory.ExtendCommand{ID: id, Until: end.Add(-time.Minute)}); !out.Replayed || !out.Reservation.ExpiresAt.Equal(end) {
		t.Fatal("the end was moved back")
	}
	f.refused(t, &inventory.ExtendCommand{ID: id, Until: f.Clock.Now().Add(8 * 24 * time.Hour)}, fault.InvalidRequest)
	svc := inventoryservice.New(inventoryservice.Config{Now: f.Clock.Now}, f.Store, nil)
	for _, wait := range []time.Duration{59 * time.Minute, 2 * time.Minute} {
		f.Clock.Advance(wait)
		if err := svc.ExpireDue(context.Background()); err != nil {
			t.Fatal(err)
		}
		if wait == 59*time.Minute {
			f.status(t, id, inventory.Active)
		}
	}
	f.status(t, id, inventory.Expired)
	f.refused(t, &inventory.ExtendCommand{ID: id, Until: f.Clock.Now().Add(time.Hour)}, fault.ReservationClosed)
}

func reopen(t *testing.T, f *Fixture) {
	f.receive(t, "A", 9)
	active, sold := f.reserve(t, line("A", 2)), f.reserve(t, line("A", 3))
	f.must(t, &inventory.CommitCommand{ID: sold, Reference: "pay"})
	before, err := f.Store.Reservation(context.Background(), active)
	if err != nil {
		t.Fatal(err)
	}
	f.Store = f.Reopen()
	after := f.status(t, active, inventory.Active)
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Fatalf("was %+v, is %+v", before, after)
	}
	f.status(t, sold, inventory.Committed)
	f.level(t, "A", 6, 2)
	f.must(t, &inventory.ReleaseCommand{ID: active})
	f.level(t, "A", 6, 0)
}

func ledgerReplays(t *testing.T, f *Fixture) {
	f.receive(t, "A", 9)
	f.must(t, &inventory.AdjustCommand{Place: at("A"), Delta: -1, Reason: "damaged", Reference: "note-7"})
	id := f.reserve(t, line("A", 4))
	f.must(t, &inventory.CommitCommand{ID: id, Lines: []inventory.Line{line("A", 3)}, Reference: "pay-1"})
	f.Store = f.Reopen()
	f.receive(t, "A", 1)
	var onHand, reserved int64
	var kinds []inventory.EntryKind
	for after := uint64(0); ; {
		entries, err := f.Store.Ledger(context.Background(), after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 0 {
			break
		}
		for _, e := range entries {
			if e.Seq != after+1 {
				t.Fatalf("entry %d follows %d", e.Seq, after)
			}
			after = e.Seq
			kinds = append(kinds, e.Kind)
			o, r := e.Effect()
			onHand, reserved = onHand+o, reserved+r
			if e.Kind == inventory.Adjusted && (e.Reason != "damaged" || e.Reference != "note-7") {
				t.Fatalf("got %+v", e)
			}
			if e.Kind == inventory.EntryCommitted && (e.Reference != "pay-1" || e.ReservationID != id) {
				t.Fatalf("got %+v", e)
			}
		}
	}
	want := []inventory.EntryKind{
		inventory.Received, inventory.Adjusted, inventory.EntryReserved, inventory.EntryCommitted, inventory.EntryReleased, inventory.Received,
	}
	if !slices.Equal(kinds, want) {
		t.Fatalf("got entries %v, want %v", kinds, want)
	}
	f.level(t, "A", onHand, reserved)
}

func crossings(t *testing.T, f *Fixture) {
	f.receive(t, "A", 2)
	f.reserve(t, line("A", 1))
	id := f.reserve(t, line("A", 1))
	f.must(t, &inventory.ReleaseCommand{ID: id})
	f.Store = f.Reopen()
	f.reserve(t, line("A", 1))
	got, err := f.Store.Crossings(context.Background(), 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	want := []bool{false, true, false, true} // depleted?
	if len(got) != len(want) {
		t.Fatalf("got %+v", got)
	}
	for i, c := range got {
		if c.Depleted != want[i] || c.Seq != uint64(i+1) || c.Level.Place != at("A") {
			t.Errorf("crossing %d is %+v", i+1, c)
		}
	}
}

func levels(t *testing.T, f *Fixture) {
	for _, sku := range []string{"B2", "A1", "B1", "B10", "C"} {
		f.receive(t, sku, 1)
	}
	f.must(t, &inventory.ReceiveCommand{Place: inventory.Place{SKU: "B1", Location: "annexe"}, Quantity: 3})
	var got []string
	for after := (inventory.Place{}); ; {
		page, err := f.Store.Levels(context.Background(), "B", after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, l := range page {
			got = append(got, l.SKU+"@"+l.Location)
		}
		after = page[len(page)-1].Place
	}
	if want := "[B1@annexe B1@main B10@main B2@main]"; fmt.Sprint(got) != want {
		t.Fatalf("got %v, want %s", got, want)
	}
}

func endedContext(t *testing.T, f *Fixture) {
	f.receive(t, "A", 1)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := f.Store.Execute(ctx, []inventory.Command{f.hold(line("A", 1))}); err == nil {
		t.Fatal("a request whose context had ended was carried out")
	}
	f.level(t, "A", 1, 0)
}

func concurrentHot(t *testing.T, f *Fixture) {
	const units, buyers = 500, 2000
	f.receive(t, "HOT", units)
	var won sync.Map
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for range buyers / 50 {
				cmd := f.hold(line("HOT", 1))
				out, err := f.Store.Execute(context.Background(), []inventory.Command{cmd})
				switch {
				case err != nil:
					t.Error(err)
				case out[0].Err == nil:
					won.Store(cmd.ID, true)
				case !fault.Is(out[0].Err, fault.InsufficientStock):
					t.Error(out[0].Err)
				}
			}
		})
	}
	all.Wait()
	count := 0
	won.Range(func(any, any) bool { count++; return true })
	if count != units {
		t.Fatalf("%d buyers got one of %d units", count, units)
	}
	f.level(t, "HOT", units, units)
}
