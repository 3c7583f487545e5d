package event_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstockhq/penstock/internal/event"
	"github.com/penstockhq/penstock/internal/fault"
)

// memory is a log in memory.
type memory []event.Numbered

func (m memory) Read(_ context.Context, after uint64, limit int) ([]event.Numbered, error) {
	rest := m[min(after, uint64(len(m))):]
	return rest[:min(limit, len(rest))], nil
}

func draw(t *rapid.T, name string) memory {
	var m memory
	for i := range rapid.IntRange(0, 20).Draw(t, name) {
		at := time.UnixMilli(rapid.Int64Range(0, 50).Draw(t, "at"))
		m = append(m, event.Numbered{Seq: uint64(i + 1), Event: event.Event{ID: fmt.Sprintf("%s%d", name, i), Time: at}})
	}
	return m
}

func TestRead_AnyPagingTellsEveryEventOnceAndEachLogInOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t, "a"), draw(t, "b")
		feed := event.NewFeed(a, b)
		next, told := map[byte]int{}, 0
		after := ""
		for {
			page, cursor, err := feed.Read(t.Context(), after, rapid.IntRange(1, 7).Draw(t, "limit"))
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			if page[len(page)-1].Cursor != cursor {
				t.Fatal("the cursor of the last event is not that of the page")
			}
			for _, e := range page {
				if want := fmt.Sprintf("%c%d", e.ID[0], next[e.ID[0]]); e.ID != want {
					t.Fatalf("got %s, want %s", e.ID, want)
				}
				next[e.ID[0]]++
				told++
			}
			// Going on after any event of the page gives the same as going on after the page.
			after = page[rapid.IntRange(0, len(page)-1).Draw(t, "resume")].Cursor
			for range page {
				if page[len(page)-1].Cursor == after {
					break
				}
				told--
				last := page[len(page)-1]
				next[last.ID[0]]--
				page = page[:len(page)-1]
			}
		}
		if told != len(a)+len(b) {
			t.Fatalf("told %d of %d events", told, len(a)+len(b))
		}
	})
}

func TestRead_RefusesACursorThatIsNotItsOwn(t *testing.T) {
	t.Parallel()
	feed := event.NewFeed(memory{}, memory{})
	for _, bad := range []string{"x", "AAAAAA", "!!", "ord_1"} {
		if _, _, err := feed.Read(t.Context(), bad, 10); !fault.Is(err, fault.InvalidRequest) {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}

func TestWait_IsWokenByNotify(t *testing.T) {
	t.Parallel()
	feed := event.NewFeed(memory{})
	woken := make(chan error, 1)
	go func() { woken <- feed.Wait(t.Context(), time.Hour) }()
	for {
		feed.Notify()
		select {
		case err := <-woken:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
		}
	}
}
