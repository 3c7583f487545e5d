package doctor

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/pprof/profile"

	"github.com/penstockhq/penstock/internal/doctor/goroutine"
)

// This file finds leaks in targets with so many goroutines that their text cannot be asked
// for again and again: to print it the runtime stops the world, about 45 µs a goroutine.
// The binary profile takes less than a tenth of that. It has stacks and how many goroutines are
// in each, without numbers, ages and creators, so that growth is all there is to go by.

// Look is the binary profile of the goroutines at a time.
type Look struct {
	At  time.Duration `json:"at_ns"`
	raw []byte        // gzipped
}

// countPlaces groups what looks hold by place, with the counts over time.
func countPlaces(profiles []*profile.Profile, c code) map[placeKey]*place {
	all := map[placeKey]*place{}
	stacks := map[string]*goroutine.Stack{}
	var frames []Frame
	var key []byte
	for i, p := range profiles {
		col, err := column(p, "goroutine")
		if err != nil {
			continue
		}
		for _, s := range p.Sample {
			if len(s.Location) == 0 {
				continue
			}
			key = key[:0]
			for _, l := range s.Location {
				key = binary.LittleEndian.AppendUint64(key, l.Address)
			}
			stack := stacks[string(key)]
			if stack == nil {
				frames = sampleFrames(s, frames)
				if len(frames) == 0 {
					continue
				}
				stack = &goroutine.Stack{Frames: slices.Clone(frames)}
				stacks[string(key)] = stack
			}
			if isOwn(stack.Frames) {
				continue
			}
			state, visible := stateOf(stack.Frames)
			k := placeKey{causeOf(state, visible), visible[c.blame(visible)], visible[len(visible)-1].Func}
			at := all[k]
			if at == nil {
				at = &place{placeKey: k, state: state, stack: &goroutine.Stack{Frames: visible}, counts: make([]int, len(profiles))}
				all[k] = at
			}
			at.counts[i] += int(min(s.Value[col], maxGoroutinesCounted))
		}
	}
	return all
}

const maxGoroutinesCounted = 1 << 40

// stateOf tells from the frames of the runtime, which the text leaves out, what a goroutine
// is blocked in, in the words of the text. It returns the frames that the text shows.
func stateOf(frames []Frame) (state string, visible []Frame) {
	state = "running"
	for i, f := range frames {
		switch {
		case strings.HasPrefix(f.Func, "runtime.chansend"):
			state = "chan send"
		case strings.HasPrefix(f.Func, "runtime.chanrecv"):
			state = "chan receive"
		case f.Func == "runtime.selectgo":
			state = "select"
		case f.Func == "runtime.block":
			state = "select (no cases)"
		case f.Func == "runtime.netpollblock":
			state = "IO wait"
		case f.Func == "time.Sleep" || f.Func == "runtime.timeSleep":
			state = "sleep"
		case f.Func == "runtime.notifyListWait" || strings.HasSuffix(f.Func, "sync.runtime_notifyListWait"):
			state = "sync.Cond.Wait"
		case strings.HasPrefix(f.Func, "runtime.semacquire") || strings.Contains(f.Func, "sync.runtime_Semacquire"):
			state = "semacquire"
		}
		if !strings.HasPrefix(f.Func, "runtime.") {
			return state, frames[i:]
		}
	}
	return state, frames
}

// codeOf learns where things are, as newCode does from dumps.
func codeOf(profiles []*profile.Profile) code {
	var gs []goroutine.Goroutine
	if len(profiles) > 0 {
		for _, s := range profiles[len(profiles)-1].Sample {
			gs = append(gs, goroutine.Goroutine{Stack: &goroutine.Stack{Frames: sampleFrames(s, nil)}})
		}
	}
	return newCode(gs)
}

// judgeCounts decides on a place by its counts alone. Where there are only a few, the
// number of all goroutines tells what happened between them, if most of its growth is this
// place's.
func (f *leakFinder) judgeCounts(p *place, c *Capture) {
	k := len(p.counts) - 1
	net := p.counts[k] - p.counts[0]
	if k < fewLooks-1 || net < 20 || c.Looks[k].At <= c.Looks[0].At || p.cause == Spin || f.ownedByClients(p) {
		return
	}
	steps, confidence := p.counts, High
	if k < fewDumps-1 {
		steps, confidence = totals(c), Medium
		if n := len(steps); n < fewDumps || net*2 < steps[n-1]-steps[0] {
			return
		}
	}
	rises, falls := 0, 0
	for i := range len(steps) - 1 {
		if d := steps[i+1] - steps[i]; d > 0 {
			rises++
		} else {
			falls -= d
		}
	}
	late := p.counts[k] - p.counts[k/2]
	early := p.counts[k/2] - p.counts[0]
	if falls*20 > net || rises*5 < (len(steps)-1)*4 || late*3 < early {
		return
	}
	if rises < len(steps)-1 || late*2 < early || early*2 < late || net < 50 {
		confidence = Medium
	}
	window := c.Looks[k].At - c.Looks[0].At
	f.add(p, p.counts[k], growth{perMinute: float64(net) / window.Minutes()}, confidence,
		fmt.Sprintf("their number rose by %d through the window, in %d of %d steps, and fell by %d in all", net, rises, len(steps)-1, falls))
}

// totals are the numbers of all goroutines.
func totals(c *Capture) []int {
	all := make([]int, len(c.Counts))
	for i, n := range c.Counts {
		all[i] = n.Goroutines
	}
	return all
}

// addAges completes leaks that were found by counts with what one dump tells.
func (f *leakFinder) addAges(d Dump) {
	t := newTracks([]Dump{d})
	for _, l := range f.leaks {
		for key, p := range t.all {
			if key.cause != l.Cause || key.frame != (Frame{Func: l.Function, File: l.File, Line: l.Line}) {
				continue
			}
			l.CreatedBy, l.State = p.createdBy, p.state
			for _, s := range p.stays {
				l.OldestMinutes = max(l.OldestMinutes, s.g.Minutes)
			}
		}
	}
}
