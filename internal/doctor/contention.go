package doctor

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Contention is how long goroutines wait for locks.
type Contention struct {
	// Seconds is what all goroutines together waited for locks during the window.
	Seconds float64 `json:"seconds"`
	// From tells how it is known: "mutex profile", "block profile", or "looks", where
	// the target profiles neither and goroutines were only seen waiting.
	From string `json:"from"`
	// Top are the holders who let the others wait, with "looks" those who wait.
	Top         []Site     `json:"top"`
	Confidence  Confidence `json:"confidence,omitempty"`
	Explanation string     `json:"explanation,omitempty"`
	Fix         string     `json:"fix,omitempty"`

	window float64 // seconds
}

func (a *analysis) contention() {
	c := &a.Contention
	c.Top, c.window = []Site{}, a.Window.Seconds()
	waits := a.delays("mutex", func(string) bool { return true })
	c.From = "mutex profile"
	if len(waits) == 0 {
		waits = a.delays("block", func(fn string) bool {
			return strings.Contains(fn, "sync.(*Mutex).Lock") || strings.Contains(fn, "sync.(*RWMutex).")
		})
		c.From = "block profile"
	}
	if len(waits) == 0 {
		waits = a.caughtWaiting()
		c.From = "looks"
	}
	for v := range maps.Values(waits) {
		c.Seconds += max(0, v)
	}
	c.Top = a.topSites(waits, func(s *Site, v float64) {
		s.Seconds = v
		s.Percent = 100 * v / max(c.Seconds, 1e-9)
	})
	c.judge()
}

// delays sums what a profile of waiting gained during the window, in seconds.
func (a *analysis) delays(name string, is func(fn string) bool) map[Frame]float64 {
	key := func(frames []Frame) Frame {
		if slices.ContainsFunc(frames, func(f Frame) bool { return is(f.Func) }) {
			return a.owned(frames)
		}
		return Frame{}
	}
	after := a.profile(name + "-after")
	if after == nil {
		return nil
	}
	d := minus(sums(after, "delay", key), sums(a.profile(name+"-before"), "delay", key))
	for f, v := range d {
		if v <= 0 {
			delete(d, f)
			continue
		}
		d[f] = v / 1e9
	}
	return d
}

// caughtWaiting estimates the waiting from the looks: who is seen at a lock in a look has
// waited about as long as it is to the next. Those who are there for good are leaks.
func (a *analysis) caughtWaiting() map[Frame]float64 {
	waits := map[Frame]float64{}
	looks := len(a.Dumps)
	if looks < 3 {
		return waits
	}
	each := a.Window.Seconds() / float64(looks)
	for _, p := range a.tracks.all {
		if !p.cause.isLock() {
			continue
		}
		if left, _ := a.tracks.departures(p); len(left) == 0 {
			continue // stuck, not in a queue
		}
		seen, busy := 0, 0
		for _, n := range p.counts {
			seen += n
			busy += min(n, 1)
		}
		if busy*2 >= looks {
			waits[p.frame] += float64(seen) * each
		}
	}
	return waits
}

// judge decides whether waiting is worth a finding: half a goroutine waiting at any time
// for one place is.
func (c *Contention) judge() {
	if len(c.Top) == 0 || c.Top[0].Seconds < 0.5*c.window {
		return
	}
	top := c.Top[0]
	c.Confidence = Medium
	if c.From != "looks" && top.Seconds > 2*c.window {
		c.Confidence = High
	}
	if c.From == "looks" && top.Seconds < 2*c.window {
		c.Confidence = Low
	}
	if top.Percent >= 60 {
		c.Explanation = fmt.Sprintf("One lock for everything: of all the waiting for locks, %.0f %% is at %s, where %s goroutines wait at any time.", top.Percent, ShortName(top.Function), quantity(top.Seconds/c.window))
		c.Fix = "Hold it for less (compute before, write after), split it by key (shards), or read from a copy that is swapped atomically."
	} else {
		c.Explanation = fmt.Sprintf("Goroutines wait for locks for %s s each second, most of it at %s.", quantity(c.Seconds/c.window), ShortName(top.Function))
		c.Fix = "Hold locks for less, and never across I/O."
	}
}

func (c *Contention) finding() *Finding {
	if c.Explanation == "" {
		return nil
	}
	top := c.Top[0]
	perMinute := top.Seconds / c.window * 60
	return &Finding{
		Kind: KindContention, ID: "lock:" + top.Function, Function: top.Function, File: top.File, Line: top.Line, Confidence: c.Confidence,
		Title:  quantity(top.Seconds/c.window) + " goroutines wait for one lock at any time",
		Amount: perMinute, Unit: "s waiting/min", Noise: perMinute / 3,
	}
}
