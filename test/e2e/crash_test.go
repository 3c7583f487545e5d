package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/penstockhq/penstock/api/gen/oas"
	"github.com/penstockhq/penstock/internal/testkit"
)

// told is what customers were told across all crashes.
type told struct {
	mu     sync.Mutex
	orders map[string]string // order by key
	paid   map[string]bool   // by order
	open   []string          // keys whose requests were not answered
	next   int
	away   bool // the database may be away, which is answered with 503
}

// number reads a number from the environment.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestCrash_NothingAcknowledgedIsLostAndNoKeyMakesTwoOrders kills the server under load
// again and again. PENSTOCK_TORTURE_ROUNDS says how often, PENSTOCK_TORTURE_SEED repeats
// a run's choices (`make torture` sets the first).
func TestCrash_NothingAcknowledgedIsLostAndNoKeyMakesTwoOrders(t *testing.T) {
	t.Parallel()
	seed := number(t, "PENSTOCK_TORTURE_SEED", uint64(time.Now().UnixNano()))
	rounds := number(t, "PENSTOCK_TORTURE_ROUNDS", 4)
	t.Logf("PENSTOCK_TORTURE_SEED=%d PENSTOCK_TORTURE_ROUNDS=%d", seed, rounds)
	random := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir() + "/data"
	know := &told{orders: map[string]string{}, paid: map[string]bool{}}
	for round := range rounds {
		s := serve(t, dir)
		if round == 0 {
			s.stock("HOT", 185, 400)
			s.stock("A", 200, 1_000_000)
		}
		know.check(t, s)
		stop := make(chan struct{})
		var customers sync.WaitGroup
		for c := range 16 {
			choose := rand.New(rand.NewPCG(seed, round<<16+uint64(c)+1))
			customers.Go(func() { know.shop(s, choose, stop) })
		}
		time.Sleep(time.Duration(random.IntN(700)+20) * time.Millisecond) // a crash comes when it comes
		s.kill()
		close(stop)
		customers.Wait()
		verify(t, dir)
	}
	s := serve(t, dir)
	know.check(t, s)
	know.onePerKey(t, s)
	s.terminate()
	verify(t, dir)
	if len(know.orders) == 0 {
		t.Fatal("no order was ever acknowledged: the test did not test anything")
	}
	t.Logf("%d orders and %d payments were acknowledged", len(know.orders), len(know.paid))
}

// TestCrash_ProcessesOnOneDatabaseAreKilledAndSoIsTheDatabase does the same to three
// processes on one PostgreSQL, some or all of which are killed in each round.
func TestCrash_ProcessesOnOneDatabaseAreKilledAndSoIsTheDatabase(t *testing.T) {
	t.Parallel()
	database := testkit.Server(t)
	storage := []string{"--store", "postgres", "--postgres-processes", "3", "--postgres", database.URL("postgres")}
	seed := number(t, "PENSTOCK_TORTURE_SEED", uint64(time.Now().UnixNano()))
	rounds := number(t, "PENSTOCK_TORTURE_ROUNDS", 4)
	t.Logf("PENSTOCK_TORTURE_SEED=%d PENSTOCK_TORTURE_ROUNDS=%d", seed, rounds)
	random := rand.New(rand.NewPCG(seed, 0))
	know := &told{orders: map[string]string{}, paid: map[string]bool{}, away: true}
	servers := []*server{serveOn(t, storage...), serveOn(t, storage...), serveOn(t, storage...)}
	servers[0].stock("HOT", 185, 400)
	servers[0].stock("A", 200, 1_000_000)
	for round := range rounds {
		stop := make(chan struct{})
		var customers sync.WaitGroup
		for c := range 15 {
			choose := rand.New(rand.NewPCG(seed, round<<16+uint64(c)+1))
			s := servers[c%3]
			customers.Go(func() { know.shop(s, choose, stop) })
		}
		time.Sleep(time.Duration(random.IntN(700)+20) * time.Millisecond) // a crash comes when it comes
		if round%2 == 1 {
			if err := database.Kill(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
			if err := database.Restart(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		for victim := range random.IntN(3) {
			servers[victim].kill()
			servers[victim] = serveOn(t, storage...)
		}
		time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
		close(stop)
		customers.Wait()
		know.check(t, servers[random.IntN(3)])
		verifyOn(t, "--postgres", database.URL("postgres"))
	}
	know.onePerKey(t, servers[1])
	for _, s := range servers {
		s.terminate()
	}
	verifyOn(t, "--postgres", database.URL("postgres"))
	if len(know.orders) == 0 || len(know.paid) == 0 {
		t.Fatal("nothing was ever acknowledged: the test did not test anything")
	}
	t.Logf("%d orders and %d payments were acknowledged", len(know.orders), len(know.paid))
}

// request is the order that belongs to a key, the same whenever it is sent.
func request(key string) *oas.PlaceOrder {
	sku := "A"
	if len(key)%2 == 0 {
		sku = "HOT"
	}
	return &oas.PlaceOrder{
		CustomerID: key, Lines: []oas.PlaceOrderLine{{Sku: oas.SKUCode(sku), Quantity: 1}}, HoldSeconds: oas.NewOptInt64(600),
	}
}

// shop places, pays and repeats until the server is gone.
func (k *told) shop(s *server, choose *rand.Rand, stop <-chan struct{}) {
	ctx := context.Background()
	for {
		select {
		case <-stop:
			return
		default:
		}
		key := k.pick(choose)
		res, err := s.client.PlaceOrder(ctx, request(key), oas.PlaceOrderParams{IdempotencyKey: key})
		if err != nil {
			if status(err) == 0 {
				k.unanswered(key)
				return
			}
			if k.away && status(err) >= http.StatusInternalServerError {
				k.unanswered(key) // the database is away; what became of it is not known
			}
			continue // refused: sold out, or in flight
		}
		k.placed(s.t, key, res.Response.ID)
		if choose.IntN(3) == 0 {
			continue
		}
		paid, err := s.client.PayOrder(ctx, &oas.PayOrder{Reference: "pay-" + key}, oas.PayOrderParams{ID: res.Response.ID})
		if err != nil && status(err) == 0 {
			return
		}
		if k.away && status(err) == http.StatusServiceUnavailable {
			continue // the database is away
		}
		if err != nil || paid.Status != oas.OrderStatusPaid {
			s.t.Errorf("pay %s: %+v, %v", res.Response.ID, paid, err)
			return
		}
		k.mu.Lock()
		k.paid[res.Response.ID] = true
		k.mu.Unlock()
	}
}

// pick returns a new key, or one of which nobody knows what became.
func (k *told) pick(choose *rand.Rand) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.open) > 0 && choose.IntN(2) == 0 {
		key := k.open[0]
		k.open = k.open[1:]
		return key
	}
	k.next++
	return fmt.Sprintf("key-%d-%s", k.next, []string{"", "x"}[choose.IntN(2)])
}

func (k *told) unanswered(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.open = append(k.open, key)
}

func (k *told) placed(t testing.TB, key, id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if before := k.orders[key]; before != "" && before != id {
		t.Errorf("key %s made order %s and order %s", key, before, id)
	}
	k.orders[key] = id
}

// check reads back everything that was acknowledged.
func (k *told) check(t testing.TB, s *server) {
	t.Helper()
	ctx := context.Background()
	for key, id := range k.orders {
		res, err := s.client.PlaceOrder(ctx, request(key), oas.PlaceOrderParams{IdempotencyKey: key})
		if err != nil || res.Response.ID != id || !res.IdempotentReplayed.Value {
			t.Fatalf("order %s of key %s was acknowledged; now: %+v, %v", id, key, res, err)
		}
	}
	for id := range k.paid {
		if o, err := s.client.GetOrder(ctx, oas.GetOrderParams{ID: id}); err != nil || o.Status != oas.OrderStatusPaid {
			t.Fatalf("order %s was paid; now: %+v, %v", id, o, err)
		}
	}
}

// onePerKey lists all orders: each key is its order's customer, so two orders of one
// customer came of one key.
func (k *told) onePerKey(t testing.TB, s *server) {
	t.Helper()
	customers := map[string]string{}
	params := oas.ListOrdersParams{PageSize: oas.NewOptInt(1000)}
	for {
		page, err := s.client.ListOrders(context.Background(), params)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range page.Orders {
			if other := customers[o.CustomerID]; other != "" {
				t.Fatalf("key %s made order %s and order %s", o.CustomerID, other, o.ID)
			}
			customers[o.CustomerID] = o.ID
		}
		if !page.NextPageToken.Set {
			return
		}
		params.PageToken = page.NextPageToken
	}
}
