package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/maruel/panicparse/v2/stack"

	"github.com/penstockhq/penstock/guard"
	"github.com/penstockhq/penstock/internal/doctor"
	"github.com/penstockhq/penstock/internal/doctor/goroutine"
)

// dumpOf prints n goroutines as the runtime does, in distinct stacks of eight frames.
func dumpOf(n, distinct int) []byte {
	var b bytes.Buffer
	states := []string{"chan receive", "select, 3 minutes", "IO wait", "chan send, 12 minutes", "sync.Mutex.Lock"}
	for i := range n {
		d := i % distinct
		fmt.Fprintf(&b, "goroutine %d [%s]:\n", i+10, states[d%len(states)])
		for f := range 8 {
			fmt.Fprintf(&b, "example.com/shop/internal/service%d.(*handler).step%d(0xc%09x, {0x%x, 0x%x}, 0x%x)\n\t/home/shop/src/internal/service%d/step%d.go:%d +0x%x\n", d%50, f, i*64, i, f, d, d%50, f, 10+d, 29+f)
		}
		fmt.Fprintf(&b, "created by example.com/shop/internal/service%d.(*server).accept in goroutine %d\n\t/home/shop/src/internal/service%d/server.go:%d +0x1a5\n\n", d%50, 9, d%50, 40+d%7)
	}
	return b.Bytes()
}

// doctorExperiment reads and groups one dump of very many goroutines.
func doctorExperiment(ctx context.Context, o options) error {
	n := o.scale(100_000, 2_000)
	text := dumpOf(n, 500)
	best := func(times int, f func() (int, error)) (time.Duration, int, error) {
		least, groups := time.Duration(0), 0
		for range times {
			if ctx.Err() != nil {
				return 0, 0, ctx.Err()
			}
			runtime.GC()
			begin := time.Now()
			g, err := f()
			if err != nil {
				return 0, 0, err
			}
			if took := time.Since(begin); least == 0 || took < least {
				least, groups = took, g
			}
		}
		return least, groups, nil
	}
	ours, groups, err := best(o.scale(5, 1), func() (int, error) {
		d, err := goroutine.Read(bytes.NewReader(text))
		if err != nil {
			return 0, err
		}
		c := &doctor.Capture{Window: time.Minute, Dumps: []doctor.Dump{{Goroutines: d.Goroutines}, {At: time.Minute, Goroutines: d.Goroutines}}}
		doctor.Analyse(c, "")
		return d.Stacks, nil
	})
	if err != nil {
		return err
	}
	// Its time grows faster than the dump: all 100,000 take it more than ten minutes.
	few := o.scale(2_000, 500)
	part := dumpOf(few, 500)
	theirs, buckets, err := best(1, func() (int, error) {
		s, _, err := stack.ScanSnapshot(bytes.NewReader(part), io.Discard, &stack.Opts{})
		if err != nil && err != io.EOF { //nolint:errorlint // the package returns it bare
			return 0, err
		}
		return len(s.Aggregate(stack.ExactLines).Buckets), nil
	})
	if err != nil {
		return err
	}
	each := func(took time.Duration, n int) float64 { return took.Seconds() / float64(n) }
	row := func(name string, n, size int, took time.Duration, groups int) []string {
		return []string{name, count(float64(n)), fmt.Sprintf("%.1f", float64(size)/1e6), fmt.Sprintf("%.3f", took.Seconds()), count(float64(groups)), fmt.Sprintf("%.1f", each(theirs, few)/each(took, n))}
	}
	table([]string{"reader", "goroutines", "MB", "seconds", "groups", "goroutines a second ÷ panicparse's"}, [][]string{
		row("doctor: read once, grouped and judged as two dumps", n, len(text), ours, groups),
		row("panicparse v2: ScanSnapshot and Aggregate", few, len(part), theirs, buckets),
	})
	return nil
}

// guardExperiment measures what watching costs a request, against what net/http takes for
// an empty one.
func guardExperiment(ctx context.Context, o options) error {
	empty := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	each := func(h http.Handler) (time.Duration, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
		if err != nil {
			return 0, err
		}
		w := httptest.NewRecorder()
		n, begin := 0, time.Now()
		for time.Since(begin) < o.took/2 {
			for range 1000 {
				h.ServeHTTP(w, req)
			}
			n += 1000
		}
		return time.Since(begin) / time.Duration(n), nil
	}
	over, err := overLoopback(ctx, empty, o.took/2)
	if err != nil {
		return err
	}
	bare, err := each(empty)
	if err != nil {
		return err
	}
	rows := [][]string{{"net/http, an empty request over loopback", fmt.Sprint(over.Nanoseconds()), ""}}
	g, err := guard.New(guard.Config{Grace: time.Millisecond, Every: 100 * time.Millisecond})
	if err != nil {
		return err
	}
	sampled, err := each(g.Handler(empty))
	g.Close()
	if err != nil {
		return err
	}
	watched, err := oneWatched()
	if err != nil {
		return err
	}
	for _, r := range []struct {
		name string
		took time.Duration
	}{
		{"guard at 1 %, on each request", max(0, sampled-bare)},
		{"guard, on a request that is watched", watched},
	} {
		rows = append(rows, []string{r.name, fmt.Sprint(r.took.Nanoseconds()), fmt.Sprintf("%.2f %%", 100*float64(r.took)/float64(over))})
	}
	look, err := oneLook(o.scale(10_000, 500))
	if err != nil {
		return err
	}
	rows = append(rows, look)
	table([]string{"what", "ns", "of an empty request"}, rows)
	return nil
}

func overLoopback(ctx context.Context, h http.Handler, took time.Duration) (time.Duration, error) {
	s := httptest.NewServer(h)
	defer s.Close()
	n, begin := 0, time.Now()
	for time.Since(begin) < took {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
		if err != nil {
			return 0, err
		}
		res, err := s.Client().Do(req)
		if err != nil {
			return 0, err
		}
		if err := res.Body.Close(); err != nil {
			return 0, err
		}
		n++
	}
	return time.Since(begin) / time.Duration(n), nil
}

// oneWatched measures Watch and its end where chance has chosen. A Guard remembers so many
// ended requests until it looks, so that each takes its part in a new one.
func oneWatched() (time.Duration, error) {
	const each, guards = 5_000, 20
	var total time.Duration
	for range guards {
		g, err := guard.New(guard.Config{Sample: 1, Every: time.Hour})
		if err != nil {
			return 0, err
		}
		begin := time.Now()
		for range each {
			g.Watch(context.Background(), "route")()
		}
		total += time.Since(begin)
		g.Close()
	}
	return total / (each * guards), nil
}

// oneLook measures a look for leaks among n goroutines, of which one is left by a request.
func oneLook(n int) ([]string, error) {
	g, err := guard.New(guard.Config{Sample: 1, Grace: time.Nanosecond, Every: time.Hour, MinRequests: 1, AlertEvery: time.Nanosecond})
	if err != nil {
		return nil, err
	}
	defer g.Close()
	stop := make(chan struct{})
	var waiting sync.WaitGroup
	for range n {
		waiting.Go(func() { <-stop })
	}
	done := g.Watch(context.Background(), "route")
	waiting.Go(func() { <-stop })
	done()
	runtime.Gosched()
	begin := time.Now()
	leaks := g.Check()
	took := time.Since(begin)
	close(stop)
	waiting.Wait()
	if len(leaks) != 1 || !strings.Contains(leaks[0].Route, "route") {
		return nil, fmt.Errorf("the look found %v", leaks)
	}
	return []string{fmt.Sprintf("one look among %s goroutines, every 10 s", count(float64(n))), fmt.Sprint(took.Nanoseconds()), ""}, nil
}
