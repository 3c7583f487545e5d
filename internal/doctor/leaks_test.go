package doctor_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/penstockhq/penstock/internal/doctor"
	"github.com/penstockhq/penstock/internal/doctor/goroutine"
)

// world is a program that is only told of: goroutines come, wait and go, and dumps of it
// are printed as the runtime does.
type world struct {
	goroutines map[int]string // number → text below the header
	headers    map[int]string
}

func newWorld() *world {
	w := &world{goroutines: map[int]string{}, headers: map[int]string{}}
	w.put(1, "sleep", 0, "main.main", "/src/main.go:9", "", 0)
	return w
}

// put has goroutine id wait in a function, made by creator in goroutine parent.
func (w *world) put(id int, state string, minutes int, fn, at, creator string, parent int) {
	w.headers[id] = state
	if minutes > 0 {
		w.headers[id] += fmt.Sprintf(", %d minutes", minutes)
	}
	w.goroutines[id] = fmt.Sprintf("%s(0xc000%06x)\n\t%s +0x1d\n", fn, id, at)
	if creator != "" {
		w.goroutines[id] += fmt.Sprintf("created by %s in goroutine %d\n\t/src/main.go:5 +0x1\n", creator, parent)
	}
}

func (w *world) drop(id int) {
	delete(w.goroutines, id)
	delete(w.headers, id)
}

// watch lets time pass and takes the thirteen dumps of a window of 36 s, with step called
// before each.
func (w *world) watch(t *testing.T, step func(look int)) *doctor.Report {
	t.Helper()
	c := &doctor.Capture{Target: "told", Window: 36 * time.Second, Started: time.Unix(0, 0)}
	for look := range 13 {
		step(look)
		var text strings.Builder
		for id, body := range w.goroutines {
			fmt.Fprintf(&text, "goroutine %d [%s]:\n%s\n", id, w.headers[id], body)
		}
		d, err := goroutine.Read(strings.NewReader(text.String()))
		if err != nil {
			t.Fatal(err)
		}
		at := time.Duration(look) * 3 * time.Second
		if look > 0 && look < 12 {
			at -= 2500 * time.Millisecond // a target is not asked in step
		}
		c.Dumps = append(c.Dumps, doctor.Dump{At: at, Goroutines: d.Goroutines})
	}
	return doctor.Analyse(c, "")
}

func TestLeaks_WhoComesAndNeverLeavesIsOne(t *testing.T) {
	t.Parallel()
	w := newWorld()
	r := w.watch(t, func(look int) {
		for i := range 4 {
			w.put(100+look*10+i, "chan send", 0, "shop.(*mailer).send", "/src/mail.go:42", "shop.signup", 7)
		}
	})
	if len(r.Leaks) != 1 {
		t.Fatalf("%d leaks", len(r.Leaks))
	}
	l := r.Leaks[0]
	if l.Cause != doctor.ChanSend || l.Function != "shop.(*mailer).send" || l.Line != 42 || l.Goroutines != 52 || l.Confidence != doctor.High ||
		l.CreatedBy.Func != "shop.signup" || l.GrowthPerMinute < 79 || l.GrowthPerMinute > 81 {
		t.Fatalf("%+v", l)
	}
}

func TestLeaks_AmongManyWhoLeaveTheFewWhoStayAreFound(t *testing.T) {
	t.Parallel()
	w := newWorld()
	r := w.watch(t, func(look int) {
		for i := range 10 {
			w.put(1000+look*10+i, "chan receive", 0, "shop.await", "/src/await.go:8", "shop.ask", 7)
			if old := 1000 + (look-1)*10 + i; i != 0 {
				w.drop(old)
			}
		}
	})
	if len(r.Leaks) != 1 || r.Leaks[0].Confidence == doctor.Low {
		t.Fatalf("%v", r.Findings)
	}
}

func TestLeaks_NoneOfTheseIsOne(t *testing.T) {
	t.Parallel()
	for name, step := range map[string]func(w *world, look int){
		"slow but finishing": func(w *world, look int) {
			for i := range 5 {
				w.put(100+look*5+i, "sleep", 0, "shop.convert", "/src/c.go:3", "shop.upload", 7)
				w.drop(100 + (look-5)*5 + i)
			}
		},
		"slower than most of the window, and more and more": func(w *world, look int) {
			for i := range 3 + 2*look {
				w.put(1000+look*100+i, "chan receive", 0, "shop.convert", "/src/c.go:3", "shop.upload", 7)
			}
			for i := range 100 {
				w.drop(1000 + (look-9)*100 + i)
			}
		},
		"a burst": func(w *world, look int) {
			if look == 6 || look == 7 {
				for i := range 50 {
					w.put(100+look*50+i, "chan receive", 0, "shop.job", "/src/j.go:3", "shop.batch", 7)
				}
			}
		},
		"a pool that grows to its size": func(w *world, look int) {
			if look < 7 {
				for i := range 6 {
					w.put(100+look*6+i, "chan receive", 0, "shop.worker", "/src/w.go:3", "shop.grow", 7)
				}
			}
		},
		"parked since the start": func(w *world, _ int) {
			for i := range 40 {
				w.put(100+i, "select", 17, "shop.watch", "/src/w.go:3", "main.main", 1)
			}
		},
		"a pool made at once, idle for long": func(w *world, _ int) {
			for i := range 40 {
				w.put(100+i, "chan receive", 12, "shop.worker", "/src/w.go:3", "shop.grow", 7)
			}
		},
		"a pool whose workers were busy at different times": func(w *world, _ int) {
			for i := range 12 {
				w.put(100+i, "chan receive", 1+(i*7+4)%12, "shop.worker", "/src/w.go:3", "shop.grow", 7)
			}
		},
		"connections that keep silent": func(w *world, _ int) {
			for i := range 12 {
				w.put(100+i, "IO wait", 30-i, "shop.read", "/src/r.go:3", "shop.accept", 7)
			}
		},
		"watchers of requests that still run": func(w *world, _ int) {
			for i := range 6 {
				w.put(50+i, "IO wait", 30-i, "shop.stream", "/src/s.go:3", "net/http.(*Server).Serve", 7)
				w.put(100+i, "select", 30-i, "shop.watch", "/src/w.go:3", "shop.stream", 50+i)
			}
		},
		"a busy lock": func(w *world, look int) {
			for i := range 8 {
				if state := "sync.Mutex.Lock"; i < 3 || i != look%8 { // some are caught waiting every time
					w.put(100+i, state, 0, "shop.(*table).put", "/src/t.go:3", "main.main", 1)
				} else {
					w.put(100+i, "sleep", 0, "shop.idle", "/src/t.go:9", "main.main", 1)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			r := w.watch(t, func(look int) { step(w, look) })
			if f := r.Failing([]doctor.Kind{doctor.KindLeak}); len(f) > 0 {
				t.Fatalf("taken for a leak: %+v", f)
			}
		})
	}
}

func TestLeaks_LooksNeedNotBeEven(t *testing.T) {
	t.Parallel()
	w := newWorld()
	r := w.watch(t, func(look int) { // the second look comes soon after the first
		for i := range 3 + 2*look {
			w.put(1000+look*100+i, "chan receive", 0, "shop.convert", "/src/c.go:3", "shop.upload", 7)
		}
		for i := range 100 {
			if i > 0 { // one of each look stays
				w.drop(1000 + (look-6)*100 + i)
			}
		}
	})
	if len(r.Failing([]doctor.Kind{doctor.KindUnresponsive})) > 0 {
		t.Fatal(r.Findings)
	}
}

func TestLeaks_OneAMinuteIsFoundByItsAges(t *testing.T) {
	t.Parallel()
	w := newWorld()
	r := w.watch(t, func(int) {
		for i := range 5 {
			w.put(100+i*50, "chan receive", 5-i, "shop.await", "/src/a.go:3", "shop.ask", 7)
		}
	})
	if len(r.Leaks) != 1 || r.Leaks[0].OldestMinutes != 5 || r.Leaks[0].Confidence == doctor.Low {
		t.Fatalf("%v", r.Findings)
	}
}

func TestLeaks_OneAMinuteIsFoundWhereTheRuntimeCountsEverySecondMinute(t *testing.T) {
	t.Parallel()
	w := newWorld()
	r := w.watch(t, func(int) {
		for i, minutes := range []int{4, 4, 2, 2, 0, 0} {
			w.put(100+i*50, "chan receive", minutes, "shop.await", "/src/a.go:3", "shop.ask", 7)
		}
	})
	if len(r.Leaks) != 1 || r.Leaks[0].Confidence == doctor.Low {
		t.Fatalf("%v", r.Findings)
	}
}

func TestLeaks_OneAMinuteIsFoundByItsNumbersWhereFewAgesAreKnown(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		ids     []int
		beside  bool // something that reads from a connection, started by the same goroutine
		leaking bool
	}{
		"one by one, to this day":           {ids: []int{100, 2100, 4000, 6200, 8100}, leaking: true},
		"two of them soon after each other": {ids: []int{100, 190, 2100, 4000, 6200}, leaking: true},
		"at once":                           {ids: []int{100, 101, 117, 118, 133}},
		"while a pool grew":                 {ids: []int{100, 700, 1300, 1900, 2500}},
		"beside connections that last":      {ids: []int{100, 2100, 4000, 6200, 8100}, beside: true},
	} {
		w := newWorld()
		r := w.watch(t, func(look int) {
			w.put(9000, "sleep", 0, "shop.idle", "/src/t.go:9", "main.main", 1)
			for i, id := range tc.ids {
				w.put(id, "select", []int{3, 3, 3, 2, 2}[i], "shop.write", "/src/a.go:3", "shop.serve", id-1)
				if tc.beside {
					w.put(id+1, "IO wait", []int{3, 3, 3, 2, 2}[i], "shop.read", "/src/a.go:9", "shop.serve", id-1)
				}
			}
		})
		if leaking := len(r.Failing([]doctor.Kind{doctor.KindLeak})) > 0; leaking != tc.leaking {
			t.Errorf("%s: leaking is %t: %v", name, leaking, r.Findings)
		}
	}
}

func TestLeaks_BeforeGo120LocksAreToldByTheirFrames(t *testing.T) {
	t.Parallel()
	w := newWorld()
	wait := "sync.runtime_SemacquireMutex(0x4e1c45?, 0x0?, 0x0?)\n\t/go/src/runtime/sema.go:77 +0x25\nsync.(*Mutex).lockSlow(0xc000500010)\n\t/go/src/sync/mutex.go:171 +0x165\nsync.(*Mutex).Lock(...)\n\t/go/src/sync/mutex.go:90\n"
	r := w.watch(t, func(look int) {
		for i := range 3 {
			id := 100 + look*3 + i
			w.put(id, "semacquire", 0, "shop.(*table).put", "/src/t.go:10", "", 0)
			w.goroutines[id] = wait + w.goroutines[id] + "created by shop.handle\n\t/src/main.go:5 +0x1\n"
		}
	})
	if len(r.Leaks) != 1 || r.Leaks[0].Cause != doctor.Mutex || r.Leaks[0].Line != 10 || r.Leaks[0].CreatedBy.Func != "shop.handle" {
		t.Fatalf("%v", r.Findings)
	}
}

func TestLeaks_OldOnesThatStoppedGrowingAreFoundWhereNobodyParks(t *testing.T) {
	t.Parallel()
	w := newWorld()
	r := w.watch(t, func(int) {
		for i := range 50 {
			w.put(100+i*3, "chan send", 9, "shop.report", "/src/a.go:3", "shop.handle", 7)
		}
	})
	if len(r.Leaks) != 1 || r.Leaks[0].Cause != doctor.ChanSend {
		t.Fatalf("%v", r.Findings)
	}
}

func TestLeaks_WhatTheRuntimeProvesNeedsNoGrowth(t *testing.T) {
	t.Parallel()
	w := newWorld()
	r := w.watch(t, func(int) {
		w.put(100, "chan receive (leaked)", 0, "shop.await", "/src/a.go:3", "shop.ask", 7)
	})
	if len(r.Leaks) != 1 || !r.Leaks[0].Proven || r.Leaks[0].Confidence != doctor.High {
		t.Fatalf("%v", r.Findings)
	}
}

func TestLeaks_TheHolderOfALockIsNamedFirst(t *testing.T) {
	t.Parallel()
	w := newWorld()
	lock := "internal/sync.(*Mutex).lockSlow(0xc000500010)\n\t/go/src/internal/sync/mutex.go:149 +0x1\nsync.(*Mutex).Lock(...)\n\t/go/src/sync/mutex.go:46\n"
	r := w.watch(t, func(look int) {
		w.put(50, "chan send", 0, "shop.(*table).put", "/src/t.go:12", "shop.handle", 7)
		w.goroutines[50] = strings.Replace(w.goroutines[50], "0xc000000032", "0xc000500000", 1)
		for i := range 3 {
			id := 100 + look*3 + i
			w.put(id, "sync.Mutex.Lock", 0, "shop.(*table).put", "/src/t.go:10", "shop.handle", 7)
			w.goroutines[id] = lock + strings.Replace(w.goroutines[id], fmt.Sprintf("0xc000%06x", id), "0xc000500000", 1)
		}
	})
	if len(r.Leaks) != 1 {
		t.Fatalf("%d leaks: %v", len(r.Leaks), r.Findings)
	}
	l := r.Leaks[0]
	if l.Cause != doctor.ChanSend || l.Line != 12 || len(l.Behind) != 1 || l.Behind[0].Cause != doctor.Mutex || l.Behind[0].Goroutines != 39 {
		t.Fatalf("%+v", l)
	}
	if l.Counts[0] != 4 || l.Counts[12] != 40 {
		t.Errorf("the counts leave out who waits: %v", l.Counts)
	}
	if !strings.Contains(l.Explanation, "holds a lock") {
		t.Error(l.Explanation)
	}
}

func TestCompare_TellsWhatWentCameAndIsTheSame(t *testing.T) {
	t.Parallel()
	finding := func(id string, amount, noise float64) doctor.Finding {
		return doctor.Finding{Kind: doctor.KindLeak, ID: id, Amount: amount, Noise: noise, Confidence: doctor.High}
	}
	before := &doctor.Report{Findings: []doctor.Finding{finding("a", 100, 20), finding("b", 100, 20), finding("c", 100, 20), finding("d", 100, 20)}}
	after := &doctor.Report{Findings: []doctor.Finding{finding("b", 110, 20), finding("c", 50, 20), finding("d", 200, 20), finding("e", 1, 0)}}
	c := doctor.Compare(before, after)
	got := ""
	for _, ch := range c.Changes {
		got += ch.Finding.ID + " " + ch.What + ", "
	}
	if got != "e new, d worse, b same, c better, a gone, " || !c.Worse {
		t.Fatal(got, c.Worse)
	}
	lacking := &doctor.Report{Unavailable: []doctor.Missing{{What: "goroutine"}}}
	if c := doctor.Compare(before, lacking); c.Worse || c.Changes[0].What != "same" {
		t.Fatalf("what could not be looked at counts as gone: %+v", c.Changes)
	}
	if c := doctor.Compare(before, before); c.Worse {
		t.Fatal("an examination is worse than itself")
	}
}

// heapOf is an examination of a program of which only the heap is known.
func heapOf(live, stacks, nextGC []float64) doctor.HeapReport {
	c := &doctor.Capture{Target: "told", Window: time.Minute, Started: time.Unix(0, 0)}
	for i := range live {
		c.Heaps = append(c.Heaps, doctor.Heap{At: time.Duration(i) * 15 * time.Second, Stats: doctor.MemStats{HeapAlloc: live[i], StackInuse: stacks[i], NextGC: nextGC[i]}})
	}
	return doctor.Analyse(c, "").Heap
}

func TestHeap_TellsGrowthFromNoiseAPlateauStacksAndPacing(t *testing.T) {
	t.Parallel()
	const mb = 1 << 20
	flat, twice := []float64{mb, mb, mb, mb, mb}, []float64{20 * mb, 20 * mb, 20 * mb, 20 * mb, 20 * mb}
	for name, tc := range map[string]struct {
		live, stacks, next []float64
		verdict, kind      string
	}{
		"growth":           {[]float64{10 * mb, 12.1 * mb, 13.9 * mb, 16 * mb, 18 * mb}, flat, twice, "growing", "objects"},
		"noise":            {[]float64{10 * mb, 13 * mb, 9 * mb, 12 * mb, 11 * mb}, flat, twice, "flat", ""},
		"a rise by chance": {[]float64{10 * mb, 11.3 * mb, 10.9 * mb, 11.8 * mb, 12.2 * mb}, flat, twice, "flat", ""},
		"a plateau":        {[]float64{10 * mb, 16 * mb, 19 * mb, 20 * mb, 20 * mb}, flat, []float64{40 * mb, 40 * mb, 40 * mb, 40 * mb, 40 * mb}, "flat", ""},
		"stacks":           {[]float64{10 * mb, 10 * mb, 10 * mb, 10 * mb, 10 * mb}, []float64{mb, 3 * mb, 5 * mb, 7 * mb, 9 * mb}, twice, "flat", "stacks"},
		"pacing":           {[]float64{10 * mb, 10 * mb, 10 * mb, 10 * mb, 10 * mb}, flat, []float64{90 * mb, 90 * mb, 90 * mb, 90 * mb, 90 * mb}, "flat", "pacing"},
		"two":              {[]float64{10 * mb, 20 * mb}, flat, twice, "unknown", ""},
	} {
		h := heapOf(tc.live, tc.stacks, tc.next)
		if h.Verdict != tc.verdict || h.Kind != tc.kind {
			t.Errorf("%s: %+v", name, h)
		}
		if name == "growth" && (h.Slope < 7.5*mb || h.Slope > 8.5*mb || h.Uncertainty <= 0 || h.Uncertainty > mb) {
			t.Errorf("8 MB a minute are told as %.0f ± %.0f", h.Slope, h.Uncertainty)
		}
	}
}

func TestLeaks_WhoWasOnlySeenReadingAResponseIsNamed(t *testing.T) {
	t.Parallel()
	library := "/usr/local/go/src/net/http/transport.go"
	for name, caught := range map[string]string{
		"asking":  "net/http.(*Client).do(0xc0001)\n\t" + library + ":700 +0x1\nnet/http.Get(0xc0001)\n\t" + library + ":40 +0x1\n",
		"reading": "net/http.(*body).Read(0xc0001)\n\t" + library + ":831 +0x1\nnet/http.(*bodyEOFSignal).Read(0xc0001)\n\t" + library + ":3064 +0x1\n",
		"neither": "time.Sleep(0x1)\n\t/usr/local/go/src/runtime/time.go:300 +0x1\n",
	} {
		w := newWorld()
		r := w.watch(t, func(look int) {
			for i := range 4 {
				w.put(100+look*10+i, "select", 0, "net/http.(*persistConn).readLoop", library+":2450", "net/http.(*Transport).dialConn", 7)
			}
			w.drop(8)
			if look == 6 { // once
				w.put(8, "runnable", 0, "shop.sniff", "/src/sniff.go:12", "main.main", 1)
				w.goroutines[8] = caught + w.goroutines[8]
			}
		})
		want := "shop.sniff"
		if name == "neither" {
			want = "net/http.(*persistConn).readLoop"
		}
		if len(r.Leaks) != 1 || r.Leaks[0].Cause != doctor.HTTPBody || r.Leaks[0].Function != want {
			t.Errorf("%s: %+v", name, r.Leaks)
		}
	}
}

func TestLeaks_AQuarterWithFewerLooksIsNoEndOfTheGrowth(t *testing.T) {
	t.Parallel()
	for last, leaks := range map[int]bool{7: true, 3: false} {
		w := newWorld()
		r := w.watch(t, func(look int) {
			come := 5
			switch look { // two looks are in the last quarter, nine in the others
			case 10:
				come = last / 2
			case 11:
				come = last - last/2
			}
			for i := range come {
				w.put(100+look*10+i, "select", 0, "shop.watch", "/src/watch.go:9", "shop.lookUp", 7)
			}
		})
		if (len(r.Leaks) == 1) != leaks {
			t.Errorf("%d in the last two looks, 45 in the nine before: %v", last, r.Findings)
		}
	}
}
