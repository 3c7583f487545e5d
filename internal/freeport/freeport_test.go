package freeport

import (
	"errors"
	"net"
	"os"
	"sync"
	"testing"
)

func TestTake_NobodyIsGivenThePortOfAnother(t *testing.T) {
	t.Parallel()
	const holders, each = 8, 25
	var mu sync.Mutex
	held := map[int]bool{}
	var wg sync.WaitGroup
	for range holders {
		wg.Go(func() {
			for range each {
				p, err := Take()
				if err != nil {
					t.Error(err)
					return
				}
				t.Cleanup(func() {
					if err := p.Release(); err != nil {
						t.Error(err)
					}
				})
				mu.Lock()
				if held[p.Number()] {
					t.Errorf("port %d was given twice", p.Number())
				}
				held[p.Number()] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

func TestTake_AnotherMayListenOnIt(t *testing.T) {
	t.Parallel()
	p, err := Take()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", p.Address())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.Release(), l.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestTake_GoesPastPortsThatAreHeldOrListenedOn(t *testing.T) {
	t.Parallel()
	// Below those that other tests take meanwhile.
	var aside []int
	for number := lowest - 2000; number < lowest; number++ {
		aside = append(aside, number)
	}
	var ports [3]*Port
	for i := range ports {
		var err error
		if ports[i], err = first(aside); err != nil {
			t.Fatal(err)
		}
	}
	held, listened, free := ports[0], ports[1], ports[2]
	l, err := net.Listen("tcp", listened.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := errors.Join(listened.Release(), free.Release()); err != nil {
		t.Fatal(err)
	}
	p, err := first([]int{held.Number(), listened.Number(), free.Number()})
	if err != nil {
		t.Fatal(err)
	}
	if p.Number() != free.Number() {
		t.Errorf("%d was taken, %d is free", p.Number(), free.Number())
	}
	if _, err := first([]int{held.Number(), listened.Number(), free.Number()}); err == nil {
		t.Error("a port was found where none is free")
	}
	// What was released may be taken again, and a claim that failed is none.
	if err := errors.Join(held.Release(), p.Release(), l.Close()); err != nil {
		t.Fatal(err)
	}
	for _, was := range ports {
		again, err := take(was.Number())
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Release(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTake_KeepsOutOfTheRangeOfOutgoingConnections(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		ephemeral string
		low, high int
	}{
		{"32768\t60999\n", 15_000, 32_767},
		{"20000\t60999\n", 15_000, 19_999},
		{"1024\t60999\n", 61_000, 65_535},
		{"15500\t60999\n", 61_000, 65_535},
		{"49152\t65535\n", 15_000, 32_767},
		{"1024\t65535\n", 15_000, 32_767},
		{"", 15_000, 32_767},
		{"none", 15_000, 32_767},
	} {
		if low, high := bounds(c.ephemeral); low != c.low || high != c.high {
			t.Errorf("bounds(%q) = %d, %d; want %d, %d", c.ephemeral, low, high, c.low, c.high)
		}
	}
	raw, err := os.ReadFile(rangeFile)
	if err != nil {
		t.Skip(err)
	}
	low, high := bounds(string(raw))
	p, err := Take()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	if p.Number() < low || p.Number() > high {
		t.Errorf("port %d is not between %d and %d", p.Number(), low, high)
	}
}
