package inventorytest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"pgregory.net/rapid"

	"github.com/penstockhq/penstock/internal/inventory"
)

// sold is the model of one SKU for porcupine: what is on hand and what each active
// reservation holds.
type sold struct {
	onHand, reserved int64
	held             string // reservations with their units, as text so that states compare
}

type stockOp struct {
	kind     string // reserve, commit, release, read
	id       string
	quantity int64
}

type stockResult struct {
	ok               bool
	onHand, reserved int64
}

// step applies op to s as the specification says.
func (s sold) step(op stockOp, res stockResult) (bool, sold) {
	tag := fmt.Sprintf("[%s]", op.id)
	holds := contains(s.held, tag)
	switch op.kind {
	case "reserve":
		if can := s.onHand-s.reserved >= op.quantity; can != res.ok {
			return false, s
		}
		if res.ok {
			s.reserved += op.quantity
			s.held += tag
		}
	case "commit", "release":
		if holds != res.ok {
			return false, s
		}
		if res.ok {
			s.reserved -= op.quantity
			if op.kind == "commit" {
				s.onHand -= op.quantity
			}
			s.held = without(s.held, tag)
		}
	case "read":
		return res.onHand == s.onHand && res.reserved == s.reserved, s
	}
	return true, s
}

func contains(s, tag string) bool { return without(s, tag) != s }

func without(s, tag string) string {
	for i := 0; i+len(tag) <= len(s); i++ {
		if s[i:i+len(tag)] == tag {
			return s[:i] + s[i+len(tag):]
		}
	}
	return s
}

// linearizable records what concurrent callers see of one SKU and has porcupine look
// for an order of the calls that explains it.
func linearizable(t *testing.T, f *Fixture) {
	const units, clients, calls = 6, 6, 30
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	f.receive(t, "A", units)
	var mu sync.Mutex
	var history []porcupine.Operation
	begin := time.Now()
	var all sync.WaitGroup
	for client := range clients {
		all.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(client)))
			var mine []stockOp // what this client holds or held
			for range calls {
				op := nextOp(f, random, mine)
				called := time.Since(begin).Nanoseconds()
				res := f.call(t, op)
				returned := time.Since(begin).Nanoseconds()
				if op.kind == "reserve" && res.ok {
					mine = append(mine, op)
				}
				mu.Lock()
				history = append(history, porcupine.Operation{
					ClientId: client, Input: op, Call: called, Output: res, Return: returned,
				})
				mu.Unlock()
			}
		})
	}
	all.Wait()
	spec := porcupine.Model{
		Init: func() any { return sold{onHand: units} },
		Step: func(state, input, output any) (bool, any) {
			return state.(sold).step(input.(stockOp), output.(stockResult))
		},
	}
	if got := porcupine.CheckOperationsTimeout(spec, history, time.Minute); got != porcupine.Ok {
		t.Fatalf("the history of seed %d is not linearizable: %s", seed, got)
	}
}

func nextOp(f *Fixture, random *rand.Rand, mine []stockOp) stockOp {
	switch kind := random.IntN(5); {
	case kind == 0:
		return stockOp{kind: "read"}
	case kind <= 2 || len(mine) == 0:
		return stockOp{kind: "reserve", id: f.hold().ID, quantity: 1 + random.Int64N(2)}
	default:
		op := mine[random.IntN(len(mine))] // perhaps one that is closed already
		op.kind = []string{"commit", "release"}[random.IntN(2)]
		return op
	}
}

func (f *Fixture) call(t *testing.T, op stockOp) stockResult {
	t.Helper()
	var cmd inventory.Command
	switch op.kind {
	case "read":
		l, _, err := f.Store.Level(context.Background(), at("A"))
		if err != nil {
			t.Error(err)
		}
		return stockResult{ok: true, onHand: l.OnHand, reserved: l.Reserved}
	case "reserve":
		r := f.hold(line("A", op.quantity))
		r.ID, r.TTL = op.id, time.Hour
		cmd = r
	case "commit":
		cmd = &inventory.CommitCommand{ID: op.id}
	case "release":
		cmd = &inventory.ReleaseCommand{ID: op.id}
	}
	out, err := f.Store.Execute(context.Background(), []inventory.Command{cmd})
	if err != nil {
		t.Error(err)
		return stockResult{}
	}
	return stockResult{ok: out[0].Err == nil && !out[0].Replayed}
}

// plain is the model of the whole store for rapid: sums over what was done.
type plain struct {
	onHand, reserved map[string]int64
	holds            map[string]*plainHold
	ids              []string // of open holds
}

type plainHold struct {
	lines   map[string]int64
	expires time.Time
	open    bool
}

// model runs random commands in random batches against plain sums.
func model(t *testing.T, f *Fixture) {
	rapid.Check(t, func(rt *rapid.T) {
		// All checks share the store; each has SKUs of its own.
		prefix := fmt.Sprintf("m%d-", rand.Uint64())
		m := &plain{onHand: map[string]int64{}, reserved: map[string]int64{}, holds: map[string]*plainHold{}}
		for range rapid.IntRange(1, 12).Draw(rt, "batches") {
			var cmds []inventory.Command
			var want []bool
			now := f.Clock.Now()
			for range rapid.IntRange(1, 6).Draw(rt, "commands") {
				cmd := m.draw(rt, f, prefix)
				cmds = append(cmds, cmd)
				want = append(want, m.apply(cmd, now))
			}
			out, err := f.Store.Execute(context.Background(), cmds)
			if err != nil {
				rt.Fatal(err)
			}
			for i := range out {
				if (out[i].Err == nil) != want[i] {
					rt.Fatalf("%T %+v: got %v, the model says %v", cmds[i], cmds[i], out[i].Err, want[i])
				}
			}
			for _, sku := range []string{"A", "B"} {
				f.level(t, prefix+sku, m.onHand[prefix+sku], m.reserved[prefix+sku])
			}
		}
	})
}

func (m *plain) draw(rt *rapid.T, f *Fixture, prefix string) inventory.Command {
	sku := prefix + rapid.SampledFrom([]string{"A", "B"}).Draw(rt, "sku")
	kinds := []string{"receive", "adjust", "reserve", "reserve"}
	if len(m.ids) > 0 {
		kinds = append(kinds, "commit", "part", "release", "expire")
	}
	var id string
	if len(m.ids) > 0 {
		id = rapid.SampledFrom(m.ids).Draw(rt, "id")
	}
	switch rapid.SampledFrom(kinds).Draw(rt, "kind") {
	case "receive":
		return &inventory.ReceiveCommand{Place: at(sku), Quantity: rapid.Int64Range(1, 5).Draw(rt, "quantity")}
	case "adjust":
		return &inventory.AdjustCommand{Place: at(sku), Delta: rapid.Int64Range(-4, 4).Draw(rt, "delta"), Reason: "count"}
	case "reserve":
		cmd := f.hold(line(prefix+"A", rapid.Int64Range(1, 3).Draw(rt, "a")))
		if rapid.Bool().Draw(rt, "both") {
			cmd.Lines = append(cmd.Lines, line(prefix+"B", rapid.Int64Range(1, 3).Draw(rt, "b")))
		}
		cmd.TTL = time.Hour
		return cmd
	case "commit":
		return &inventory.CommitCommand{ID: id}
	case "part":
		return &inventory.CommitCommand{ID: id, Lines: []inventory.Line{line(prefix+"A", 1)}}
	case "release":
		return &inventory.ReleaseCommand{ID: id}
	default:
		return &inventory.ExpireCommand{IDs: []string{id}} // none is due: nothing happens
	}
}

// apply does cmd to the sums and returns whether it is carried out.
func (m *plain) apply(cmd inventory.Command, now time.Time) bool {
	switch c := cmd.(type) {
	case *inventory.ReceiveCommand:
		m.onHand[c.Place.SKU] += c.Quantity
	case *inventory.AdjustCommand:
		if c.Delta < 0 && m.onHand[c.Place.SKU]+c.Delta < m.reserved[c.Place.SKU] {
			return false
		}
		m.onHand[c.Place.SKU] += c.Delta
	case *inventory.ReserveCommand:
		h := &plainHold{lines: map[string]int64{}, expires: now.Add(c.TTL), open: true}
		for _, l := range c.Lines {
			if m.onHand[l.SKU]-m.reserved[l.SKU] < l.Quantity {
				return false
			}
			h.lines[l.SKU] = l.Quantity
		}
		for sku, q := range h.lines {
			m.reserved[sku] += q
		}
		m.holds[c.ID] = h
		m.ids = append(m.ids, c.ID)
	case *inventory.CommitCommand:
		return m.close(c.ID, c.Lines)
	case *inventory.ReleaseCommand:
		return m.close(c.ID, []inventory.Line{{}})
	}
	return true
}

// close ends a hold that is open, selling lines (none for everything).
func (m *plain) close(id string, lines []inventory.Line) bool {
	h := m.holds[id]
	h.open = false
	m.ids = slices.DeleteFunc(m.ids, func(open string) bool { return open == id })
	for sku, q := range h.lines {
		m.reserved[sku] -= q
		if len(lines) == 0 {
			m.onHand[sku] -= q
		}
	}
	for _, l := range lines {
		if l.SKU != "" {
			m.onHand[l.SKU] -= l.Quantity
		}
	}
	return true
}
