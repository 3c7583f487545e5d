package gateway

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// shedder refuses a share of new work while requests wait too long before anything of
// ours runs. Most of that wait is in the kernel's list of connections that have
// something to read, where no count of requests in flight and no runtime metric sees
// it. So a probe goes the same way: a byte through a pipe, whose reader the runtime
// wakes in turn with the connections. How late it arrives is how long requests wait.
//
// The share is what brings the wait back towards the target if work is taken as
// 1 − share of what comes: 1 − target/wait, smoothed, and at most maxShed, so that a
// wait which refusals cannot cure (of a busy neighbour, say) still lets work through.
type shedder struct {
	target  time.Duration
	share   atomic.Uint64 // math.Float64bits
	wait    atomic.Int64  // the newest probe's, in nanoseconds
	in, out *os.File
	begin   time.Time // the probes' times count from here
	stop    chan struct{}
	once    sync.Once
	running sync.WaitGroup
}

const (
	probeEvery = 10 * time.Millisecond
	maxShed    = 0.8
	shedSmooth = 0.2 // weight of the newest probe
)

// startShedder starts the two goroutines of a shedder; close ends them.
func startShedder(target time.Duration) (*shedder, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("open the pipe that measures how long requests wait: %w", err)
	}
	s := &shedder{target: target, in: in, out: out, begin: time.Now(), stop: make(chan struct{})}
	s.running.Go(s.send)
	s.running.Go(s.receive)
	return s, nil
}

// close ends what startShedder began. Closing twice is fine.
func (s *shedder) close() {
	s.once.Do(func() { close(s.stop) })
	s.running.Wait()
}

// send puts the time into the pipe, now and then.
func (s *shedder) send() {
	defer func() { _ = s.in.Close() }() // ends receive, too
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
			var stamp [8]byte
			binary.NativeEndian.PutUint64(stamp[:], uint64(time.Since(s.begin)))
			if _, err := s.in.Write(stamp[:]); err != nil {
				return
			}
		}
	}
}

// receive takes the times out and brings the share up to date.
func (s *shedder) receive() {
	defer func() { _ = s.out.Close() }()
	var stamp [8]byte
	for {
		if _, err := s.out.Read(stamp[:]); err != nil {
			return
		}
		s.learn(time.Since(s.begin) - time.Duration(binary.NativeEndian.Uint64(stamp[:])))
	}
}

// learn brings the share up to date with a probe's wait.
func (s *shedder) learn(wait time.Duration) {
	s.wait.Store(int64(wait))
	want := 0.0
	if wait > s.target {
		want = min(maxShed, 1-float64(s.target)/float64(wait))
	}
	share := s.refused() + shedSmooth*(want-s.refused())
	if share < 0.01 {
		share = 0
	}
	s.share.Store(math.Float64bits(share))
}

// refused is the part of new work that is refused.
func (s *shedder) refused() float64 { return math.Float64frombits(s.share.Load()) }

// newest is how long the newest probe took.
func (s *shedder) newest() time.Duration { return time.Duration(s.wait.Load()) }

// refuses reports whether the request that has just come should be refused.
func (s *shedder) refuses() bool {
	share := s.refused()
	return share > 0 && rand.Float64() < share
}
