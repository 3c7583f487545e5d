package chansend

import (
	"context"
	"errors"
	"time"
)

func work() int { return 1 }

func timesOut() int {
	ch := make(chan int)
	go func() {
		ch <- work() // want `chan-send: the receiver of ch can return before this send`
	}()
	select {
	case v := <-ch:
		return v
	case <-time.After(time.Second):
		return 0
	}
}

func returnsEarly(fail bool) (int, error) {
	ch := make(chan int)
	go func() { ch <- work() }() // want `chan-send: the receiver of ch`
	if fail {
		return 0, errors.New("no")
	}
	return <-ch, nil
}

func hasRoom(ctx context.Context) int {
	ch := make(chan int, 1)
	go func() { ch <- work() }()
	select {
	case v := <-ch:
		return v
	case <-ctx.Done():
		return 0
	}
}

func senderGivesUp(ctx context.Context) int {
	ch := make(chan int)
	go func() {
		select {
		case ch <- work():
		case <-ctx.Done():
		}
	}()
	select {
	case v := <-ch:
		return v
	case <-ctx.Done():
		return 0
	}
}

func alwaysReceives() int {
	ch := make(chan int)
	go func() { ch <- work() }()
	return <-ch
}

func waitsOn(tick <-chan time.Time) int {
	ch := make(chan int)
	go func() { ch <- work() }()
	for {
		select {
		case v := <-ch:
			return v
		case <-tick:
		}
	}
}

func handsOn(use func(chan int)) {
	ch := make(chan int)
	go func() { ch <- work() }()
	use(ch)
}

func fallsOut() {
	ch := make(chan int)
	go func() {
		ch <- work() // want `chan-send: the receiver of ch`
	}()
	select {
	case <-ch:
	case <-time.After(time.Second):
	}
}

func peeks() int {
	ch := make(chan int)
	go func() { ch <- work() }()
	select {
	case v := <-ch:
		return v
	default:
	}
	return <-ch
}
