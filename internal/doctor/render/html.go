package render

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"

	"github.com/penstockhq/penstock/internal/doctor"
)

//go:embed report.html
var page string

// HTML writes a report as one page that needs nothing else: no network, no other file.
func HTML(w io.Writer, r *doctor.Report) error {
	t, err := template.New("report").Funcs(template.FuncMap{
		"short": doctor.ShortName, "file": shortFile, "size": doctor.Size, "clean": clean,
		"num":     func(f float64) string { return fmt.Sprintf("%.3g", f) },
		"leak":    leakOf(r),
		"pattern": patternOf(r),
		"fixText": func(s string) string { text, _, _ := strings.Cut(s, "\n\n"); return text },
		"fixCode": func(s string) string { _, code, _ := strings.Cut(s, "\n\n"); return code },
	}).Parse(page)
	if err != nil {
		return fmt.Errorf("the page's template: %w", err)
	}
	return t.Execute(w, r)
}

func leakOf(r *doctor.Report) func(id string) *doctor.Leak {
	return func(id string) *doctor.Leak {
		for _, l := range r.Leaks {
			if l.ID == id {
				return l
			}
		}
		return nil
	}
}

func patternOf(r *doctor.Report) func(id string) *doctor.Pattern {
	return func(id string) *doctor.Pattern {
		for i := range r.CPU.Patterns {
			if p := &r.CPU.Patterns[i]; p.ID+":"+p.Function == id {
				return p
			}
		}
		return nil
	}
}
