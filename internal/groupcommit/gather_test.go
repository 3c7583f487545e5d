package groupcommit_test

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstockhq/penstock/internal/groupcommit"
)

// halves makes a batch of the first four requests, which takes a second, while the other
// four wait; it ends as the batch after it is taken. Those of the first who come again do
// so as soon as they are answered.
func halves(t *testing.T, gather int, again bool) (next []int) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{commits: make(chan *commit, 10)}
		b := start(t, groupcommit.Config{InFlight: 1, Gather: gather}, s)
		answers := []<-chan answer{submit(t.Context(), b, 0)}
		idle := <-s.commits
		var callers sync.WaitGroup
		for i := 1; i <= 4; i++ {
			callers.Go(func() {
				_, err := b.Submit(t.Context(), i)
				if again && err == nil {
					_, err = b.Submit(t.Context(), 10+i)
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		idle.end <- nil
		half := <-s.commits
		for i := 5; i <= 8; i++ {
			answers = append(answers, submit(t.Context(), b, i))
		}
		synctest.Wait()
		time.Sleep(time.Second)
		half.end <- nil
		(<-s.commits).end <- nil
		next = slices.Clone(s.batches[2])
		if again && len(next) < 8 {
			(<-s.commits).end <- nil
		}
		callers.Wait()
		for _, a := range answers {
			if got := <-a; got.err != nil {
				t.Error(got.err)
			}
		}
	})
	slices.Sort(next)
	return next
}

func TestGather_ABatchWaitsForThoseWhoWereAnsweredJustNow(t *testing.T) {
	t.Parallel()
	if got, want := halves(t, 64, true), []int{5, 6, 7, 8, 11, 12, 13, 14}; !slices.Equal(got, want) {
		t.Errorf("with gathering the next batch has %v, want %v", got, want)
	}
}

func TestGather_ABatchOfEnoughRequestsDoesNotWait(t *testing.T) {
	t.Parallel()
	// Nobody comes again, and time stands still while others run: waiting would not end.
	if got, want := halves(t, 4, false), []int{5, 6, 7, 8}; !slices.Equal(got, want) {
		t.Errorf("the next batch has %v, want %v", got, want)
	}
}

func TestGather_AfterAPauseALoneRequestGoesAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &store{commits: make(chan *commit, 10)}
		b := start(t, groupcommit.Config{InFlight: 1, Gather: 64}, s)
		many := make(chan error, 1)
		go func() {
			_, err := b.SubmitAll(t.Context(), []int{1, 2, 3, 4, 5, 6, 7, 8})
			many <- err
		}()
		c := <-s.commits
		time.Sleep(time.Second)
		c.end <- nil
		if err := <-many; err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		lone := submit(t.Context(), b, 9)
		(<-s.commits).end <- nil // it would never come: time stands still while others run
		if got := <-lone; got.err != nil {
			t.Error(got.err)
		}
	})
}

func TestGather_WhoDoesNotComeAgainIsNotWaitedForLong(t *testing.T) {
	t.Parallel()
	s := &store{commits: make(chan *commit, 10)}
	b := start(t, groupcommit.Config{InFlight: 1, Gather: 64}, s)
	first := submit(t.Context(), b, 0)
	c := <-s.commits
	second := submit(t.Context(), b, 1)
	for b.Queued() == 0 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond) // so that there is patience to lose
	c.end <- nil
	(<-s.commits).end <- nil // it would never come
	for i, a := range []<-chan answer{first, second} {
		if got := <-a; got.err != nil || got.res != i {
			t.Errorf("request %d got %v", i, got)
		}
	}
}
