package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/penstockhq/penstock/internal/doctor/goroutine"
)

// This file tells combined causes as one story: who holds the lock that the others wait
// for, whose children are stuck, which goroutine of a library belongs to which other.

// tellStories merges leaks that are consequences of others into those.
func (f *leakFinder) tellStories() {
	f.pairConnections()
	for _, l := range slices.Clone(f.leaks) {
		if l.Cause.isLock() && slices.Contains(f.leaks, l) {
			f.findHolder(l)
		}
	}
	f.mergeChildren()
}

// drop takes a leak out of the list.
func (f *leakFinder) drop(l *Leak) {
	f.leaks = slices.DeleteFunc(f.leaks, func(other *Leak) bool { return other == l })
}

// behind makes l a consequence of root.
func (f *leakFinder) behind(root, l *Leak, why string) {
	f.drop(l)
	root.Behind = append(root.Behind, Behind{Cause: l.Cause, Function: l.Function, File: l.File, Line: l.Line, Goroutines: l.Goroutines, Why: why})
	root.Behind = append(root.Behind, l.Behind...)
	if len(root.Counts) == len(l.Counts) {
		root.Counts = slices.Clone(root.Counts) // the place's own stay as they are
		for i, n := range l.Counts {
			root.Counts[i] += n
		}
	}
	root.GrowthPerMinute = max(root.GrowthPerMinute, l.GrowthPerMinute)
	if rank(l.Confidence) > rank(root.Confidence) {
		root.Confidence = l.Confidence
	}
}

// pairConnections merges the two goroutines that each client connection of net/http has.
func (f *leakFinder) pairConnections() {
	has := func(l *Leak, part string) bool {
		return slices.ContainsFunc(l.Stack, func(fr Frame) bool { return strings.Contains(fr.Func, part) })
	}
	for _, reader := range slices.Clone(f.leaks) {
		if !has(reader, "net/http.(*persistConn).readLoop") {
			continue
		}
		for _, writer := range slices.Clone(f.leaks) {
			if has(writer, "net/http.(*persistConn).writeLoop") {
				f.behind(reader, writer, "the writing half of the same connections")
			}
		}
	}
}

// candidate is a goroutine that may hold a lock.
type candidate struct {
	g     *goroutine.Goroutine
	frame Frame // where it is
	score int
}

// findHolder looks for who holds the lock that the goroutines of l wait for, and tells the
// story from there. A dump does not say who holds a lock. But a lock lies within the value
// whose methods take it, and whoever is inside such a method, past the call that takes the
// lock, or inside the very function the others wait in, and does not wait for that lock,
// has it.
func (f *leakFinder) findHolder(l *Leak) {
	address, waiters := uint64(0), map[uint64]bool{}
	var sample *goroutine.Goroutine
	for _, g := range l.members() {
		waiters[g.ID] = true
		if a := lockAddress(g); address == 0 && a != 0 {
			address, sample = a, g
		}
	}
	if sample == nil && len(l.members()) > 0 {
		sample = l.members()[0]
	}
	if sample == nil {
		return
	}
	best := f.bestHolder(l, sample, address, waiters)
	if best.g == nil {
		l.Evidence = append(l.Evidence, "no goroutine was found that could hold the lock: it was not given back on some path")
		return
	}
	cause := causeOf(best.g.State, best.g.Stack.Frames)
	if cause.isLock() {
		f.tellDeadlock(l, best)
		return
	}
	if cause == Spin || cause == Other {
		l.Evidence = append(l.Evidence, fmt.Sprintf("goroutine %d at %s holds it, and runs", best.g.ID, best.frame))
		return
	}
	why := "they wait for the lock that it holds"
	for _, root := range f.leaks {
		if root != l && slices.ContainsFunc(root.members(), func(g *goroutine.Goroutine) bool { return g.ID == best.g.ID }) {
			f.behind(root, l, why)
			return
		}
	}
	holder := f.all[f.keys[stackState{best.g.Stack, best.g.State}]]
	root := f.add(holder, 1, growth{}, l.Confidence, fmt.Sprintf("goroutine %d holds the lock for which the others wait", best.g.ID))
	root.Goroutines = 1
	f.behind(root, l, why)
}

// bestHolder finds the goroutine that most likely holds the lock at address, for which
// sample waits among others.
func (f *leakFinder) bestHolder(l *Leak, sample *goroutine.Goroutine, address uint64, waiters map[uint64]bool) candidate {
	functions := map[string]bool{} // of the program's own, in which the lock is waited for
	for _, fr := range sample.Stack.Frames {
		if f.code.owner(fr) != ownRuntime {
			functions[fr.Func] = true
			break
		}
	}
	var best candidate
	gs := f.dumps[len(f.dumps)-1].Goroutines
	for i := range gs {
		g := &gs[i]
		key := f.keys[stackState{g.Stack, g.State}]
		if waiters[g.ID] || key.cause == "" {
			continue
		}
		if a := lockAddress(g); a != 0 && address != 0 && near(a, address) {
			continue // waits for the same lock elsewhere
		}
		c := candidate{g: g, frame: key.frame, score: f.holds(l, g, address, functions)}
		if c.score > best.score {
			best = c
		}
	}
	if best.score < 5 {
		return candidate{}
	}
	return best
}

// holds scores how much speaks for g holding the lock at address that l waits for.
func (f *leakFinder) holds(l *Leak, g *goroutine.Goroutine, address uint64, functions map[string]bool) (score int) {
	for j, fr := range g.Stack.Frames {
		if f.code.owner(fr) == ownRuntime {
			continue
		}
		if functions[fr.Func] && fr.Line != l.Line {
			score += 3 // past the line where the others wait
		}
		if j < len(g.Args) && len(g.Args[j]) > 0 && address > 0 && within(address, g.Args[j][0]) {
			score += 3 // a method of the value that the lock is part of
		}
		if packagePath(fr.Func) == packagePath(l.Function) {
			score++
		}
	}
	if f.stayedAll(g) {
		score += 2
	}
	return score
}

// stayedAll tells whether g was where it is during the whole window.
func (f *leakFinder) stayedAll(g *goroutine.Goroutine) bool {
	p := f.all[f.keys[stackState{g.Stack, g.State}]]
	if p == nil {
		return false
	}
	at, ok := p.open[g.ID]
	return ok && p.stays[at].last == len(p.counts)-1 && p.stays[at].last-p.stays[at].first >= 2
}

// near tells whether two addresses are of one lock, whose words are waited at apart.
func near(a, b uint64) bool { return max(a, b)-min(a, b) < 24 }

// within tells whether a lock at address may be a field of the value at p.
func within(address, p uint64) bool { return p > 0xffff && address >= p && address-p < 4096 }

// tellDeadlock makes one leak of two groups that wait for each other's locks.
func (f *leakFinder) tellDeadlock(l *Leak, holder candidate) {
	for _, other := range slices.Clone(f.leaks) {
		if other == l || !slices.ContainsFunc(other.members(), func(g *goroutine.Goroutine) bool { return g.ID == holder.g.ID }) {
			continue
		}
		f.behind(l, other, "they hold what the first wait for, and wait for what the first hold")
		l.Evidence = append(l.Evidence, fmt.Sprintf("goroutine %d at %s holds the lock and waits for another one: two locks are taken in different orders", holder.g.ID, holder.frame))
		return
	}
	l.Evidence = append(l.Evidence, fmt.Sprintf("goroutine %d at %s likely holds it, and waits for a lock itself", holder.g.ID, holder.frame))
}

// mergeChildren merges leaked goroutines with those who made them, where both leak.
func (f *leakFinder) mergeChildren() {
	for _, child := range slices.Clone(f.leaks) {
		makers := map[uint64]bool{}
		for _, g := range child.members() {
			makers[g.Creator] = true
		}
		for _, owner := range slices.Clone(f.leaks) {
			if owner == child || !slices.Contains(f.leaks, child) || !slices.Contains(f.leaks, owner) {
				continue
			}
			made := 0
			for _, g := range owner.members() {
				if makers[g.ID] {
					made++
				}
			}
			if made*2 < len(owner.members()) || made == 0 {
				continue
			}
			if owner.Cause == WaitGroup || (owner.Cause == ChanRecv && child.Cause != ChanRecv && child.Cause != Select) {
				f.behind(child, owner, "they wait for these to finish")
			} else {
				f.behind(owner, child, "started by these, and live as long")
			}
		}
	}
}
