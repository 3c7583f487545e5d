// Package render shows the reports of package doctor to people: on a terminal and as a
// page of HTML.
//
// Everything in a report may come from a hostile target. On a terminal, control
// characters are replaced; in HTML, html/template escapes.
package render

import (
	"fmt"
	"io"
	"path"
	"strings"
	"unicode"

	"github.com/penstockhq/penstock/internal/doctor"
)

// width is where lines are broken.
const width = 100

// fullFindings is how many findings are told at length, so that a report fits a screen.
const fullFindings = 3

type colours struct{ bold, dim, red, yellow, green, off string }

var ansi = colours{"\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[33m", "\x1b[32m", "\x1b[0m"}

// Text writes a report for a terminal.
func Text(w io.Writer, r *doctor.Report, colour bool) error {
	t := &text{}
	if colour {
		t.c = ansi
	}
	t.head(r)
	for i, f := range r.Findings {
		t.finding(i, f, r)
	}
	if len(r.Findings) == 0 && r.Verdict == doctor.Healthy {
		t.linef("nothing found: goroutines come and go, memory is flat, time goes where it is used")
	}
	t.where(r)
	t.missing(r)
	_, err := io.WriteString(w, t.b.String())
	return err
}

type text struct {
	b strings.Builder
	c colours
}

func (t *text) linef(format string, args ...any) {
	t.b.WriteString(strings.TrimRight(fmt.Sprintf(format, args...), " "))
	t.b.WriteByte('\n')
}

// clean keeps a hostile target from writing to the terminal anything but text.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || (!unicode.IsPrint(r) && r != '\t') {
			return '·'
		}
		return r
	}, s)
}

func (t *text) verdict(v doctor.Verdict) string {
	c := t.c.green
	switch v {
	case doctor.Leaking, doctor.Unresponsive:
		c = t.c.red
	case doctor.Degraded:
		c = t.c.yellow
	case doctor.Healthy:
	}
	return t.c.bold + c + strings.ToUpper(string(v)) + t.c.off
}

func (t *text) head(r *doctor.Report) {
	version := ""
	if r.GoVersion != "" {
		version = ", " + clean(r.GoVersion)
	}
	t.linef("%s  %s  watched for %.0f s%s", t.verdict(r.Verdict), clean(r.Target), r.WindowSeconds, version)
	var facts []string
	if n := len(r.Timeline.Goroutines); n > 0 {
		facts = append(facts, fmt.Sprintf("goroutines %d → %d", r.Timeline.Goroutines[0], r.Timeline.Goroutines[n-1]))
	}
	if r.Heap.Verdict != "unknown" {
		facts = append(facts, fmt.Sprintf("heap %s, %s/min ± %s (%s)", doctor.Size(r.Heap.LiveBytes), signed(r.Heap.Slope), doctor.Size(r.Heap.Uncertainty), r.Heap.Verdict))
	}
	if r.CPU.Seconds > 0 {
		facts = append(facts, fmt.Sprintf("%.2f cores, GC %.0f %% of it", r.CPU.Cores, r.GC.Percent))
	}
	if len(facts) > 0 {
		t.linef("%s", strings.Join(facts, " · "))
	}
	t.linef("")
}

func signed(bytes float64) string {
	if bytes >= 0 {
		return "+" + doctor.Size(bytes)
	}
	return doctor.Size(bytes)
}

// site writes a place in the code as an editor takes it, with what stands there.
func (t *text) site(function, file string, line int, source string) string {
	s := clean(doctor.ShortName(function))
	if file != "" {
		s += fmt.Sprintf("  %s%s:%d%s", t.c.dim, clean(shortFile(file)), line, t.c.off)
	}
	if source != "" {
		s += "   " + t.c.bold + clean(source) + t.c.off
	}
	return s
}

// shortFile leaves the last three elements of a path: more wraps the line and says little.
func shortFile(file string) string {
	parts := strings.Split(path.Clean(file), "/")
	return strings.Join(parts[max(0, len(parts)-3):], "/")
}

func (t *text) finding(i int, f doctor.Finding, r *doctor.Report) {
	mark := t.c.red
	if f.Confidence != doctor.High {
		mark = t.c.yellow
	}
	t.linef("%s%d. %-10s%s %s%s%s  %s(confidence %s)%s", mark, i+1, f.Kind, t.c.off, t.c.bold, clean(f.Title), t.c.off, t.c.dim, f.Confidence, t.c.off)
	full := i < fullFindings
	source, explanation, fix := "", "", ""
	switch f.Kind {
	case doctor.KindLeak:
		t.leak(f, r, full, i == 0)
		return
	case doctor.KindHeap:
		source, explanation, fix = sourceOf(r.Heap.Top), r.Heap.Explanation, r.Heap.Fix
	case doctor.KindContention:
		source, explanation, fix = sourceOf(r.Contention.Top), r.Contention.Explanation, r.Contention.Fix
	case doctor.KindGC:
		source, explanation, fix = sourceOf(r.GC.Top), r.GC.Explanation, r.GC.Fix
	case doctor.KindCPU:
		for _, p := range r.CPU.Patterns {
			if p.ID+":"+p.Function == f.ID {
				source, explanation, fix = p.Source, p.Explanation, p.Fix
			}
		}
	case doctor.KindUnresponsive:
	}
	if f.Function != "" {
		t.linef("   at  %s", t.site(f.Function, f.File, f.Line, source))
	}
	if full {
		t.wrap("   ", clean(explanation))
		t.wrap("   fix: ", clean(fix))
		t.linef("")
	}
}

func sourceOf(top []doctor.Site) string {
	if len(top) == 0 {
		return ""
	}
	return top[0].Source
}

func (t *text) leak(f doctor.Finding, r *doctor.Report, full, example bool) {
	for _, l := range r.Leaks {
		if l.ID != f.ID {
			continue
		}
		t.linef("   at  %s", t.site(l.Function, l.File, l.Line, l.Source))
		if !full {
			return
		}
		if l.CreatedBy.Func != "" {
			t.linef("   by  %s", t.site(l.CreatedBy.Func, l.CreatedBy.File, l.CreatedBy.Line, ""))
		}
		for _, b := range l.Behind {
			t.linef("   +%d  %s %s  (%s)", b.Goroutines, b.Cause, t.site(b.Function, b.File, b.Line, ""), b.Why)
		}
		t.wrap("   ", clean(l.Explanation))
		fix, code, _ := strings.Cut(l.Fix, "\n\n")
		t.wrap("   fix: ", clean(fix))
		if example && code != "" {
			for line := range strings.Lines(code) {
				t.linef("   %s%s%s", t.c.dim, clean(strings.TrimRight(strings.ReplaceAll(line, "\t", "  "), "\n")), t.c.off)
			}
		}
		t.linef("")
		return
	}
}

// where says where time and memory go, findings or not.
func (t *text) where(r *doctor.Report) {
	if len(r.CPU.Top) > 0 && r.CPU.Cores >= 0.05 {
		t.linef("%scpu%s", t.c.bold, t.c.off)
		for _, s := range r.CPU.Top[:min(3, len(r.CPU.Top))] {
			t.linef("  %4.0f %%  %s", s.Percent, t.site(s.Function, s.File, s.Line, ""))
		}
	}
	if len(r.Contention.Top) > 0 && r.Contention.Seconds > 0.05*r.WindowSeconds {
		t.linef("%slocks%s (%s)", t.c.bold, t.c.off, r.Contention.From)
		for _, s := range r.Contention.Top[:min(2, len(r.Contention.Top))] {
			t.linef("  %4.1f s  %s", s.Seconds, t.site(s.Function, s.File, s.Line, ""))
		}
	}
	if r.GC.AllocRate > 0 {
		t.linef("%sgc%s   %.0f collections/min, %s/s in %.0f objects/s, longest pause %.2f ms", t.c.bold, t.c.off, r.GC.CyclesPerMinute, doctor.Size(r.GC.AllocRate), r.GC.ObjectRate, r.GC.MaxPause)
	}
	if r.Heap.Verdict == "flat" && r.Heap.Explanation != "" {
		t.wrap("heap ", r.Heap.Explanation+" "+r.Heap.Fix)
	}
}

func (t *text) missing(r *doctor.Report) {
	if len(r.Unavailable) == 0 {
		return
	}
	t.linef("")
	for _, m := range r.Unavailable {
		t.wrap("not available: ", clean(fmt.Sprintf("%s (%s): %s", m.What, m.Why, m.Cost)))
	}
}

// wrap breaks s at spaces, with prefix before the first line and as much space before the
// others.
func (t *text) wrap(prefix, s string) {
	if s == "" {
		return
	}
	pad := strings.Repeat(" ", len([]rune(prefix)))
	line := prefix
	empty := true
	for word := range strings.FieldsSeq(s) {
		if !empty && len([]rune(line))+1+len([]rune(word)) > width {
			t.linef("%s", line)
			line, empty = pad, true
		}
		if !empty {
			line += " "
		}
		line += word
		empty = false
	}
	t.linef("%s", line)
}

// Comparison writes what became of the findings between two examinations.
func Comparison(w io.Writer, c doctor.Comparison, colour bool) error {
	t := &text{}
	if colour {
		t.c = ansi
	}
	t.linef("before: %s, after: %s", t.verdict(doctor.Verdict(c.Before)), t.verdict(doctor.Verdict(c.After)))
	marks := map[string]string{"new": t.c.red, "worse": t.c.red, "better": t.c.green, "gone": t.c.green, "same": t.c.yellow}
	for _, ch := range c.Changes {
		f := ch.Finding
		t.linef("%s%-6s%s %-10s %s", marks[ch.What], ch.What, t.c.off, f.Kind, t.site(f.Function, f.File, f.Line, ""))
		amounts := fmt.Sprintf("%s → %s", amount(ch.Was, f.Unit), amount(ch.Is, f.Unit))
		if ch.Note != "" {
			amounts += "; " + ch.Note
		}
		t.linef("       %s%s%s", t.c.dim, clean(amounts), t.c.off)
	}
	switch {
	case len(c.Changes) == 0:
		t.linef("neither examination found anything")
	case c.Worse:
		t.linef("something got worse")
	default:
		t.linef("nothing got worse")
	}
	_, err := io.WriteString(w, t.b.String())
	return err
}

func amount(v float64, unit string) string {
	if unit == "bytes/min" {
		return doctor.Size(v) + "/min"
	}
	return fmt.Sprintf("%.3g %s", v, unit)
}
