package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstockhq/penstock/api/gen/oas"
)

// bought is what a customer was told of an order.
type bought struct {
	key  string
	paid bool
}

// books is what all customers were told.
type books struct {
	mu     sync.Mutex
	orders map[string]*bought // by order
	broken []string           // promises that an answer broke
}

func (b *books) add(order, key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if other := b.orders[order]; other != nil && other.key != key {
		b.notef("order %s was given to two requests", order)
	}
	b.orders[order] = &bought{key: key}
}

func (b *books) pay(order string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.orders[order].paid = true
}

// notef records a broken promise. The caller holds mu.
func (b *books) notef(format string, args ...any) {
	const most = 20
	if len(b.broken) < most {
		b.broken = append(b.broken, fmt.Sprintf(format, args...))
	}
}

func (b *books) breachf(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notef(format, args...)
}

// parallel calls do for 0 to n-1 over the sale's connections. The first error ends it.
func (s *sale) parallel(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(s.cfg.Connections, n) {
		workers.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := do(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}

// rush lets all buyers in.
func (s *sale) rush(ctx context.Context) error {
	begin := time.Now()
	err := s.parallel(ctx, s.cfg.Buyers, func(ctx context.Context, i int) error {
		defer s.counts.done.Add(1)
		return s.buyer(ctx, i)
	})
	s.took, s.rushed = time.Since(begin), s.counts.accepted.Load()
	return err
}

// buyer is one customer: most pay, some send their request twice, some use their key for
// something else, some walk away, a few change their mind.
func (s *sale) buyer(ctx context.Context, i int) error {
	choose := rand.New(rand.NewPCG(s.cfg.Seed, uint64(i)))
	mood := choose.Float64()
	leaves := mood < 0.12
	order := basket(choose, i, leaves)
	key := fmt.Sprintf("demo-%d-%d", s.cfg.Seed, i)
	placed, err := s.place(ctx, key, order)
	if err != nil || placed == nil {
		return err
	}
	switch id := placed.ID; {
	case leaves:
		return nil
	case mood < 0.15:
		return s.cancel(ctx, id)
	case mood < 0.25:
		if err := s.repeat(ctx, key, order, id); err != nil {
			return err
		}
	case mood < 0.28:
		if err := s.reuse(ctx, key, order); err != nil {
			return err
		}
	}
	return s.pay(ctx, placed.ID)
}

// basket is what a buyer wants: half of them the hot SKU, the others up to three of the
// tail, where few SKUs are much sought after and most hardly (Zipf).
func basket(choose *rand.Rand, buyer int, leaves bool) *oas.PlaceOrder {
	order := &oas.PlaceOrder{CustomerID: fmt.Sprintf("c-%d", buyer), HoldSeconds: oas.NewOptInt64(900)}
	if leaves {
		order.HoldSeconds = oas.NewOptInt64(holdShort)
	}
	add := func(sku string) {
		order.Lines = append(order.Lines, oas.PlaceOrderLine{Sku: oas.SKUCode(sku), Quantity: 1})
	}
	if choose.Float64() < 0.5 {
		add(hotSKU)
		return order
	}
	popular := rand.NewZipf(choose, 1.2, 4, tailSKUs-1)
	for range 1 + choose.IntN(3) {
		add(tailSKU(int(popular.Uint64())))
	}
	return order
}

// place places an order; nil without an error means that it was refused as sold out.
func (s *sale) place(ctx context.Context, key string, order *oas.PlaceOrder) (*oas.Order, error) {
	for {
		begin := time.Now()
		res, err := s.client.PlaceOrder(ctx, order, oas.PlaceOrderParams{IdempotencyKey: key})
		took := time.Since(begin)
		switch status := statusOf(err); {
		case err == nil:
			s.accepted.record(took)
			s.counts.accepted.Add(1)
			s.books.add(res.Response.ID, key)
			if res.IdempotentReplayed.Value {
				s.books.breachf("a first request was answered as a repeated one")
			}
			return &res.Response, nil
		case status == http.StatusConflict:
			s.refused.record(took)
			s.counts.refused.Add(1)
			return nil, nil //nolint:nilnil // sold out is an answer
		case status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable:
			// Full: wait as told, then again, with the same key.
			if err := pause(ctx, time.Second); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("place an order: %w", err)
		}
	}
}

// patiently calls do until the server has room for it, waiting as it is told.
func patiently[T any](ctx context.Context, do func() (T, error)) (T, error) {
	for {
		got, err := do()
		if status := statusOf(err); status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable {
			return got, err
		}
		if err := pause(ctx, time.Second); err != nil {
			return got, err
		}
	}
}

func statusOf(err error) int {
	if p, ok := errors.AsType[*oas.ProblemStatusCodeWithHeaders](err); ok {
		return p.StatusCode
	}
	return 0
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// repeat sends the same request again and expects the same order.
func (s *sale) repeat(ctx context.Context, key string, order *oas.PlaceOrder, id string) error {
	res, err := patiently(ctx, func() (*oas.OrderHeaders, error) {
		return s.client.PlaceOrder(ctx, order, oas.PlaceOrderParams{IdempotencyKey: key})
	})
	if err != nil {
		return fmt.Errorf("repeat a request: %w", err)
	}
	s.counts.replayed.Add(1)
	if res.Response.ID != id || !res.IdempotentReplayed.Value {
		s.books.breachf("order %s was answered with %s when its request was repeated", id, res.Response.ID)
	}
	return nil
}

// reuse sends another order under a used key and expects to be refused.
func (s *sale) reuse(ctx context.Context, key string, order *oas.PlaceOrder) error {
	other := *order
	other.CustomerID += "-other"
	_, err := patiently(ctx, func() (*oas.OrderHeaders, error) {
		return s.client.PlaceOrder(ctx, &other, oas.PlaceOrderParams{IdempotencyKey: key})
	})
	if statusOf(err) != http.StatusUnprocessableEntity {
		s.books.breachf("a used key with another body was not refused with 422: %v", err)
	}
	s.counts.keyRefused.Add(1)
	return nil
}

func (s *sale) pay(ctx context.Context, id string) error {
	_, err := patiently(ctx, func() (*oas.Order, error) {
		return s.client.PayOrder(ctx, &oas.PayOrder{Reference: "pay-" + id}, oas.PayOrderParams{ID: id})
	})
	if err != nil {
		return fmt.Errorf("pay %s: %w", id, err)
	}
	s.counts.paid.Add(1)
	s.books.pay(id)
	return nil
}

func (s *sale) cancel(ctx context.Context, id string) error {
	_, err := patiently(ctx, func() (*oas.Order, error) {
		return s.client.CancelOrder(ctx, oas.CancelOrderParams{ID: id})
	})
	if err != nil {
		return fmt.Errorf("cancel %s: %w", id, err)
	}
	s.counts.cancelled.Add(1)
	return nil
}

// sellRest waits until the holds of those who walked away have expired and sells what
// came back of the hot SKU to those who come again, until nothing is left or nobody
// holds any.
func (s *sale) sellRest(ctx context.Context) error {
	for round := 0; ; round++ {
		level, err := patiently(ctx, func() (*oas.StockLevel, error) {
			return s.client.GetStock(ctx, oas.GetStockParams{Sku: hotSKU})
		})
		if err != nil {
			return fmt.Errorf("read stock: %w", err)
		}
		if level.OnHand == 0 || int(s.counts.accepted.Load()) >= 4*s.cfg.Buyers {
			return nil
		}
		if level.Available == 0 {
			if err := pause(ctx, 100*time.Millisecond); err != nil {
				return err
			}
			continue
		}
		err = s.parallel(ctx, int(min(level.Available, 2000)), func(ctx context.Context, i int) error {
			order := &oas.PlaceOrder{
				CustomerID: fmt.Sprintf("again-%d-%d", round, i),
				Lines:      []oas.PlaceOrderLine{{Sku: hotSKU, Quantity: 1}},
			}
			placed, err := s.place(ctx, fmt.Sprintf("again-%d-%d-%d", s.cfg.Seed, round, i), order)
			if err != nil || placed == nil {
				return err
			}
			s.counts.resold.Add(1)
			return s.pay(ctx, placed.ID)
		})
		if err != nil {
			return err
		}
	}
}

// readBack lists every stored order and compares it with what customers were told.
func (s *sale) readBack(ctx context.Context) error {
	stored := map[string]*oas.Order{}
	for {
		waiting := false
		params := oas.ListOrdersParams{PageSize: oas.NewOptInt(1000)}
		for {
			page, err := patiently(ctx, func() (*oas.OrderPage, error) { return s.client.ListOrders(ctx, params) })
			if err != nil {
				return fmt.Errorf("list orders: %w", err)
			}
			for i := range page.Orders {
				o := &page.Orders[i]
				stored[o.ID] = o
				waiting = waiting || o.Status == oas.OrderStatusReserved && o.HoldExpiresAt.Before(time.Now())
			}
			if !page.NextPageToken.Set {
				break
			}
			params.PageToken = page.NextPageToken
		}
		if !waiting {
			break
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
	s.compare(stored)
	return nil
}

func (s *sale) compare(stored map[string]*oas.Order) {
	r := &s.outcome
	for id, o := range stored {
		told := s.books.orders[id]
		if told == nil {
			r.Duplicates++ // nobody was told of it, so a request must have made two
			continue
		}
		switch o.Status {
		case oas.OrderStatusExpired:
			r.Expired++
		case oas.OrderStatusPaid:
			for _, l := range o.Lines {
				if l.Sku == hotSKU {
					r.HotSold += l.Quantity
				}
			}
		case oas.OrderStatusReserved, oas.OrderStatusCancelled:
		}
		if told.paid && o.Status != oas.OrderStatusPaid {
			r.Lost++
		}
	}
	for id := range s.books.orders {
		if stored[id] == nil {
			r.Lost++
		}
	}
}
