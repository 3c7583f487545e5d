package groupcommit_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/penstockhq/penstock/internal/fault"
	"github.com/penstockhq/penstock/internal/groupcommit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store is an Applier whose commits end when the test says so. A request's result is
// the number of requests that were applied before it.
type store struct {
	mu      sync.Mutex
	batches [][]int
	applied int
	commits chan *commit // gets every commit that is begun
	fail    error        // what Apply returns
	panics  bool
}

type commit struct{ end chan error }

func (c *commit) Wait() error { return <-c.end }

func (s *store) Apply(reqs []int, res []int) (groupcommit.Commit, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.panics {
		panic("boom")
	}
	if s.fail != nil {
		return nil, s.fail
	}
	s.batches = append(s.batches, slices.Clone(reqs))
	for i := range reqs {
		res[i] = s.applied
		s.applied++
	}
	if s.commits == nil {
		return nil, nil //nolint:nilnil // nothing to wait for
	}
	c := &commit{make(chan error, 1)}
	s.commits <- c
	return c, nil
}

func start(t *testing.T, cfg groupcommit.Config, s *store) *groupcommit.Batcher[int, int] {
	t.Helper()
	b, err := groupcommit.New(cfg, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return b
}

// answer is what a Submit in the background returned.
type answer struct {
	res int
	err error
}

func submit(ctx context.Context, b *groupcommit.Batcher[int, int], req int) <-chan answer {
	out := make(chan answer, 1)
	go func() {
		res, err := b.Submit(ctx, req)
		out <- answer{res, err}
	}()
	return out
}

func TestSubmit_ALoneRequestGoesAtOnceAndIsAnsweredOnlyWhenDurable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{commits: make(chan *commit, 10)}
		b := start(t, groupcommit.Config{}, s)
		got := submit(t.Context(), b, 7)
		c := <-s.commits // no timer had to fire for it
		synctest.Wait()
		select {
		case a := <-got:
			t.Fatalf("answered %v before its commit was durable", a)
		default:
		}
		c.end <- nil
		if a := <-got; a.err != nil || a.res != 0 {
			t.Fatalf("got %v", a)
		}
	})
}

func TestSubmit_BatchesGrowWhileCommitsAreInFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{commits: make(chan *commit, 10)}
		b := start(t, groupcommit.Config{InFlight: 1, MaxBatch: 3}, s)
		answers := []<-chan answer{submit(t.Context(), b, 0)}
		first := <-s.commits
		for i := 1; i <= 4; i++ {
			answers = append(answers, submit(t.Context(), b, i))
			synctest.Wait()
		}
		first.end <- nil
		(<-s.commits).end <- nil
		(<-s.commits).end <- nil
		for i, a := range answers {
			if got := <-a; got.err != nil || got.res != i {
				t.Fatalf("request %d got %v", i, got)
			}
		}
		if want := [][]int{{0}, {1, 2, 3}, {4}}; !slices.EqualFunc(s.batches, want, slices.Equal) {
			t.Fatalf("got batches %v, want %v", s.batches, want)
		}
	})
}

func TestSubmit_TheNextBatchIsDecidedWhileOneIsFlushedButAnswersKeepTheirOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{commits: make(chan *commit, 10)}
		b := start(t, groupcommit.Config{InFlight: 2}, s)
		one := submit(t.Context(), b, 1)
		first := <-s.commits
		two := submit(t.Context(), b, 2)
		second := <-s.commits
		second.end <- nil
		synctest.Wait()
		select {
		case a := <-two:
			t.Fatalf("%v was answered although what it rests on is not durable", a)
		default:
		}
		first.end <- nil
		if a, c := <-one, <-two; a.err != nil || c.err != nil || c.res != 1 {
			t.Fatalf("got %v and %v", a, c)
		}
	})
}

func TestSubmit_AFullQueueRefusesAtOnceButNotTheSecondStep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{commits: make(chan *commit, 10)}
		b := start(t, groupcommit.Config{InFlight: 1, MaxBatch: 2, MaxQueue: 2}, s)
		answers := []<-chan answer{submit(t.Context(), b, 0)}
		first := <-s.commits
		for i := 1; i <= 2; i++ {
			answers = append(answers, submit(t.Context(), b, i))
		}
		synctest.Wait()
		_, err := b.Submit(t.Context(), 3)
		if !fault.Is(err, fault.Overloaded) || fault.From(err).RetryAfter <= 0 {
			t.Fatalf("got %v", err)
		}
		second := make(chan error, 1)
		go func() {
			_, err := b.Continue(context.Background(), []int{4})
			second <- err
		}()
		synctest.Wait()
		first.end <- nil
		(<-s.commits).end <- nil
		(<-s.commits).end <- nil
		for _, a := range answers {
			if got := <-a; got.err != nil {
				t.Fatal(got.err)
			}
		}
		if err := <-second; err != nil {
			t.Fatal(err)
		}
	})
}

func TestSubmit_ACallerThatGivesUpInTheQueueIsWithdrawn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{commits: make(chan *commit, 10)}
		b := start(t, groupcommit.Config{InFlight: 1}, s)
		first := submit(t.Context(), b, 1)
		c := <-s.commits
		ctx, cancel := context.WithCancel(t.Context())
		gone := submit(ctx, b, 2)
		synctest.Wait()
		cancel()
		if a := <-gone; !errors.Is(a.err, context.Canceled) {
			t.Fatalf("got %v", a)
		}
		if n := b.Queued(); n != 0 {
			t.Fatalf("%d are still queued", n)
		}
		c.end <- nil
		<-first
		last := submit(t.Context(), b, 3)
		(<-s.commits).end <- nil
		<-last
		if want := [][]int{{1}, {3}}; !slices.EqualFunc(s.batches, want, slices.Equal) {
			t.Fatalf("got batches %v, want %v", s.batches, want)
		}
	})
}

func TestSubmit_ACallerThatGivesUpLaterOnlyLosesTheAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{commits: make(chan *commit, 10)}
		b := start(t, groupcommit.Config{}, s)
		ctx, cancel := context.WithCancel(t.Context())
		gone := submit(ctx, b, 1)
		c := <-s.commits
		cancel()
		if a := <-gone; !errors.Is(a.err, context.Canceled) {
			t.Fatalf("got %v", a)
		}
		c.end <- nil
		next := submit(t.Context(), b, 2)
		(<-s.commits).end <- nil
		if a := <-next; a.res != 1 {
			t.Fatal("the abandoned request did not stand")
		}
	})
}

func TestFailure_AnUnknownOutcomeStopsTheBatcherForGood(t *testing.T) {
	t.Parallel()
	broken := errors.New("disk on fire")
	for name, inject := range map[string]func(s *store) error{
		"the commit fails": func(s *store) error { (<-s.commits).end <- broken; return broken },
		"Apply fails":      func(*store) error { return broken },
		"Apply panics":     func(*store) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &store{commits: make(chan *commit, 10)}
				if name == "Apply fails" {
					s.fail = broken
				}
				s.panics = name == "Apply panics"
				b := start(t, groupcommit.Config{}, s)
				first := submit(t.Context(), b, 1)
				want := inject(s)
				a := <-first
				if !fault.Is(a.err, fault.Unavailable) || want != nil && !errors.Is(a.err, want) {
					t.Fatalf("got %v", a.err)
				}
				<-b.Failed()
				if b.Err() == nil {
					t.Fatal("Err says nothing")
				}
				if _, err := b.Submit(t.Context(), 2); !fault.Is(err, fault.Unavailable) {
					t.Fatalf("after the failure: %v", err)
				}
				if err := b.Barrier(t.Context()); !fault.Is(err, fault.Unavailable) {
					t.Fatalf("a read after the failure: %v", err)
				}
			})
		})
	}
}

func TestFailure_BatchesBehindAFailedOneAreNotAcknowledged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{commits: make(chan *commit, 10)}
		b := start(t, groupcommit.Config{InFlight: 2}, s)
		one := submit(t.Context(), b, 1)
		first := <-s.commits
		two := submit(t.Context(), b, 2)
		second := <-s.commits
		three := submit(t.Context(), b, 3)
		second.end <- nil
		first.end <- errors.New("disk on fire")
		for i, a := range []<-chan answer{one, two, three} {
			if got := <-a; !fault.Is(got.err, fault.Unavailable) {
				t.Fatalf("request %d got %v", i+1, got)
			}
		}
	})
}

func TestStop_FinishesWhatIsQueuedAndRefusesTheRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{commits: make(chan *commit, 10)}
		b := start(t, groupcommit.Config{InFlight: 1}, s)
		one := submit(t.Context(), b, 1)
		first := <-s.commits
		two := submit(t.Context(), b, 2)
		synctest.Wait()
		stopped := make(chan error, 1)
		go func() { stopped <- b.Stop(context.Background()) }()
		synctest.Wait()
		if _, err := b.Submit(t.Context(), 3); !fault.Is(err, fault.Unavailable) {
			t.Fatalf("got %v", err)
		}
		first.end <- nil
		(<-s.commits).end <- nil
		if a, c := <-one, <-two; a.err != nil || c.err != nil {
			t.Fatalf("got %v, %v", a, c)
		}
		if err := <-stopped; err != nil {
			t.Fatal(err)
		}
	})
}

func TestStop_ReturnsWhenItsContextEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{commits: make(chan *commit, 1)}
		b := start(t, groupcommit.Config{}, s)
		one := submit(t.Context(), b, 1)
		c := <-s.commits
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		c.end <- nil
		<-one
	})
}

func TestBarrier_WaitsForWhatAReaderMayHaveSeen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{commits: make(chan *commit, 10)}
		b := start(t, groupcommit.Config{}, s)
		if err := b.Barrier(t.Context()); err != nil {
			t.Fatal(err) // nothing is in flight
		}
		one := submit(t.Context(), b, 1)
		c := <-s.commits
		passed := make(chan error, 1)
		go func() { passed <- b.Barrier(t.Context()) }()
		synctest.Wait()
		select {
		case <-passed:
			t.Fatal("a reader was let through before what it saw was durable")
		default:
		}
		c.end <- nil
		<-one
		if err := <-passed; err != nil {
			t.Fatal(err)
		}
	})
}

func TestStall_WaitersAreToldAndWorkGoesOnAfterwards(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{commits: make(chan *commit, 10)}
		b := start(t, groupcommit.Config{StallAfter: 5 * time.Second, InFlight: 1}, s)
		begin := time.Now()
		one := submit(t.Context(), b, 1)
		c := <-s.commits
		two := submit(t.Context(), b, 2)
		for _, a := range []<-chan answer{one, two} {
			if got := <-a; !fault.Is(got.err, fault.Timeout) {
				t.Fatalf("got %v", got)
			}
		}
		if took := time.Since(begin); took != 5*time.Second {
			t.Fatalf("told after %v", took)
		}
		c.end <- nil
		synctest.Wait()
		three := submit(t.Context(), b, 3)
		(<-s.commits).end <- nil
		if got := <-three; got.err != nil {
			t.Fatal(got.err)
		}
		if want := [][]int{{1}, {3}}; !slices.EqualFunc(s.batches, want, slices.Equal) {
			t.Fatalf("got batches %v: what was still queued must be withdrawn", s.batches)
		}
	})
}

func TestSubmitAll_KeepsEachRequestsOwnResult(t *testing.T) {
	t.Parallel()
	s := &store{}
	b := start(t, groupcommit.Config{MaxBatch: 8, MaxQueue: 64 * 20}, s)
	var callers sync.WaitGroup
	seen := make(chan int, 64*20)
	for range 64 {
		callers.Go(func() {
			res, err := b.SubmitAll(context.Background(), make([]int, 20)) // larger than a batch
			if err != nil || len(res) != 20 {
				t.Errorf("got %d results, %v", len(res), err)
			}
			for i, r := range res {
				if r != res[0]+i {
					t.Errorf("results of one call are not its own: %v", res)
				}
				seen <- r
			}
		})
	}
	callers.Wait()
	close(seen)
	all := map[int]bool{}
	for r := range seen {
		all[r] = true
	}
	if len(all) != 64*20 {
		t.Fatalf("%d different results of %d requests", len(all), 64*20)
	}
}

func TestOnBatch_IsToldOfEveryBatch(t *testing.T) {
	t.Parallel()
	total := 0
	done := make(chan struct{})
	s := &store{}
	b, err := groupcommit.New(groupcommit.Config{OnBatch: func(st groupcommit.BatchStats) { total += st.Requests }}, s)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(done)
		for i := range 50 {
			if _, err := b.Submit(context.Background(), i); err != nil {
				t.Error(err)
			}
		}
	}()
	<-done
	if err := b.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	if total != 50 {
		t.Fatalf("told of %d requests", total)
	}
}

func TestNew_RefusesNegativeBounds(t *testing.T) {
	t.Parallel()
	for _, cfg := range []groupcommit.Config{{MaxBatch: -1}, {MaxQueue: -1}, {InFlight: -1}, {StallAfter: -1}, {RetryAfter: -1}, {Gather: -1}} {
		if _, err := groupcommit.New(cfg, &store{}); err == nil {
			t.Errorf("%s was taken", fmt.Sprintf("%+v", cfg))
		}
	}
}
