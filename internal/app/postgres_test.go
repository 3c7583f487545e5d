package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/api/gen/oas"
	"github.com/penstockhq/penstock/internal/testkit"
)

// customers place and pay orders through several processes until stop is closed, and
// note what was acknowledged.
type customers struct {
	t       testing.TB
	servers []*run
	running sync.WaitGroup
	stop    chan struct{}
	keys    atomic.Int64

	mu     sync.Mutex
	orders map[string]string // by key
	paid   map[string]bool
	other  map[int]int // refusals by status
}

func newCustomers(t testing.TB, servers ...*run) *customers {
	return &customers{t: t, servers: servers, stop: make(chan struct{}), orders: map[string]string{}, paid: map[string]bool{}, other: map[int]int{}}
}

// come starts n customers. Each sends every order to two processes at once.
func (c *customers) come(n int, sku string) {
	for range n {
		c.running.Go(func() {
			for {
				select {
				case <-c.stop:
					return
				default:
				}
				k := key(int(c.keys.Add(1)))
				var both sync.WaitGroup
				for i := range 2 {
					both.Go(func() { c.place(c.servers[(int(c.keys.Load())+i)%len(c.servers)], k, sku) })
				}
				both.Wait()
			}
		})
	}
}

func (c *customers) place(r *run, k, sku string) {
	for {
		o, err := r.place(k, want(sku, 1))
		if err == nil {
			c.placed(k, o.Response.ID)
			c.pay(r, o.Response.ID)
			return
		}
		code := 0
		if p, ok := errors.AsType[*oas.ProblemStatusCodeWithHeaders](err); ok {
			code = p.StatusCode
			if (code == http.StatusServiceUnavailable || code == http.StatusTooManyRequests) && !p.RetryAfter.Set {
				c.t.Errorf("a refusal with %d has no Retry-After: %+v", code, p.Response)
			}
			if code == http.StatusInternalServerError {
				c.t.Errorf("an outage shows as %+v", p.Response)
			}
		}
		c.mu.Lock()
		c.other[code]++
		c.mu.Unlock()
		if code == http.StatusConflict && !isInFlight(err) {
			return // sold out
		}
		select {
		case <-c.stop:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func isInFlight(err error) bool {
	p, ok := errors.AsType[*oas.ProblemStatusCodeWithHeaders](err)
	return ok && p.Response.Type == "/problems/request-in-flight"
}

func (c *customers) placed(k, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if before := c.orders[k]; before != "" && before != id {
		c.t.Errorf("key %s made order %s and order %s", k, before, id)
	}
	c.orders[k] = id
}

func (c *customers) pay(r *run, id string) {
	if o, err := r.pay(id, "pay-"+id); err == nil && o.Status == oas.OrderStatusPaid {
		c.mu.Lock()
		c.paid[id] = true
		c.mu.Unlock()
	}
}

// leave ends them and checks that everything that was acknowledged is there.
func (c *customers) leave(r *run) {
	c.t.Helper()
	close(c.stop)
	c.running.Wait()
	if len(c.orders) == 0 || len(c.paid) == 0 {
		c.t.Fatal("nothing was ever acknowledged: the test did not test anything")
	}
	c.kept(r)
	c.t.Logf("%d orders and %d payments were acknowledged; other answers by status: %v", len(c.orders), len(c.paid), c.other)
}

// kept checks that everything that was acknowledged to customers who have left is there.
func (c *customers) kept(r *run) {
	c.t.Helper()
	for k, id := range c.orders {
		if o, err := r.client.GetOrder(context.Background(), oas.GetOrderParams{ID: id}); err != nil {
			c.t.Fatalf("order %s of key %s was acknowledged and is gone: %v", id, k, err)
		} else if c.paid[id] && o.Status != oas.OrderStatusPaid {
			c.t.Fatalf("order %s was paid and is %s", id, o.Status)
		}
	}
}

// settled waits until what was half done is completed, and audits.
func settled(t testing.TB, r *run) {
	t.Helper()
	until(t, "every half step being completed", func() bool {
		report, err := r.backend.audit(context.Background())
		return err == nil && report.InFlight == 0
	})
	r.verified()
}

// processesOn starts n processes on one database that sell units of a SKU, and returns
// when all of them know it.
func processesOn(t testing.TB, url string, n int, sku string, units int64, change func(*Config)) []*run {
	t.Helper()
	var servers []*run
	for range n {
		servers = append(servers, startOn(t, url, change))
	}
	servers[0].shop(map[string]int64{sku: units})
	for _, r := range servers {
		until(t, "the catalogue being known everywhere", func() bool { _, ok := r.catalogue.Offer(sku); return ok })
	}
	return servers
}

func TestPostgres_ThreeProcessesSellEachUnitOnceAndTheFeedTellsAll(t *testing.T) {
	t.Parallel()
	url := testkit.Database(t)
	const units = 400
	servers := processesOn(t, url, 3, "HOT", units, nil)
	// A reader follows the feed of one process while all write.
	feed := follow(t, servers[2])
	c := newCustomers(t, servers...)
	c.come(8, "HOT")

	until(t, "everything being sold", func() bool { return servers[1].level("HOT").Available == 0 && len(c.stop) == 0 && c.refusedOnce() })

	c.leave(servers[1])
	if len(c.orders) != units {
		t.Errorf("%d orders were acknowledged for %d units", len(c.orders), units)
	}
	settled(t, servers[0])
	seen := feed.end()
	var all []string
	for _, e := range read(t, servers[0]) {
		all = append(all, e.ID)
	}
	slices.Sort(seen)
	slices.Sort(all)
	if !slices.Equal(seen, all) {
		t.Errorf("who followed the feed saw %d events; %d are there", len(seen), len(all))
	}
}

func TestPostgres_BehindPgBouncerEachUnitIsSoldOnce(t *testing.T) {
	t.Parallel()
	direct := testkit.Database(t)
	testkit.Open(t, direct) // migrates, which a pooler in transaction mode cannot carry
	pooled := testkit.PgBouncer(t, direct)
	const units = 200
	servers := processesOn(t, pooled, 2, "HOT", units, func(cfg *Config) { cfg.Postgres.NoMigrate = true })
	c := newCustomers(t, servers...)
	c.come(8, "HOT")

	until(t, "everything being sold", func() bool { return servers[1].level("HOT").Available == 0 && c.refusedOnce() })

	c.leave(servers[0])
	if len(c.orders) != units {
		t.Errorf("%d orders were acknowledged for %d units", len(c.orders), units)
	}
	settled(t, servers[1])
}

func (c *customers) refusedOnce() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.other[http.StatusConflict] > 0
}

// read returns all events.
func read(t testing.TB, r *run) (all []oas.CloudEvent) {
	t.Helper()
	params := oas.ListEventsParams{Limit: oas.NewOptInt(500)}
	for {
		page, err := r.client.ListEvents(context.Background(), params)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Events) == 0 {
			return all
		}
		all = append(all, page.Events...)
		params.After = oas.NewOptString(page.Next)
	}
}

// following is a reader that goes on from where it was, page by page.
type following struct {
	stop chan struct{}
	done chan []string
}

func follow(t testing.TB, r *run) *following {
	f := &following{make(chan struct{}), make(chan []string, 1)}
	go func() {
		var ids []string
		params := oas.ListEventsParams{Limit: oas.NewOptInt(7)}
		for ended := false; ; {
			page, err := r.client.ListEvents(context.Background(), params)
			if err != nil {
				t.Error(err)
				break
			}
			for _, e := range page.Events {
				ids = append(ids, e.ID)
			}
			params.After = oas.NewOptString(page.Next)
			if len(page.Events) > 0 {
				continue
			}
			if ended {
				break
			}
			select {
			case <-f.stop:
				ended = true // and once more
			case <-time.After(time.Millisecond):
			}
		}
		f.done <- ids
	}()
	return f
}

func (f *following) end() []string {
	close(f.stop)
	return <-f.done
}

func TestPostgres_NothingAcknowledgedIsLostWhenTheServerIsKilledOrConnectionsAreCut(t *testing.T) {
	t.Parallel()
	server := testkit.Server(t)
	servers := processesOn(t, server.URL("postgres"), 2, "A", 1_000_000, nil)
	c := newCustomers(t, servers...)
	c.come(6, "A")
	ctx := context.Background()
	for round := range 3 {
		c.acknowledge(20)
		if err := cut(ctx, server.URL("postgres")); err != nil {
			t.Fatal(err)
		}
		c.acknowledge(20)
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		_, err := servers[0].place(fmt.Sprintf("while-away-%d", round), want("A", 1))
		if p, ok := errors.AsType[*oas.ProblemStatusCodeWithHeaders](err); !ok || p.StatusCode != http.StatusServiceUnavailable || !p.RetryAfter.Set {
			t.Fatalf("without a database an order was answered with %v", err)
		}
		if err := server.Restart(ctx); err != nil {
			t.Fatal(err)
		}
		back := time.Now()
		c.acknowledge(1)
		t.Logf("the first order was acknowledged %v after the server's return", time.Since(back).Round(time.Millisecond))
	}
	c.acknowledge(20)
	c.leave(servers[1])
	settled(t, servers[0])
}

// acknowledge waits until n more orders are acknowledged.
func (c *customers) acknowledge(n int) {
	c.t.Helper()
	count := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.orders)
	}
	before := count()
	until(c.t, "orders being acknowledged", func() bool { return count() >= before+n })
}

// cut ends every connection to the database but its own.
func cut(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'")
	return errors.Join(err, conn.Close(ctx))
}

func TestPostgres_ProcessesOfOneDatabaseKnowEachOthersCataloguesAndStock(t *testing.T) {
	t.Parallel()
	url := testkit.Database(t)
	both := processesOn(t, url, 2, "A", 1, nil)
	one, two := both[0], both[1]
	two.mustPlace("k1", want("A", 1))
	_, err := one.place("k2", want("A", 1))
	refused(t, err, 409, "insufficient-stock")
	// Stock that one process receives can be bought from the other, which has just seen
	// that nothing is left.
	_, err = two.place("k3", want("A", 1))
	refused(t, err, 409, "insufficient-stock")
	if _, err := one.client.ReceiveStock(context.Background(), &oas.StockReceipt{Quantity: 1}, oas.ReceiveStockParams{Sku: "A", IdempotencyKey: "more"}); err != nil {
		t.Fatal(err)
	}
	until(t, "the new stock being sold by the other process", func() bool { _, err := two.place("k4", want("A", 1)); return err == nil })
	one.verified()
}

func TestPostgres_AnotherProcessAnswersARetryWithTheSameOrder(t *testing.T) {
	t.Parallel()
	url := testkit.Database(t)
	both := processesOn(t, url, 2, "A", 1, nil)
	one, two := both[0], both[1]
	first := one.mustPlace("k", want("A", 1))
	// The stock is gone, taken by the very order that the retry asks for.
	again, err := two.place("k", want("A", 1))
	if err != nil || again.Response.ID != first.ID || !again.IdempotentReplayed.Value {
		t.Fatalf("got %+v, %v; want order %s again", again, err, first.ID)
	}
	_, err = two.place("k", want("A", 2))
	refused(t, err, 422, "idempotency-key-reused")
	one.verified()
}
