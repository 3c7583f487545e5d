package app

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/penstockhq/penstock/api/gen/oas"
	"github.com/penstockhq/penstock/internal/inventory/inventorytest"
	"github.com/penstockhq/penstock/internal/order/orderservice"
)

func TestPlace_ARepeatedRequestGetsTheSameAnswerAndAnotherBodyIsRefused(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, open opener) {
		r := open(nil)
		r.shop(map[string]int64{"22632": 10})
		first, err := r.place("k", want("22632", 6))
		if err != nil {
			t.Fatal(err)
		}
		if first.IdempotentReplayed.Set || first.Response.Total != (oas.Money{Amount: 1110, Currency: "GBP"}) {
			t.Fatalf("got %+v", first)
		}
		if _, err := r.pay(first.Response.ID, "p-1"); err != nil {
			t.Fatal(err)
		}
		again, err := r.place("k", want("22632", 6))
		if err != nil || !again.IdempotentReplayed.Value {
			t.Fatalf("got %+v, %v", again, err)
		}
		if again.Response.ID != first.Response.ID || again.Response.Status != "reserved" || again.Response.Version != 1 {
			t.Fatalf("the same request was answered with %+v, then with %+v", first.Response, again.Response)
		}
		_, err = r.place("k", want("22632", 1))
		refused(t, err, 422, "idempotency-key-reused")
		if l := r.level("22632"); l.OnHand != 4 || l.Reserved != 0 {
			t.Fatalf("got %+v", l)
		}
		r.verified()
	})
}

func TestPlace_ARequestInFlightIsToldSo(t *testing.T) {
	t.Parallel()
	d := newDisk()
	r := start(t, d.fs, nil)
	r.shop(map[string]int64{"A": 10})
	release := d.stall(t)
	answered := make(chan error, 1)
	go func() {
		_, err := r.place("k", want("A", 1))
		answered <- err
	}()
	until(t, "the first request being decided", func() bool { return r.active() == 1 })
	_, err := r.place("k", want("A", 1))
	p := refused(t, err, 409, "request-in-flight")
	if !p.RetryAfter.Set {
		t.Error("no Retry-After")
	}
	select {
	case err := <-answered:
		t.Fatalf("answered (%v) before it was durable", err)
	default:
	}
	release()
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	if again, err := r.place("k", want("A", 1)); err != nil || !again.IdempotentReplayed.Value {
		t.Fatalf("got %+v, %v", again, err)
	}
	r.verified()
}

func TestPlace_RefusalsNameEachLineAndAreNotRemembered(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, open opener) {
		r := open(nil)
		r.shop(map[string]int64{"A": 2, "B": 0})
		req := want("A", 6)
		req.Lines = append(req.Lines, oas.PlaceOrderLine{Sku: "B", Quantity: 1})
		_, err := r.place("k", req)
		p := refused(t, err, 409, "insufficient-stock")
		if len(p.Response.Lines) < 1 {
			t.Fatalf("got %+v", p.Response)
		}
		for _, l := range p.Response.Lines {
			if l.Sku == "A" && (l.Requested.Value != 6 || l.Available.Value != 2) {
				t.Errorf("got %+v", l)
			}
		}
		unknown := want("A", 1)
		unknown.Lines = append(unknown.Lines, oas.PlaceOrderLine{Sku: "nope", Quantity: 1})
		_, err = r.place("k", unknown)
		if p := refused(t, err, 422, "unknown-sku"); p.Response.Lines[0].Sku != "nope" {
			t.Fatalf("got %+v", p.Response)
		}
		if _, err := r.place("k", want("A", 2)); err != nil {
			t.Fatalf("a key that only saw refusals: %v", err)
		}
		r.verified()
	})
}

func TestPlace_MixedCurrenciesAreRefused(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, open opener) {
		r := open(nil)
		r.shop(map[string]int64{"A": 2, "B": 2})
		_, err := r.client.PutSKU(context.Background(), &oas.PutSKU{UnitPrice: oas.Money{Amount: 1, Currency: "EUR"}}, oas.PutSKUParams{Sku: "B"})
		if err != nil {
			t.Fatal(err)
		}
		req := want("A", 1)
		req.Lines = append(req.Lines, oas.PlaceOrderLine{Sku: "B", Quantity: 1})
		_, err = r.place("k", req)
		refused(t, err, 422, "mixed-currency")
		if l := r.level("A"); l.Reserved != 0 {
			t.Fatalf("got %+v", l)
		}
	})
}

func TestPlaceBatch_AnswersEachOrderOnItsOwn(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, open opener) {
		r := open(nil)
		r.shop(map[string]int64{"A": 3})
		item := func(key, sku string, quantity int64) oas.PlaceOrderItem {
			return oas.PlaceOrderItem{
				IdempotencyKey: key, CustomerID: "c", Lines: []oas.PlaceOrderItemLine{{Sku: sku, Quantity: quantity}},
			}
		}
		batch := &oas.PlaceOrderBatch{Orders: []oas.PlaceOrderItem{
			item("1", "A", 2), item("2", "A", 2), item("3", "A", 0), item("4", "nope", 1), item("5", "A", 1), item("", "A", 1),
		}}
		for round, statuses := range [][]int{{201, 409, 400, 422, 201, 400}, {201, 409, 400, 422, 201, 400}} {
			res, err := r.client.PlaceOrders(context.Background(), batch)
			if err != nil || len(res.Results) != len(statuses) {
				t.Fatalf("got %+v, %v", res, err)
			}
			for i, got := range res.Results {
				if got.Status != statuses[i] || got.Order.Set == got.Problem.Set || got.Replayed.Value != (round == 1 && got.Status == 201) {
					t.Errorf("round %d, order %d: got %+v, want status %d", round, i, got, statuses[i])
				}
			}
		}
		if l := r.level("A"); l.Reserved != 3 {
			t.Fatalf("got %+v", l)
		}
		r.verified()
	})
}

// clocked starts a Penstock whose clock the test turns.
func clocked(open opener) (*run, *inventorytest.Clock) {
	clock := inventorytest.NewClock()
	return open(func(c *Config) { c.Now = clock.Now }), clock
}

func TestExpiry_TheOrderFollowsItsReservationAndTheStockIsSoldAgain(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, open opener) {
		r, clock := clocked(open)
		r.shop(map[string]int64{"A": 1})
		o := r.mustPlace("k", want("A", 1))
		clock.Advance(15*time.Minute + time.Second)
		until(t, "the order's expiry", func() bool { return r.order(o.ID).Status == oas.OrderStatusExpired })
		if l := r.level("A"); l.Available != 1 {
			t.Fatalf("got %+v", l)
		}
		r.mustPlace("k2", want("A", 1))
		_, err := r.client.CancelOrder(context.Background(), oas.CancelOrderParams{ID: o.ID})
		refused(t, err, 409, "illegal-transition")
		r.verified()
	})
}

func TestPay_AfterExpiryReservesAgainOrRefuses(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, open opener) {
		r, clock := clocked(open)
		r.shop(map[string]int64{"A": 2})
		late, tooLate := r.mustPlace("k1", want("A", 1)), r.mustPlace("k2", want("A", 1))
		clock.Advance(16 * time.Minute)
		paid, err := r.pay(late.ID, "p-1")
		if err != nil || paid.Status != oas.OrderStatusPaid || paid.ReservationID == late.ReservationID {
			t.Fatalf("got %+v, %v", paid, err)
		}
		again, err := r.pay(late.ID, "p-1")
		if err != nil || again.ReservationID != paid.ReservationID {
			t.Fatalf("got %+v, %v", again, err)
		}
		until(t, "the other reservation's expiry", func() bool { return r.level("A").Available == 1 })
		r.mustPlace("k3", want("A", 1))
		_, err = r.pay(tooLate.ID, "p-2")
		refused(t, err, 409, "insufficient-stock")
		until(t, "the unpaid order's expiry", func() bool { return r.order(tooLate.ID).Status == oas.OrderStatusExpired })
		if l := r.level("A"); l.OnHand != 1 || l.Reserved != 1 {
			t.Fatalf("got %+v", l)
		}
		r.verified()
	})
}

func TestPay_RacingPaymentsOfAnExpiredOrderSellItOnce(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, open opener) {
		r, clock := clocked(open)
		r.shop(map[string]int64{"A": 100})
		o := r.mustPlace("k", want("A", 1))
		clock.Advance(16 * time.Minute)
		results := make(chan error, 20)
		for i := range 20 {
			go func() {
				_, err := r.pay(o.ID, []string{"p-1", "p-2"}[i%2])
				results <- err
			}()
		}
		won := 0
		for range 20 {
			if err := <-results; err == nil {
				won++
			} else {
				refused(t, err, 409, "payment-conflict")
			}
		}
		if l := r.level("A"); won != 10 || l.OnHand != 99 || l.Reserved != 0 {
			t.Fatalf("%d payments were taken, stock is %+v", won, l)
		}
		r.verified()
	})
}

func TestPayAndCancel_OfTwoThatRaceOneWinsAndStockAgrees(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, open opener) {
		r := open(nil)
		r.shop(map[string]int64{"A": 100})
		paid := int64(0)
		for n := range 30 {
			o := r.mustPlace(key(n), want("A", 1))
			payment, cancellation := make(chan error, 1), make(chan error, 1)
			go func() { _, err := r.pay(o.ID, "p"); payment <- err }()
			go func() {
				_, err := r.client.CancelOrder(context.Background(), oas.CancelOrderParams{ID: o.ID})
				cancellation <- err
			}()
			payErr, cancelErr := <-payment, <-cancellation
			if (payErr == nil) == (cancelErr == nil) {
				t.Fatalf("paying gave %v and cancelling %v", payErr, cancelErr)
			}
			if payErr == nil {
				paid++
				refused(t, cancelErr, 409, "illegal-transition")
			} else {
				refused(t, payErr, 409, "illegal-transition")
			}
		}
		if l := r.level("A"); l.OnHand != 100-paid || l.Reserved != 0 {
			t.Fatalf("%d are paid, stock is %+v", paid, l)
		}
		r.verified()
	})
}

func TestFollow_CompletesStepsThatDiedBetweenTheirTwoCommits(t *testing.T) {
	t.Parallel()
	d := newDisk()
	r := start(t, d.fs, nil)
	r.shop(map[string]int64{"A": 10})
	sold, released, orphan := r.mustPlace("k1", want("A", 1)), r.mustPlace("k2", want("A", 1)), r.mustPlace("k3", want("A", 1))
	s := stock{r.services.inventory}
	ctx := context.Background()
	// The first commit of a payment and of a cancellation; the process dies before the second.
	if state, err := s.Sell(ctx, sold.ID, sold.ReservationID, "p-1"); err != nil || state != orderservice.Sold {
		t.Fatalf("got %v, %v", state, err)
	}
	if state, err := s.Release(ctx, released.ID, released.ReservationID); err != nil || state != orderservice.Released {
		t.Fatalf("got %v, %v", state, err)
	}
	crashed := start(t, d.afterCrash(), nil)
	until(t, "the payment's completion", func() bool { return crashed.order(sold.ID).Status == oas.OrderStatusPaid })
	until(t, "the cancellation's completion", func() bool { return crashed.order(released.ID).Status == oas.OrderStatusCancelled })
	if o := crashed.order(sold.ID); o.PaymentReference.Value != "p-1" {
		t.Fatalf("the payment's reference is %q", o.PaymentReference.Value)
	}
	if o := crashed.order(orphan.ID); o.Status != oas.OrderStatusReserved {
		t.Fatalf("got %s", o.Status)
	}
	crashed.verified()
}

func TestPlace_ARetryAfterDyingBetweenTheTwoCommitsTakesStockOnce(t *testing.T) {
	t.Parallel()
	d := newDisk()
	r := start(t, d.fs, nil)
	r.shop(map[string]int64{"A": 1})
	// The first commit of a placement only: the orders' store is stopped under it.
	if err := r.stores()["orders"].Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	_, err := r.place("k", want("A", 1))
	refused(t, err, http.StatusServiceUnavailable, "unavailable")
	if l := r.level("A"); l.Reserved != 1 {
		t.Fatalf("got %+v", l)
	}
	again := start(t, d.afterCrash(), nil)
	o := again.mustPlace("k", want("A", 1))
	if l := again.level("A"); l.Reserved != 1 || o.Status != oas.OrderStatusReserved {
		t.Fatalf("got %+v, %+v", l, o)
	}
	again.verified()
}
