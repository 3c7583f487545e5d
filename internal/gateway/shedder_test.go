package gateway

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/time/rate"

	"github.com/penstockhq/penstock/internal/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestShedder_RefusesTheShareThatBringsTheWaitBack(t *testing.T) {
	t.Parallel()
	s := &shedder{target: 10 * time.Millisecond}
	if s.refuses() {
		t.Fatal("refused before anything was measured")
	}

	for range 100 {
		s.learn(20 * time.Millisecond)
	}
	if got := s.refused(); got < 0.49 || got > 0.51 {
		t.Errorf("at twice the wait that is allowed a share of %.2f is refused, want 0.5", got)
	}

	for range 100 {
		s.learn(time.Hour)
	}
	if got := s.refused(); got > maxShed || got < maxShed-0.01 {
		t.Errorf("at an endless wait a share of %.2f is refused, want %.2f", got, maxShed)
	}

	for range 100 {
		s.learn(time.Millisecond)
	}
	if s.refused() != 0 || s.refuses() {
		t.Errorf("a share of %.2f is still refused after the wait was over", s.refused())
	}
}

func TestGateway_ShedsNewWorkAndNotItsLaterSteps(t *testing.T) {
	t.Parallel()
	g := newGateway(t, Config{MaxWait: time.Nanosecond}) // every probe takes longer
	for range 100 {
		g.shed.learn(time.Second)
	}

	refused := func(method, path string) (n int) {
		for range 200 {
			rec := httptest.NewRecorder()
			func() {
				defer func() { _ = recover() }() // what is let through finds no services
				g.ServeHTTP(rec, httptest.NewRequest(method, path, http.NoBody))
			}()
			if rec.Code == http.StatusTooManyRequests {
				n++
				if rec.Header().Get("Retry-After") == "" {
					t.Error("a refusal has no Retry-After")
				}
			}
		}
		return n
	}
	if n := refused("POST", "/v1/orders"); n != 0 {
		t.Errorf("%d of 200 orders were refused, with none in flight", n)
	}
	g.inFlight.Add(g.manyInFlight)
	if n := refused("POST", "/v1/orders"); n == 0 {
		t.Error("no new order was refused")
	}
	if n := refused("POST", "/v1/orders/ord_1/pay"); n != 0 {
		t.Errorf("%d of 200 payments were refused; they are the later step of accepted work", n)
	}
}

func TestGateway_RefusalsBeyondTheirRateWaitForTheirTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGateway(t, Config{MaxWait: -1})
		g.refusals = rate.NewLimiter(10, 1)
		for i, want := range []time.Duration{0, 100 * time.Millisecond, 100 * time.Millisecond} {
			begin := time.Now()
			g.refuseFull(httptest.NewRecorder())
			if took := time.Since(begin); took != want {
				t.Errorf("refusal %d took %v, want %v", i, took, want)
			}
		}

		// One that would wait too long is answered at once: waiting is bounded.
		g.refusals = rate.NewLimiter(0.1, 1)
		g.refuseFull(httptest.NewRecorder())
		begin := time.Now()
		g.refuseFull(httptest.NewRecorder())
		if took := time.Since(begin); took != 0 {
			t.Errorf("the refusal waited %v, though its turn was more than %v away", took, maxRefusalWait)
		}
	})
}

func newGateway(t *testing.T, cfg Config) *Gateway {
	t.Helper()
	g, err := New(cfg, nil, event.NewFeed())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}
