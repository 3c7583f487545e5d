package doctor

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/pprof/profile"
)

// lookOf is the binary profile of goroutines of which so many wait in each function.
func lookOf(t *testing.T, at time.Duration, waiting map[string]int) Look {
	t.Helper()
	p := &profile.Profile{SampleType: []*profile.ValueType{{Type: "goroutine", Unit: "count"}}}
	call := func(name string) *profile.Location {
		f := &profile.Function{ID: uint64(len(p.Function) + 1), Name: name, Filename: "/src/" + name + ".go"}
		p.Function = append(p.Function, f)
		l := &profile.Location{ID: f.ID, Address: f.ID << 8, Line: []profile.Line{{Function: f, Line: 7}}}
		p.Location = append(p.Location, l)
		return l
	}
	park, receive := call("runtime.gopark"), call("runtime.chanrecv1")
	for _, name := range []string{"main.leak", "main.serve"} {
		p.Sample = append(p.Sample, &profile.Sample{Location: []*profile.Location{park, receive, call(name)}, Value: []int64{int64(waiting[name])}})
	}
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	return Look{At: at, raw: b.Bytes()}
}

func TestLeaks_AmongVeryManyGoroutinesFewLooksAndTheNumberOfAllSuffice(t *testing.T) {
	t.Parallel()
	steady := []int{100_000, 100_050, 100_100, 100_150, 100_200, 100_250, 100_300, 100_350, 100_400, 100_450, 100_500, 100_550, 100_600}
	burst := slices.Clone(steady)
	for i := range burst {
		burst[i] = 100_000 + 600*min(1, i/6)
	}
	churn := slices.Clone(steady)
	for i := range churn {
		churn[i] += 5_000 * (i % 3)
	}
	others := slices.Clone(steady)
	for i := range others {
		others[i] += 1_000 * i
	}
	for name, tc := range map[string]struct {
		totals []int
		leak   []int
		want   Confidence
	}{
		"steady":                {steady, []int{99_000, 99_300, 99_600}, Medium},
		"two looks":             {steady, []int{99_000, 99_600}, Medium},
		"two looks, one burst":  {burst, []int{99_000, 99_600}, ""},
		"one burst":             {burst, []int{99_000, 99_600, 99_600}, ""},
		"others come and go":    {churn, []int{99_000, 99_300, 99_600}, ""},
		"others grow much more": {others, []int{50_000, 50_300, 50_600}, ""},
		"it stays":              {steady, []int{99_000, 99_000, 99_000}, ""},
	} {
		c := &Capture{Target: "told", Window: time.Minute, Started: time.Unix(0, 0), Profiles: map[string][]byte{}}
		for i, n := range tc.leak {
			c.Looks = append(c.Looks, lookOf(t, time.Duration(i)*time.Minute/time.Duration(len(tc.leak)-1), map[string]int{"main.leak": n, "main.serve": 10}))
		}
		for i, n := range tc.totals {
			c.Counts = append(c.Counts, Count{At: time.Duration(i) * 5 * time.Second, Goroutines: n})
		}
		got := Confidence("")
		if r := Analyse(c, ""); len(r.Leaks) > 0 {
			got = r.Leaks[0].Confidence
			if l := r.Leaks[0]; l.Function != "main.leak" || l.Cause != ChanRecv || l.GrowthPerMinute != 600 {
				t.Errorf("%s: %+v", name, l)
			}
		}
		if got != tc.want {
			t.Errorf("%s: confidence %q", name, got)
		}
	}
}

func TestPlan_ManyGoroutinesAreLookedAtSeldom(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]plan{
		0:       {made: true, every: 1},
		1_000:   {made: true, every: 1},
		3_500:   {made: true, every: 3},
		10_000:  {made: true, every: 1, looks: true, final: true},
		70_000:  {made: true, every: 6, looks: true},
		100_000: {made: true, every: 12, looks: true},
	} {
		if got := newPlan(n, 30*time.Second, false); got != want {
			t.Errorf("%d goroutines: %+v, want %+v", n, got, want)
		}
	}
}

func TestMemStats_TheProfileIsScaledAsPprofDoes(t *testing.T) {
	t.Parallel()
	text := "heap profile: 3: 1048704 [5: 9] @ heap/1048576\n1: 1048576 [1: 1048576] @ 0x1 0x2\n#\t0x1\tmain.f+0x1\t/a.go:1\n2: 128 [4: 256] @ 0x3\n0: 0 [9: 99] @ 0x4\nrubbish\n-1: 5 [\n" +
		"# runtime.MemStats\n# HeapAlloc = 5\n# HeapSys = 5\n# HeapIdle = 5\n# HeapInuse = 5\n# LastGC = 1700000000000000000\n"
	s, err := readMemStats(strings.NewReader(text))
	// 1 MB at a distance of 512 KB: ÷ (1-e^-2); two of 64 bytes: × about 8192.5 each.
	if want := 1048576/0.8646647 + 2*64*8192.5; err != nil || s.Sampling != 524288 || s.Profiled < want*0.999 || s.Profiled > want*1.001 || s.LastGC != 1.7e18 {
		t.Fatalf("%+v, want about %.0f: %v", s, want, err)
	}
}

// reading is what a heap was read as.
type reading struct {
	alloc, profiled, total float64 // MB; total is what was allocated since start
	collected              int     // second of the last collection
	natural, quiet         bool
}

func heapOfReadings(readings ...reading) HeapReport {
	c := &Capture{Target: "told", Window: time.Minute, Started: time.Unix(0, 0)}
	for i, r := range readings {
		c.Heaps = append(c.Heaps, Heap{At: time.Duration(i) * 15 * time.Second, Natural: r.natural, Quiet: r.quiet, Stats: MemStats{
			HeapAlloc: r.alloc * 1e6, Profiled: r.profiled * 1e6, TotalAlloc: r.total * 1e6, Sampling: 512 << 10, LastGC: float64(1000+r.collected) * 1e9,
		}})
	}
	return Analyse(c, "").Heap
}

func TestHeap_GarbageMadeWhileReadingIsNoGrowth(t *testing.T) {
	t.Parallel()
	garbage := func(profiled ...float64) []reading {
		var all []reading
		for i, alloc := range []float64{2, 4, 6.1, 8, 10} {
			all = append(all, reading{alloc: alloc, profiled: profiled[i], total: 15_000 * float64(i)})
		}
		return all
	}
	if h := heapOfReadings(garbage(1, 1.5, 1, 1.5, 1)...); h.Verdict != "flat" {
		t.Errorf("the profile held none of it: %+v", h)
	}
	if h := heapOfReadings(garbage(1, 3, 5, 7, 9)...); h.Verdict != "growing" {
		t.Errorf("the profile held all of it: %+v", h)
	}
}

func TestHeap_OfALargeTargetIsJudgedByItsOwnCollections(t *testing.T) {
	t.Parallel()
	r := func(profiled float64, collected int) reading {
		return reading{alloc: 3000, profiled: profiled, collected: collected, natural: true}
	}
	idle := func(totals ...float64) []reading {
		var all []reading
		for i, total := range totals {
			all = append(all, reading{alloc: 1100, profiled: 1000, total: total, collected: -60, natural: true, quiet: i == 2})
		}
		return all
	}
	for name, tc := range map[string]struct {
		readings []reading
		want     string
	}{
		"growing":                               {[]reading{r(1000, -60), r(1100, 0), r(1150, 30), r(1200, 60), r(1200, 60)}, "growing"},
		"flat":                                  {[]reading{r(1000, -60), r(1001, 0), r(999, 30), r(1001, 60)}, "flat"},
		"loaded just before":                    {[]reading{r(500, -60), r(1000, 0), r(1100, 30), r(900, 60)}, "unknown"},
		"no collection, little allocated":       {idle(0, 1, 2, 2, 3), "flat"},
		"no collection, much by being examined": {idle(0, 50, 53, 55.5, 100), "flat"},
		"no collection, much allocated":         {idle(0, 50, 100, 101, 150), "unknown"},
	} {
		h := heapOfReadings(tc.readings...)
		if h.Verdict != tc.want {
			t.Errorf("%s: %+v", name, h)
		}
		if name == "growing" && fmt.Sprintf("%.0f", h.Slope/1e6) != "100" {
			t.Errorf("100 MB a minute are told as %.1f", h.Slope/1e6)
		}
	}
}
