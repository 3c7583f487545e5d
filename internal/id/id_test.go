package id_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstockhq/penstock/internal/id"
)

func TestNew_SortsByTimeAndRoundTrips(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ms := rapid.Int64Range(0, 1<<47).Draw(t, "ms")
		later := ms + rapid.Int64Range(1, 1<<40).Draw(t, "later")
		a, b := id.New(id.Order, time.UnixMilli(ms)), id.New(id.Order, time.UnixMilli(later))
		if a >= b {
			t.Fatalf("%s of %d is not before %s of %d", a, ms, b, later)
		}
		raw, err := id.Bytes(id.Order, a)
		if err != nil || id.FromBytes(id.Order, raw) != a {
			t.Fatalf("%s does not round-trip: %v", a, err)
		}
	})
}

func TestBytes_RefusesWhatIsNotAnID(t *testing.T) {
	t.Parallel()
	good := id.New(id.Order, time.Now())
	for _, bad := range []string{
		"", "ord_", good[4:], "rsv_" + good[4:], good + "0", good[:29], "ord_" + "8ZZZZZZZZZZZZZZZZZZZZZZZZZ",
		"ord_01arz3ndektsv4rrffq69g5fav", "ord_01ARZ3NDEKTSV4RRFFQ69G5F!!",
	} {
		if _, err := id.Bytes(id.Order, bad); err == nil {
			t.Errorf("%q was taken for an order's ID", bad)
		}
	}
}

func TestNumbered_IsTheSameEveryTimeAndInOrder(t *testing.T) {
	t.Parallel()
	at := time.UnixMilli(1_700_000_000_000)
	a, again, b := id.Numbered(id.Event, at, 1, 7), id.Numbered(id.Event, at, 1, 7), id.Numbered(id.Event, at, 1, 8)
	if a != again || a >= b {
		t.Fatalf("got %s, %s, %s", a, again, b)
	}
}
