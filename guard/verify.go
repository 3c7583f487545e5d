package guard

import (
	"context"
	"fmt"
	"os"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// TB is the part of testing.TB that Verify needs.
type TB interface {
	Helper()
	Cleanup(f func())
	Errorf(format string, args ...any)
}

// testIDs are far from those of requests.
var testIDs atomic.Uint64 //nolint:gochecknoglobals // labels are of the process

const firstTestID = 1 << 63

// Verify fails a test whose goroutines outlive it. It is to be called first in the test,
// and is right for tests that run in parallel: each answers for its own goroutines alone.
// After the test they have two seconds to end; ignore lists beginnings of names of
// functions that may stay.
func Verify(t TB, ignore ...string) {
	t.Helper()
	id := firstTestID + testIDs.Add(1)
	pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels(label, strconv.FormatUint(id, 10))))
	t.Cleanup(func() {
		t.Helper()
		pprof.SetGoroutineLabels(context.Background())
		for _, left := range await(2*time.Second, ignore, func(gr group) bool { return gr.request == id }) {
			t.Errorf("%d goroutines outlive the test:\n\t%s", left.count, strings.Join(left.stack, "\n\t"))
		}
	})
}

// TestMain runs the tests of a package, each goroutine of which is to end with them, and
// exits:
//
//	func TestMain(m *testing.M) { guard.TestMain(m) }
//
// ignore lists beginnings of names of functions that may stay.
func TestMain(m interface{ Run() int }, ignore ...string) {
	const id = uint64(firstTestID)
	pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels(label, strconv.FormatUint(id, 10))))
	code := m.Run()
	pprof.SetGoroutineLabels(context.Background())
	left := await(2*time.Second, ignore, func(gr group) bool { return gr.request >= firstTestID })
	for _, gr := range left {
		fmt.Fprintf(os.Stderr, "guard: %d goroutines outlive the tests:\n\t%s\n", gr.count, strings.Join(gr.stack, "\n\t"))
	}
	if code == 0 && len(left) > 0 {
		code = 1
	}
	os.Exit(code)
}

// await waits until no goroutine of a kind is left, and returns those that are.
func await(limit time.Duration, ignore []string, of func(group) bool) []group {
	ignored := func(frame string) bool {
		return slices.ContainsFunc(ignore, func(p string) bool { return strings.HasPrefix(frame, p) })
	}
	begin := time.Now()
	for wait := time.Millisecond; ; wait *= 2 {
		groups, err := labelled()
		if err != nil {
			return []group{{stack: []string{err.Error()}}}
		}
		groups = slices.DeleteFunc(groups, func(gr group) bool { return !of(gr) || slices.ContainsFunc(gr.stack, ignored) })
		if len(groups) == 0 || time.Since(begin) > limit {
			return groups
		}
		time.Sleep(wait)
	}
}
