package guard_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstockhq/penstock/guard"
)

func TestMain(m *testing.M) { guard.TestMain(m) }

func newGuard(t *testing.T, cfg guard.Config) *guard.Guard {
	t.Helper()
	g, err := guard.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

// all watches everything and looks only when told.
var all = guard.Config{Sample: 1, Grace: time.Nanosecond, Every: time.Hour, AlertEvery: time.Nanosecond}

func abandon(stop chan struct{}) { <-stop }

// check waits until the goroutines that a test left behind have come to where they wait:
// one that has just been started has no stack yet.
func check(g *guard.Guard, settled func(leaks []guard.Leak) bool) []guard.Leak {
	for {
		leaks := g.Check()
		if settled(leaks) {
			return leaks
		}
		time.Sleep(time.Millisecond)
	}
}

// atAbandon counts the goroutines that wait in abandon.
func atAbandon(leaks []guard.Leak) (n int) {
	for _, l := range leaks {
		if strings.Contains(l.String(), "abandon") {
			n += l.Goroutines
		}
	}
	return n
}

func TestGuard_NamesTheRouteThatLeaksUnderConcurrency(t *testing.T) {
	t.Parallel()
	g := newGuard(t, all)
	stop := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /leaky/{id}", func(http.ResponseWriter, *http.Request) {
		go func() { go abandon(stop) }() // grandchildren inherit too
	})
	mux.HandleFunc("GET /fine", func(http.ResponseWriter, *http.Request) {
		done := make(chan struct{})
		go close(done)
		<-done
	})
	// The mux sets the pattern, so the guard stands inside it.
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		r.Pattern = pattern
		g.Handler(h).ServeHTTP(w, r)
	}))
	defer s.Close()
	var clients sync.WaitGroup
	for c := range 8 {
		clients.Go(func() {
			for i := range 25 {
				for _, path := range []string{fmt.Sprintf("/leaky/%d-%d", c, i), "/fine"} {
					if res, err := http.Get(s.URL + path); err == nil {
						res.Body.Close()
					}
				}
			}
		})
	}
	clients.Wait()
	leaks := check(g, func(l []guard.Leak) bool { return atAbandon(l) >= 200 })
	if len(leaks) != 1 || leaks[0].Route != "GET /leaky/{id}" || leaks[0].Goroutines != 200 || leaks[0].Requests != 200 {
		t.Fatalf("%v", leaks)
	}
	if !strings.Contains(leaks[0].String(), "guard_test.abandon") {
		t.Error(leaks[0].String())
	}
	if s := g.Stats(); s.Watched != 400 || s.Leaked["GET /leaky/{id}"] != 200 || len(s.Leaked) != 1 {
		t.Errorf("%+v", s)
	}
	close(stop)
	http.DefaultClient.CloseIdleConnections()
}

func TestGuard_WhatIsMeantToLiveOnIsNoLeak(t *testing.T) {
	t.Parallel()
	g := newGuard(t, all)
	stop := make(chan struct{})
	defer close(stop)
	var once sync.Once
	for range 10 {
		done := g.Watch(t.Context(), "route")
		begun := make(chan struct{})
		guard.Detached(func() {
			close(begun)
			abandon(stop)
		})
		<-begun
		once.Do(func() { go abandon(stop) }) // one request's alone
		done()
	}
	if leaks := g.Check(); len(leaks) != 0 {
		t.Fatalf("%v", leaks)
	}
}

func TestGuard_WhatEndsWithinItsGraceIsNoLeak(t *testing.T) {
	t.Parallel()
	cfg := all
	cfg.Grace = time.Hour
	g := newGuard(t, cfg)
	stop := make(chan struct{})
	defer close(stop)
	for range 5 {
		done := g.Watch(t.Context(), "route")
		go abandon(stop)
		done()
	}
	if leaks := g.Check(); len(leaks) != 0 {
		t.Fatalf("%v", leaks)
	}
}

func TestGuard_AlertsByItselfAndLeavesATrace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	got := make(chan guard.Leak, 10)
	cfg := guard.Config{Sample: 1, Grace: time.Millisecond, Every: 5 * time.Millisecond, TraceDir: dir, OnLeak: func(l guard.Leak) { got <- l }}
	g := newGuard(t, cfg)
	stop := make(chan struct{})
	defer close(stop)
	for range 3 {
		done := g.Watch(t.Context(), "import")
		go abandon(stop)
		done()
	}
	if l := <-got; l.Route != "import" {
		t.Fatalf("%v", l)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	if _, err := guard.New(guard.Config{TraceDir: dir + "/none"}); err == nil {
		t.Error("a folder that is not there is accepted")
	}
}

func TestGuard_AlertsOnceInAWhile(t *testing.T) {
	t.Parallel()
	cfg := all
	cfg.AlertEvery = time.Hour
	g := newGuard(t, cfg)
	stop := make(chan struct{})
	defer close(stop)
	for range 3 {
		done := g.Watch(t.Context(), "route")
		go abandon(stop)
		done()
	}
	check(g, func(l []guard.Leak) bool { return atAbandon(l) > 0 })
	if again := g.Check(); atAbandon(again) != 0 {
		t.Errorf("alerted twice within AlertEvery: %v", again)
	}
}

func TestGuard_SeveralMayLookAtOnce(t *testing.T) {
	t.Parallel()
	g := newGuard(t, all)
	var looking sync.WaitGroup
	for range 4 {
		looking.Go(func() {
			for range 100 {
				stop := make(chan struct{})
				done := g.Watch(t.Context(), "route")
				go abandon(stop)
				done()
				g.Check()
				close(stop)
			}
		})
	}
	looking.Wait()
	check(g, func([]guard.Leak) bool { return len(g.Check()) == 0 })
}

func TestGuard_SamplesItsShareAndNilWatchesNothing(t *testing.T) {
	t.Parallel()
	cfg := all
	cfg.Sample = 0.01
	g := newGuard(t, cfg)
	for range 20_000 {
		if done := g.Watch(t.Context(), "route"); done != nil {
			done()
		}
	}
	// 200 are expected; 100 off is beyond seven standard deviations.
	if n := g.Stats().Watched; n < 100 || n > 300 {
		t.Errorf("%d of 20000 watched", n)
	}
	var none *guard.Guard
	if none.Watch(t.Context(), "route") != nil || none.Stats().Watched != 0 {
		t.Error("nil watches")
	}
	none.Close()
}

// The types of gRPC, as its interceptors have them.
type (
	unaryInfo    struct{ FullMethod string }
	unaryHandler func(ctx context.Context, req any) (any, error)
	stream       interface{ Context() context.Context }
	streamFor    struct{ ctx context.Context }
	streamInfo   struct{ FullMethod string }
	handler      func(srv any, s stream) error
)

func (s streamFor) Context() context.Context { return s.ctx }

func TestGuard_InterceptsGRPC(t *testing.T) {
	t.Parallel()
	g := newGuard(t, all)
	stop := make(chan struct{})
	defer close(stop)
	unary := guard.UnaryServer[unaryInfo, unaryHandler](g)
	streams := guard.StreamServer[stream, streamInfo, handler](g)
	for range 2 {
		answer, err := unary(t.Context(), "q", &unaryInfo{"/shop.Orders/Place"}, func(context.Context, any) (any, error) {
			go abandon(stop)
			return "a", nil
		})
		if answer != "a" || err != nil {
			t.Fatal(answer, err)
		}
		if err := streams(nil, streamFor{t.Context()}, &streamInfo{"/shop.Orders/Watch"}, func(any, stream) error {
			go abandon(stop)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	leaks := check(g, func(l []guard.Leak) bool { return atAbandon(l) >= 4 })
	if len(leaks) != 2 || leaks[0].Route != "/shop.Orders/Place" || leaks[1].Route != "/shop.Orders/Watch" {
		t.Fatalf("%v", leaks)
	}
}

// fakeTB collects what Verify says.
type fakeTB struct {
	cleanup func()
	errors  []string
}

func (*fakeTB) Helper()            {}
func (f *fakeTB) Cleanup(c func()) { f.cleanup = c }
func (f *fakeTB) Errorf(format string, args ...any) {
	f.errors = append(f.errors, fmt.Sprintf(format, args...))
}

func TestVerify_FailsTheTestThatLeaksAndNoOther(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	defer close(stop)
	leaky, clean := &fakeTB{}, &fakeTB{}
	var both sync.WaitGroup
	both.Go(func() {
		guard.Verify(leaky)
		go abandon(stop)
		leaky.cleanup()
	})
	both.Go(func() {
		guard.Verify(clean)
		done := make(chan struct{})
		go close(done)
		<-done
		clean.cleanup()
	})
	both.Wait()
	if len(leaky.errors) != 1 || !strings.Contains(leaky.errors[0], "abandon") || len(clean.errors) != 0 {
		t.Fatalf("leaky: %v, clean: %v", leaky.errors, clean.errors)
	}
}

// TestTestMain_FailsAPackageThatLeaks runs this very test binary again, with a test that
// leaves a goroutine.
func TestTestMain_FailsAPackageThatLeaks(t *testing.T) {
	t.Parallel()
	if os.Getenv("GUARD_LEAK") != "" {
		go abandon(make(chan struct{}))
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestTestMain_FailsAPackageThatLeaks$")
	cmd.Env = append(os.Environ(), "GUARD_LEAK=1")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "guard_test.abandon") {
		t.Fatalf("%v\n%s", err, out)
	}
}
