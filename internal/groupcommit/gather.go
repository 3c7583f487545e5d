package groupcommit

import (
	"runtime"
	"time"
)

// This file lets a batch grow before it is taken. Callers that ask again and again would
// otherwise fall into two halves, one of which waits while the other is committed. So a
// small batch waits until as many have come as waited or were answered with the one before,
// or until none has come for a twentieth of what that one took, at most a millisecond. It
// pays where a batch has a price of its own, as a round trip has, and few share it. A lone
// request loses no time, nor does the first after a pause.

// last is what was so when a batch was answered.
type last struct {
	expect int // its requests and those that waited
	took   time.Duration
	at     time.Time
}

// maxPatience bounds the wait for the next who comes, after a commit that took long.
const maxPatience = time.Millisecond

// expect notes, before a batch is answered, who may come next.
func (b *Batcher[Req, Res]) expect(f *flight[Req, Res]) {
	if b.cfg.Gather > 0 {
		b.last.Store(&last{b.Queued() + f.requests, f.stats.Apply + f.stats.Commit, time.Now()})
	}
}

// gather gives way to others until as many as are expected wait, or no more come; see
// Config.Gather.
func (b *Batcher[Req, Res]) gather() {
	last := b.last.Load()
	if last == nil || time.Since(last.at) > last.took {
		return // who comes now was not answered just now
	}
	expect := min(last.expect, b.cfg.Gather, b.cfg.MaxBatch)
	patience := min(last.took/20, maxPatience)
	for waiting, since := b.Queued(), time.Now(); waiting > 0 && waiting < expect && time.Since(since) < patience; {
		runtime.Gosched()
		if now := b.Queued(); now != waiting {
			waiting, since = now, time.Now()
		}
	}
}
