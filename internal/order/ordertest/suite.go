// Package ordertest is the conformance suite of order stores: every promise that a
// store makes, as tests that each store runs. It is imported from tests alone.
package ordertest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstockhq/penstock/internal/fault"
	"github.com/penstockhq/penstock/internal/id"
	"github.com/penstockhq/penstock/internal/order"
	"github.com/penstockhq/penstock/internal/order/orderservice"
)

// Store is what the suite tests.
type Store interface {
	orderservice.Store
	// Trim removes events that are older than before, and returns how many.
	Trim(ctx context.Context, before time.Time) (int64, error)
}

// Fixture is a store for one test.
type Fixture struct {
	Store Store
	Now   func() time.Time
	// Reopen closes the store and opens it again on the same data.
	Reopen func() Store
}

// Run runs the suite. open returns a fresh fixture that the test's end closes.
func Run(t *testing.T, open func(t *testing.T) *Fixture) {
	t.Helper()
	for name, test := range map[string]func(t *testing.T, f *Fixture){
		"Create_StoresOrderKeyAndEventTogether":        create,
		"Create_AKeyMakesOneOrderEvenInOneBatch":       createOnce,
		"Create_AKeyWithAnotherBodyIsRefused":          createKeyReused,
		"Step_FollowsTheStateMachineAndNothingElse":    stateMachine,
		"Step_RepeatedGivesTheSameAnswer":              stepRepeated,
		"Step_MeantForAnotherReservationDoesNothing":   stepOtherReservation,
		"Replay_ShowsTheOrderAsItWasPlaced":            replayAsPlaced,
		"List_NewestFirstByCustomerStatusAndBoth":      list,
		"Events_AreReadInOrderFromAnyPosition":         events,
		"Follow_PositionIsKeptAndNeverGoesBack":        follow,
		"Trim_RemovesOldEventsAndReadersAreTold":       trim,
		"Unknown_OrdersAndKeysAreTold":                 unknown,
		"Concurrent_CreatesUnderOneKeyMakeOneOrder":    concurrentKey,
		"Model_RandomStepsAgreeWithTheTransitionTable": model,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

// Make returns a command for an order of one line. Its key is made of n.
func (f *Fixture) Make(n int, customer string) *order.CreateCommand {
	now := f.Now()
	return &order.CreateCommand{
		Fingerprint: [16]byte{byte(n)},
		Order: order.Order{
			ID: id.New(id.Order, now), CustomerID: customer, ReservationID: id.New(id.Reservation, now),
			Lines:         []order.Line{{SKU: "22632", Location: order.DefaultLocation, Quantity: 6, UnitPrice: 185}},
			Total:         order.Money{Amount: 1110, Currency: "GBP"},
			HoldExpiresAt: now.Add(time.Minute).UTC().Truncate(time.Microsecond),
			KeyHash:       order.KeyHash{byte(n), byte(n >> 8), 1},
		},
	}
}

func (f *Fixture) do(t testing.TB, cmds ...order.Command) []order.Outcome {
	t.Helper()
	out, err := f.Store.Continue(context.Background(), cmds)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (f *Fixture) must(t testing.TB, cmd order.Command) order.Outcome {
	t.Helper()
	out := f.do(t, cmd)[0]
	if out.Err != nil {
		t.Fatal(out.Err)
	}
	return out
}

func (f *Fixture) get(t testing.TB, id string) order.Order {
	t.Helper()
	o, err := f.Store.Order(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (f *Fixture) events(t testing.TB, after uint64, limit int) []order.Event {
	t.Helper()
	got, err := f.Store.Events(context.Background(), after, limit)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func pay(o *order.Order, reference string) *order.StepCommand {
	return &order.StepCommand{ID: o.ID, Action: order.Pay, PaymentReference: reference, ReservationID: o.ReservationID}
}

func create(t *testing.T, f *Fixture) {
	cmd := f.Make(1, "c-1")
	cmd.Order.Lines = append(cmd.Order.Lines, order.Line{SKU: "B", Location: "shop-2", Quantity: 1, UnitPrice: 0})
	made := f.must(t, cmd).Order
	if made.Status != order.Reserved || made.Version != 1 || made.CreatedAt.IsZero() || !made.CreatedAt.Equal(made.UpdatedAt) {
		t.Fatalf("got %+v", made)
	}
	f.Store = f.Reopen()
	if got := f.get(t, made.ID); fmt.Sprint(got) != fmt.Sprint(made) {
		t.Fatalf("stored\n%+v\nis read as\n%+v", made, got)
	}
	key, ok, err := f.Store.Key(context.Background(), cmd.Order.KeyHash)
	if err != nil || !ok || key.OrderID != made.ID || key.Fingerprint != cmd.Fingerprint {
		t.Fatalf("got %+v, %v, %v", key, ok, err)
	}
	if ev := f.events(t, 0, 10); len(ev) != 1 || ev[0].OrderID != made.ID || ev[0].Version != 1 || ev[0].Status != order.Reserved {
		t.Fatalf("got %+v", ev)
	}
}

func createOnce(t *testing.T, f *Fixture) {
	first, second := f.Make(1, "c"), f.Make(1, "c")
	out := f.do(t, first, second)
	if out[0].Replayed || !out[1].Replayed || out[0].Order.ID != out[1].Order.ID {
		t.Fatalf("got %+v", out)
	}
	f.Store = f.Reopen()
	if again := f.must(t, f.Make(1, "c")); !again.Replayed || again.Order.ID != first.Order.ID {
		t.Fatalf("got %+v", again)
	}
	if ev := f.events(t, 0, 10); len(ev) != 1 {
		t.Fatalf("%d events of one order", len(ev))
	}
}

func createKeyReused(t *testing.T, f *Fixture) {
	f.must(t, f.Make(1, "c"))
	other := f.Make(1, "c")
	other.Fingerprint = [16]byte{99}
	if out := f.do(t, other)[0]; !fault.Is(out.Err, fault.KeyReused) {
		t.Fatalf("got %v", out.Err)
	}
}

func stateMachine(t *testing.T, f *Fixture) {
	actions := []order.Action{order.Pay, order.Cancel, order.Expire}
	n := 0
	for _, from := range order.Statuses {
		for _, action := range actions {
			n++
			o := f.must(t, f.Make(n, "c")).Order
			f.bring(t, &o, from)
			before := f.get(t, o.ID)
			to, legal := from.Next(action)
			out := f.do(t, &order.StepCommand{ID: o.ID, Action: action, PaymentReference: "p", ReservationID: o.ReservationID})[0]
			repeat := from.String() == map[order.Action]string{order.Pay: "paid", order.Cancel: "cancelled", order.Expire: "expired"}[action]
			switch {
			case repeat:
				if out.Err != nil || !out.Replayed {
					t.Errorf("%s again when %s: %+v", action, from, out)
				}
			case legal:
				if out.Err != nil || out.Order.Status != to || out.Order.Version != before.Version+1 {
					t.Errorf("%s when %s: %+v", action, from, out)
				}
			default:
				if !fault.Is(out.Err, fault.IllegalTransition) {
					t.Errorf("%s when %s: got %v", action, from, out.Err)
				}
				if after := f.get(t, o.ID); fmt.Sprint(after) != fmt.Sprint(before) {
					t.Errorf("a refused step changed %+v to %+v", before, after)
				}
			}
		}
	}
}

// bring takes o, which is reserved, to a status.
func (f *Fixture) bring(t testing.TB, o *order.Order, to order.Status) {
	t.Helper()
	for _, tr := range order.Transitions {
		if tr.From == order.Reserved && tr.To == to {
			f.must(t, &order.StepCommand{ID: o.ID, Action: tr.Action, PaymentReference: "p", ReservationID: o.ReservationID})
			return
		}
	}
}

func stepRepeated(t *testing.T, f *Fixture) {
	o := f.must(t, f.Make(1, "c")).Order
	paid := f.must(t, pay(&o, "ref-1")).Order
	again := f.must(t, pay(&o, "ref-1"))
	if !again.Replayed || fmt.Sprint(again.Order) != fmt.Sprint(paid) {
		t.Fatalf("got %+v, then %+v", paid, again)
	}
	if out := f.do(t, pay(&o, "ref-2"))[0]; !fault.Is(out.Err, fault.PaymentConflict) {
		t.Fatalf("got %v", out.Err)
	}
	if ev := f.events(t, 0, 10); len(ev) != 2 {
		t.Fatalf("%d events", len(ev))
	}
}

func stepOtherReservation(t *testing.T, f *Fixture) {
	o := f.must(t, f.Make(1, "c")).Order
	other := id.New(id.Reservation, f.Now())
	out := f.must(t, &order.StepCommand{ID: o.ID, Action: order.Expire, ReservationID: other})
	if out.Order.Status != order.Reserved {
		t.Fatalf("the end of another reservation made the order %s", out.Order.Status)
	}
	f.must(t, &order.StepCommand{ID: o.ID, Action: order.Expire, ReservationID: o.ReservationID})
	// A late payment brings a reservation of its own.
	late := pay(&o, "late")
	late.ReservationID = other
	f.must(t, late)
	f.Store = f.Reopen()
	if got := f.get(t, o.ID); got.ReservationID != other || got.Placed.ReservationID != o.ReservationID || got.Version != 3 {
		t.Fatalf("got %+v", got)
	}
}

func replayAsPlaced(t *testing.T, f *Fixture) {
	placed := f.must(t, f.Make(1, "c")).Order
	f.must(t, &order.StepCommand{ID: placed.ID, Action: order.Expire})
	late := pay(&placed, "late")
	late.ReservationID = id.New(id.Reservation, f.Now())
	f.must(t, late)
	f.Store = f.Reopen()
	again := f.must(t, f.Make(1, "c"))
	if !again.Replayed || fmt.Sprint(again.Order) != fmt.Sprint(f.get(t, placed.ID).AsPlaced()) || again.Order.Status != order.Reserved ||
		again.Order.ReservationID != placed.ReservationID || again.Order.Version != 1 {
		t.Fatalf("was answered %+v, then %+v", placed, again.Order)
	}
}

func list(t *testing.T, f *Fixture) {
	var all []order.Order
	for n := range 30 {
		o := f.must(t, f.Make(n, []string{"anna", "ann", "bob"}[n%3])).Order
		if n%2 == 0 {
			o = f.must(t, pay(&o, "p")).Order
		}
		all = append(all, o)
	}
	slices.SortFunc(all, func(a, b order.Order) int { return -compare(a.ID, b.ID) })
	for _, q := range []orderservice.ListQuery{
		{}, {CustomerID: "ann"}, {CustomerID: "nobody"}, {Status: order.Paid}, {Status: order.Expired},
		{CustomerID: "anna", Status: order.Reserved},
	} {
		var want, got []string
		for _, o := range all {
			if (q.CustomerID == "" || q.CustomerID == o.CustomerID) && (q.Status == order.None || q.Status == o.Status) {
				want = append(want, o.ID)
			}
		}
		q.Limit = 4
		for {
			page, err := f.Store.List(context.Background(), q)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range page {
				got = append(got, o.ID)
			}
			if len(page) < q.Limit {
				break
			}
			q.Before = page[len(page)-1].ID
		}
		if !slices.Equal(got, want) {
			t.Errorf("%+v: got %d orders %v, want %d %v", q, len(got), got, len(want), want)
		}
	}
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	default:
		return 0
	}
}

func events(t *testing.T, f *Fixture) {
	for n := range 10 {
		o := f.must(t, f.Make(n, "c")).Order
		f.must(t, pay(&o, "p"))
	}
	f.Store = f.Reopen()
	all := f.events(t, 0, 100)
	if len(all) != 20 {
		t.Fatalf("%d events", len(all))
	}
	for i, e := range all {
		if e.Seq != uint64(i+1) {
			t.Fatalf("event %d has number %d", i+1, e.Seq)
		}
		part := f.events(t, e.Seq, 3)
		if want := all[i+1 : min(i+4, len(all))]; fmt.Sprint(part) != fmt.Sprint(want) {
			t.Fatalf("after %d: got %v, want %v", e.Seq, part, want)
		}
	}
}

func follow(t *testing.T, f *Fixture) {
	for _, p := range []uint64{7, 5} {
		f.must(t, &order.FollowCommand{Position: p})
	}
	f.Store = f.Reopen()
	if got, err := f.Store.Followed(context.Background()); err != nil || got != 7 {
		t.Fatalf("got %d, %v", got, err)
	}
}

func trim(t *testing.T, f *Fixture) {
	ctx := context.Background()
	first := f.must(t, f.Make(1, "c-1")).Order
	f.must(t, f.Make(2, "c-1"))
	if removed, err := f.Store.Trim(ctx, f.Now().Add(-time.Hour)); err != nil || removed != 0 {
		t.Fatalf("nothing is so old: %d, %v", removed, err)
	}
	if removed, err := f.Store.Trim(ctx, f.Now().Add(time.Hour)); err != nil || removed != 2 {
		t.Fatalf("%d removed, %v", removed, err)
	}
	if left := f.events(t, 0, 10); len(left) > 0 {
		t.Fatalf("left are %+v", left)
	}
	f.Store = f.Reopen()
	f.must(t, pay(&first, "p"))
	if left := f.events(t, 0, 10); len(left) != 1 || left[0].Seq != 3 || left[0].Version != 2 {
		t.Fatalf("left are %+v", left)
	}
	if left := f.events(t, 2, 10); len(left) != 1 {
		t.Fatalf("after the last that was removed come %+v", left)
	}
	if _, err := f.Store.Events(ctx, 1, 10); !fault.Is(err, fault.EventsRemoved) {
		t.Fatalf("reading on over what is gone: %v", err)
	}
}

func unknown(t *testing.T, f *Fixture) {
	for _, text := range []string{"", "ord_nope", id.New(id.Order, f.Now()), id.New(id.Reservation, f.Now())} {
		if _, err := f.Store.Order(context.Background(), text); !fault.Is(err, fault.OrderNotFound) {
			t.Errorf("%q: got %v", text, err)
		}
		if out := f.do(t, &order.StepCommand{ID: text, Action: order.Pay}); !fault.Is(out[0].Err, fault.OrderNotFound) {
			t.Errorf("%q: got %v", text, out[0].Err)
		}
	}
	if _, ok, err := f.Store.Key(context.Background(), order.KeyHash{9}); ok || err != nil {
		t.Errorf("a key that was never used: %v, %v", ok, err)
	}
}

func concurrentKey(t *testing.T, f *Fixture) {
	var all sync.WaitGroup
	made := make(chan string, 64)
	for range 64 {
		all.Go(func() {
			out, err := f.Store.Continue(context.Background(), []order.Command{f.Make(1, "c")})
			if err != nil || out[0].Err != nil {
				t.Error(err, out)
				return
			}
			made <- out[0].Order.ID
		})
	}
	all.Wait()
	close(made)
	ids := map[string]bool{}
	for id := range made {
		ids[id] = true
	}
	if len(ids) != 1 {
		t.Fatalf("one key made %d orders", len(ids))
	}
}

// model takes random steps, some in one batch, and follows them in the table.
func model(t *testing.T, f *Fixture) {
	n := 1000
	rapid.Check(t, func(rt *rapid.T) {
		n++
		var placed order.Order
		status, version := order.None, uint64(0)
		cmds := []order.Command{f.Make(n, "c")}
		for range rapid.IntRange(1, 8).Draw(rt, "steps") {
			action := rapid.SampledFrom([]order.Action{order.Pay, order.Cancel, order.Expire}).Draw(rt, "action")
			cmds = append(cmds, &order.StepCommand{ID: cmds[0].(*order.CreateCommand).Order.ID, Action: action, PaymentReference: "p"})
		}
		for len(cmds) > 0 {
			size := rapid.IntRange(1, len(cmds)).Draw(rt, "batch")
			for i, out := range f.do(t, cmds[:size]...) {
				action := order.Place
				if s, ok := cmds[i].(*order.StepCommand); ok {
					action = s.Action
				}
				if to, ok := status.Next(action); ok {
					status = to
					version++
				}
				if out.Order.Status != status || out.Order.Version != version {
					rt.Fatalf("%s: the order is %s (%d), the table says %s (%d)", action, out.Order.Status, out.Order.Version, status, version)
				}
				placed = out.Order
			}
			cmds = cmds[size:]
		}
		if got := f.get(t, placed.ID); got.Status != status || got.Version != version {
			rt.Fatalf("stored as %s (%d), want %s (%d)", got.Status, got.Version, status, version)
		}
	})
}
