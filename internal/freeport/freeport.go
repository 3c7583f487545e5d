// Package freeport finds ports of loopback for servers that other programs start, such as
// a private PostgreSQL, which must be told a number before they can listen on it.
//
// A port that was bound on ":0" and closed again is free only for a moment: the system
// gives such numbers to outgoing connections of everybody, and may give that one to the
// next. A Port lies below the range of which the system takes those, and is the claim of
// one holder, in whatever process, until it is released.
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
)

const (
	lowest = 15_000
	// highest lies below what Linux (32768), macOS and Windows (49152) take by default.
	highest = 32_767
	// rangeFile tells of which ports Linux takes those for outgoing connections.
	rangeFile = "/proc/sys/net/ipv4/ip_local_port_range"
)

// Port is a port of 127.0.0.1 that nobody else who asks this package is given. Make one
// with Take, end it with Release.
type Port struct {
	number int
	// claim is the UDP port of the same number. It keeps others from this one while no
	// server listens, for as long as the process lives and no longer.
	claim net.PacketConn
}

// Take finds a port on which nobody listens. It fails when there is none, or when the
// process may not open a socket.
func Take() (*Port, error) {
	raw, _ := os.ReadFile(rangeFile) // elsewhere there is none
	low, high := bounds(string(raw))
	numbers := rand.Perm(high - low + 1)
	for i := range numbers {
		numbers[i] += low
	}
	return first(numbers)
}

// bounds are the lowest and the highest port to take, where the system takes those of
// outgoing connections from that range.
func bounds(ephemeral string) (low, high int) {
	var from, to int
	if _, err := fmt.Sscan(ephemeral, &from, &to); err != nil || from > highest {
		return lowest, highest
	}
	if from >= lowest+1000 {
		return lowest, from - 1
	}
	if to <= 65_535-1000 {
		return to + 1, 65_535
	}
	return lowest, highest // all may be taken for them; most are free
}

func first(numbers []int) (*Port, error) {
	var last error
	for _, number := range numbers {
		p, err := take(number)
		if err == nil {
			return p, nil
		}
		last = err
	}
	return nil, fmt.Errorf("find a free port: none of %d is free: %w", len(numbers), last)
}

func take(number int) (*Port, error) {
	address := fmt.Sprintf("127.0.0.1:%d", number)
	claim, err := net.ListenPacket("udp", address) //nolint:noctx // a number needs no look-up
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", address) //nolint:noctx // a number needs no look-up
	if err != nil {
		return nil, errors.Join(err, claim.Close())
	}
	if err := l.Close(); err != nil {
		return nil, errors.Join(err, claim.Close())
	}
	return &Port{number: number, claim: claim}, nil
}

// Number is the port's number.
func (p *Port) Number() int { return p.number }

// Address is where a server of the port is reached.
func (p *Port) Address() string { return fmt.Sprintf("127.0.0.1:%d", p.number) }

// Release gives the port back; what listens on it goes on listening. Once is enough, more
// do no harm.
func (p *Port) Release() error {
	if err := p.claim.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("give port %d back: %w", p.number, err)
	}
	return nil
}
