package doctor

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/google/pprof/profile"
)

// CPUReport is where CPU time went.
type CPUReport struct {
	Seconds  float64   `json:"seconds"`  // that the profile took
	Cores    float64   `json:"cores"`    // that were in use on average
	Top      []Site    `json:"top"`      // in the program's own code, with what it called in libraries
	Patterns []Pattern `json:"patterns"` // known ways to waste
	Flame    *Flame    `json:"flame,omitempty"`
}

// Flame is a node of the tree of calls.
type Flame struct {
	Name  string   `json:"n"`
	Value float64  `json:"v"` // seconds, with what is below
	Below []*Flame `json:"c,omitempty"`
}

// pattern is a way to waste CPU time that shows in the calls.
type pattern struct {
	id, title string
	// in tells whether a frame is of the pattern, given the frames it calls and those
	// that call it.
	in func(frame string) bool
	// findPercent is the share of the CPU time from which it is a finding; from a third
	// of it, it is shown with low confidence. Judged by what usually pays off: below,
	// another place is the better one to begin with.
	findPercent float64
	// confirm asks for evidence beyond the share. Nil asks for none.
	confirm     func(a *analysis, at Frame) (evidence string, ok bool)
	explanation string
	fix         string
}

func hasPrefix(prefixes ...string) func(string) bool {
	return func(fn string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(fn, p) })
	}
}

var patterns = []pattern{
	{
		id: "json-reflection", title: "JSON by reflection", findPercent: 40,
		in:          hasPrefix("encoding/json.(*encodeState).", "encoding/json.(*decodeState).", "encoding/json.checkValid", "encoding/json.Marshal", "encoding/json.Unmarshal", "encoding/json/v2.", "encoding/json/jsontext."),
		explanation: "%s spends its time in encoding/json, which looks every type up by reflection for each value.",
		fix:         "Generate the code for these types (jx, easyjson), encode once what is sent many times, or send less.",
	},
	{
		id: "sprintf", title: "fmt.Sprintf on a hot path", findPercent: 20,
		in:          hasPrefix("fmt.Sprint", "fmt.Sprintf", "fmt.Sprintln", "fmt.Appendf", "fmt.Errorf"),
		explanation: "%s formats strings with fmt, which parses the format and boxes every argument each time.",
		fix:         "Use strconv.Append… on a buffer, or put the values side by side in a struct as the key of a map.",
	},
	{
		id: "string-building", title: "strings joined piece by piece", findPercent: 20,
		in:          hasPrefix("runtime.concatstring"),
		explanation: "%s joins strings with +, which copies all that was joined before for every piece.",
		fix:         "Use strings.Builder, with Grow if the length is known.",
	},
	{
		id: "time-now", title: "the clock read in a tight loop", findPercent: 20,
		in:          hasPrefix("time.Now", "time.Since", "time.Until", "time.now", "runtime.nanotime", "runtime.walltime"),
		explanation: "%s reads the clock so often that reading it is what it does.",
		fix:         "Read it once a batch and hand the time on, or look every thousandth round.",
	},
	{
		id: "regexp-compile", title: "a regular expression compiled per call", findPercent: 10,
		in:          hasPrefix("regexp.Compile", "regexp.MustCompile", "regexp.compile", "regexp/syntax.Parse", "regexp/syntax.Compile", "regexp.Match"), // matching calls regexp/syntax, too
		explanation: "%s compiles a regular expression each time it is called.",
		fix:         "Compile it once, in a package variable.",
	},
	{
		id: "log-under-lock", title: "a logger that writes under its lock", findPercent: 25,
		in:          hasPrefix("log.(*Logger).output", "log.(*Logger).Output", "log/slog.(*commonHandler).handle", "go.uber.org/zap/zapcore.(*lockedWriteSyncer).Write", "github.com/sirupsen/logrus.(*Entry).write"),
		confirm:     writesUnderLock,
		explanation: "%s logs, and each line is a system call with the logger's lock held, for which all others who log wait.",
		fix:         "Put a buffer between (bufio.Writer flushed by a ticker, zapcore.BufferedWriteSyncer), log less on this path, or sample.",
	},
	{
		id: "select-default-spin", title: "a loop that polls and never waits", findPercent: 30,
		in:          hasPrefix("runtime.selectnbrecv", "runtime.selectnbsend", "runtime.selectgo", "runtime.Gosched", "runtime.mcall"),
		confirm:     runsAlways,
		explanation: "%s comes round a select with default (or runtime.Gosched) again and again without waiting, and keeps a core busy with it.",
		fix:         "Leave the default away and wait for the event; where it must look from time to time, wait on a ticker.",
	},
}

func (a *analysis) cpuTime() {
	r := &a.CPU
	r.Top, r.Patterns = []Site{}, []Pattern{}
	if a.cpu == nil {
		return
	}
	col, err := column(a.cpu, "cpu")
	if err != nil {
		a.Unavailable = append(a.Unavailable, Missing{What: "cpu", Why: err.Error(), Cost: costCPU})
		return
	}
	total := 0.0
	for _, s := range a.cpu.Sample {
		total += float64(s.Value[col])
	}
	r.Seconds = float64(a.cpu.DurationNanos) / 1e9
	if r.Seconds > 0 {
		r.Cores = total / 1e9 / r.Seconds
	}
	if total <= 0 {
		return
	}
	r.Top = a.topSites(mergeLines(sums(a.cpu, "cpu", a.owned)), func(s *Site, v float64) { s.Percent = 100 * v / total })
	for _, p := range patterns {
		a.matchPattern(p, total)
	}
	slices.SortStableFunc(r.Patterns, func(x, y Pattern) int { return cmp.Compare(y.Percent, x.Percent) })
	r.Flame = flame(a.cpu, col)
}

// mergeLines adds the lines of a function up at the line with the most.
func mergeLines(m map[Frame]float64) map[Frame]float64 {
	type function struct{ name, file string }
	line := map[function]Frame{}
	sum := map[function]float64{}
	for f, v := range m {
		fn := function{f.Func, f.File}
		sum[fn] += v
		if best, ok := line[fn]; !ok || v > m[best] || (v == m[best] && f.Line < best.Line) {
			line[fn] = f
		}
	}
	merged := map[Frame]float64{}
	for fn, f := range line {
		merged[f] = sum[fn]
	}
	return merged
}

// matchPattern adds the places where a pattern takes a share worth a word.
func (a *analysis) matchPattern(p pattern, total float64) {
	at := mergeLines(sums(a.cpu, "cpu", func(frames []Frame) Frame { return a.callerOf(p, frames) }))
	for f, v := range at {
		percent := 100 * v / total
		// An idle program wastes nothing, whatever the shares.
		if percent < p.findPercent/3 || v/1e9 < 0.03*a.CPU.Seconds {
			continue
		}
		found := Pattern{
			ID: p.id, Title: p.title, Function: f.Func, File: f.File, Line: f.Line, Source: a.src.line(f), Percent: percent,
			Confidence: Low, Explanation: fmt.Sprintf(p.explanation, ShortName(f.Func)), Fix: p.fix,
			Evidence: fmt.Sprintf("%.0f %% of the samples, %.2f cores", percent, v/1e9/a.CPU.Seconds),
		}
		if p.confirm != nil {
			evidence, ok := p.confirm(a, f)
			if !ok {
				continue
			}
			found.Evidence += "; " + evidence
		}
		// On a busy machine a program gets less of the cores than it would take: a share
		// that stands out counts from half of that on.
		cores := v / 1e9 / a.CPU.Seconds
		if a.surely(percent) >= p.findPercent && (cores >= 0.2 || (cores >= 0.1 && percent >= 1.5*p.findPercent)) {
			found.Confidence = Medium
			if percent >= 2*p.findPercent {
				found.Confidence = High
			}
		}
		a.CPU.Patterns = append(a.CPU.Patterns, found)
	}
}

// surely is what a share of the CPU time is at least, in percent: the profile is a sample,
// and in one case of six it shows a standard error more than there was, in one of forty two.
func (a *analysis) surely(percent float64) float64 {
	samples := a.CPU.Cores * a.CPU.Seconds * 1e9 / float64(max(a.cpu.Period, 1))
	share := min(percent/100, 1)
	return percent - 100*2*math.Sqrt(share*(1-share)/max(samples, 1))
}

// callerOf finds who calls into a pattern: the innermost frame of the program's own code
// above it, or none if the stack is not of the pattern.
func (a *analysis) callerOf(p pattern, frames []Frame) Frame {
	for i, f := range frames {
		if a.tracks.code.owner(f) == ownUser {
			return Frame{} // a pattern is what own code calls directly, if through libraries
		}
		if !p.in(f.Func) {
			continue
		}
		rest := frames[i+1:]
		if len(rest) == 0 || isOwn(rest) {
			return Frame{}
		}
		by := rest[a.tracks.code.blame(rest)]
		if a.tracks.code.owner(by) == ownRuntime || strings.HasSuffix(by.Func, ".init") {
			return Frame{}
		}
		return by
	}
	return Frame{}
}

// writesUnderLock confirms that goroutines were seen waiting for a logger's lock, or else
// that logging is for the most part the system call, which loggers make with it held.
func writesUnderLock(a *analysis, at Frame) (string, bool) {
	waiting := 0
	for i := range a.Dumps {
		for j := range a.Dumps[i].Goroutines {
			g := &a.Dumps[i].Goroutines[j]
			if causeOf(g.State, g.Stack.Frames).isLock() && slices.ContainsFunc(g.Stack.Frames, func(f Frame) bool {
				return strings.HasPrefix(f.Func, "log.(*Logger).") || strings.HasPrefix(f.Func, "log/slog.") || strings.Contains(f.Func, "zapcore.(*lockedWriteSyncer)") || strings.Contains(f.Func, "logrus.(*")
			}) {
				waiting++
			}
		}
	}
	if waiting >= 3 {
		return fmt.Sprintf("%d goroutines were caught waiting for the logger", waiting), true
	}
	isWrite := hasPrefix("os.(*File).Write", "net.(*conn).Write", "syscall.write", "syscall.Write")
	in := sums(a.cpu, "cpu", func(frames []Frame) Frame {
		switch {
		case !slices.ContainsFunc(frames, func(f Frame) bool { return f.Func == at.Func }):
			return Frame{}
		case slices.ContainsFunc(frames, func(f Frame) bool { return isWrite(f.Func) }):
			return Frame{Func: "write"}
		}
		return Frame{Func: "other"}
	})
	write, other := in[Frame{Func: "write"}], in[Frame{Func: "other"}]
	return fmt.Sprintf("%.0f %% of it in writing, which the lock is held for", 100*write/max(1, write+other)), write > other
}

// runsAlways confirms that a goroutine was on a core, or wanted to be, in the same
// function in nearly all dumps: whoever waits at times is no spin.
func runsAlways(a *analysis, at Frame) (string, bool) {
	looks := map[uint64]int{}
	for i := range a.Dumps {
		for j := range a.Dumps[i].Goroutines {
			g := &a.Dumps[i].Goroutines[j]
			if causeOf(g.State, g.Stack.Frames) == Spin && slices.ContainsFunc(g.Stack.Frames, func(f Frame) bool { return f.Func == at.Func }) {
				looks[g.ID]++
			}
		}
	}
	for id, n := range looks {
		if n >= 3 && n*10 >= len(a.Dumps)*8 {
			return fmt.Sprintf("goroutine %d was running there in %d of %d looks", id, n, len(a.Dumps)), true
		}
	}
	return "", false
}

// flame builds the tree of calls, outermost first. What is less than a thousandth is left
// out: it could not be seen.
func flame(p *profile.Profile, col int) *Flame {
	type node struct {
		value float64
		below map[string]*node
	}
	root := &node{below: map[string]*node{}}
	var frames []Frame
	for _, s := range p.Sample {
		v := float64(s.Value[col]) / 1e9
		root.value += v
		at := root
		frames = sampleFrames(s, frames)
		for i := len(frames) - 1; i >= max(0, len(frames)-100); i-- {
			next := at.below[frames[i].Func]
			if next == nil {
				next = &node{below: map[string]*node{}}
				at.below[frames[i].Func] = next
			}
			next.value += v
			at = next
		}
	}
	var build func(name string, n *node) *Flame
	build = func(name string, n *node) *Flame {
		f := &Flame{Name: name, Value: n.value}
		for child, c := range n.below {
			if c.value*1000 >= root.value {
				f.Below = append(f.Below, build(child, c))
			}
		}
		slices.SortFunc(f.Below, func(x, y *Flame) int {
			return cmp.Or(cmp.Compare(y.Value, x.Value), strings.Compare(x.Name, y.Name))
		})
		return f
	}
	return build("all", root)
}
