package doctor_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"github.com/penstockhq/penstock/internal/doctor"
)

// sampled is a program whose CPU profile of ten seconds is told: so many samples, a
// hundredth of a second each, of which a share has the stack, innermost first.
func sampled(t *testing.T, samples int, share float64, stack ...string) *doctor.Capture {
	t.Helper()
	p := &profile.Profile{
		SampleType: []*profile.ValueType{{Type: "samples", Unit: "count"}, {Type: "cpu", Unit: "nanoseconds"}},
		PeriodType: &profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, Period: 10_000_000, DurationNanos: 10_000_000_000,
	}
	add := func(n int, stack ...string) {
		s := &profile.Sample{Value: []int64{int64(n), int64(n) * p.Period}}
		for _, name := range stack {
			id := uint64(len(p.Function) + 1)
			fn := &profile.Function{ID: id, Name: name, Filename: "/src/shop/" + name + ".go"}
			loc := &profile.Location{ID: id, Line: []profile.Line{{Function: fn, Line: 7}}}
			p.Function, p.Location, s.Location = append(p.Function, fn), append(p.Location, loc), append(s.Location, loc)
		}
		p.Sample = append(p.Sample, s)
	}
	n := int(share * float64(samples))
	add(n, stack...)
	add(samples-n, "main.price", "main.main")
	var raw bytes.Buffer
	if err := p.Write(&raw); err != nil {
		t.Fatal(err)
	}
	return &doctor.Capture{
		Target: "told", Window: 10 * time.Second, Started: time.Unix(0, 0), Profiles: map[string][]byte{"cpu": raw.Bytes()},
		Heaps: []doctor.Heap{ // it collects often and allocates large things
			{Stats: doctor.MemStats{HeapAlloc: 1 << 20}},
			{At: 10 * time.Second, Stats: doctor.MemStats{HeapAlloc: 1 << 20, NumGC: 1000, TotalAlloc: 1e9, Mallocs: 1e5}},
		},
	}
}

func TestAnalyse_AShareOfAFewSamplesMayBeChance(t *testing.T) {
	t.Parallel()
	for name, pattern := range map[string]struct {
		from  float64 // the share from which it is a finding
		stack []string
		small bool // things are allocated
	}{
		"cpu":           {0.20, []string{"fmt.Sprintf", "main.key", "main.main"}, false},
		"gc":            {0.25, []string{"runtime.scanobject", "runtime.gcBgMarkWorker.func2"}, false},
		"small objects": {0.40, []string{"runtime.mallocgc", "main.price", "main.main"}, true},
	} {
		for _, c := range []struct {
			samples int
			above   float64
			sure    bool
		}{{1000, -0.01, false}, {1000, 0.02, false}, {1000, 0.04, true}, {10_000, 0.02, true}} {
			told := sampled(t, c.samples, pattern.from+c.above, pattern.stack...)
			if pattern.small {
				told.Heaps[1].Stats.Mallocs = 1e7
			}
			r := doctor.Analyse(told, "")
			if sure := len(r.Failing(doctor.Kinds())) > 0; sure != c.sure {
				t.Errorf("%s, %+.0f %% above, of %d samples: %+v", name, 100*c.above, c.samples, r.Findings)
			}
		}
	}
}

func TestAnalyse_MatchingARegularExpressionIsNotCompilingIt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		compiles bool
		stack    []string
	}{
		{false, []string{"regexp/syntax.(*Inst).MatchRunePos", "regexp.(*Regexp).doOnePass", "regexp.(*Regexp).MatchString", "main.check", "main.main"}},
		{true, []string{"regexp/syntax.(*parser).push", "regexp/syntax.parse", "regexp/syntax.Parse", "regexp.compile", "regexp.MustCompile", "main.check", "main.main"}},
		{true, []string{"runtime.mallocgc", "regexp.compile", "regexp.MatchString", "main.check", "main.main"}},
	} {
		r := doctor.Analyse(sampled(t, 1000, 0.5, c.stack...), "")
		found := len(r.Findings) > 0
		if found != c.compiles || found && (r.Findings[0].Function != "main.check" || r.CPU.Patterns[0].ID != "regexp-compile") {
			t.Errorf("%q: %+v", c.stack, r.Findings)
		}
	}
}
