package app

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
)

// gcPacer sets the garbage collector's target by how much lives: a fixed headroom
// rather than a share. Most of what lives here are tables of SKUs. With few of them, Go's
// default would collect every few megabytes, dozens of times a second under load; with a
// million, it would let the heap grow to twice their size. A headroom costs neither.
//
// It works from the finalizer of an object that dies in every cycle. It leaves
// processes alone whose GOGC or GOMEMLIMIT somebody has set.
type gcPacer struct {
	headroom uint64
	stopped  atomic.Bool
	before   int
}

// Headroom between what lives and the next collection.
const gcHeadroom = 160 << 20

// The percentages that the pacer stays between.
const (
	minGCPercent = 30
	maxGCPercent = 1000
)

// sentinel dies in the next collection, which runs its finalizer.
type sentinel struct{ pacer *gcPacer }

// startGCPacer starts a pacer, nil where the environment has decided already.
func startGCPacer() *gcPacer {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return nil
	}
	p := &gcPacer{headroom: gcHeadroom}
	p.before = debug.SetGCPercent(p.percent())
	p.arm()
	return p
}

// stop restores what was before.
func (p *gcPacer) stop() {
	if p != nil && !p.stopped.Swap(true) {
		debug.SetGCPercent(p.before)
	}
}

func (p *gcPacer) arm() {
	runtime.SetFinalizer(&sentinel{p}, func(s *sentinel) {
		if s.pacer.stopped.Load() {
			return
		}
		debug.SetGCPercent(s.pacer.percent())
		s.pacer.arm()
	})
}

func (p *gcPacer) percent() int {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	live := max(sample[0].Value.Uint64(), 1<<20)
	return int(min(max(p.headroom*100/live, minGCPercent), maxGCPercent))
}
