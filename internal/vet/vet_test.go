package vet

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/analysis/analysistest"

	"github.com/penstockhq/penstock/internal/doctor"
)

func TestAnalyzers_ReportWhatIsMarkedAndNothingElse(t *testing.T) {
	t.Parallel()
	for pkg, analyzers := range map[string][]*analysis.Analyzer{
		"chansend": {newChanSend()}, "noend": {newNoEnd()}, "requestctx": {newRequestContext()},
		"missedunlock": {newMissedUnlock()}, "deadline": {newDeadline()}, "cost": {newTicker(), newHotLoop()},
	} {
		t.Run(pkg, func(t *testing.T) {
			t.Parallel()
			if len(analyzers) == 1 {
				analysistest.Run(t, analysistest.TestData(), analyzers[0], pkg+"/...")
				return
			}
			// Both report into one file: run them as one.
			both := &analysis.Analyzer{Name: "both", Doc: "both", Requires: analyzers[0].Requires, Run: func(p *analysis.Pass) (any, error) {
				for _, a := range analyzers {
					if _, err := a.Run(p); err != nil {
						return nil, err
					}
				}
				return nil, nil //nolint:nilnil // analyzers without a result return none
			}}
			analysistest.Run(t, analysistest.TestData(), both, pkg)
		})
	}
}

// TestRun_OnAModuleOfItsOwn writes one to disk and runs what users run.
func TestRun_OnAModuleOfItsOwn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module shop\n\ngo 1.24\n")
	write("order/order.go", "package order\n\nimport _ \"shop/order/rest\"\n")
	write("order/rest/rest.go", "package rest\n\nimport \"net/http\"\n\nfunc get(u string) {\n\thttp.Get(u)\n\thttp.Head(u) //penstock:ignore ends with the process\n\thttp.Head(u) //penstock:ignore \n}\n")
	write("lost/lost.go", "package lost\n\nimport \"context\"\n\nfunc f(ctx context.Context) context.Context {\n\tctx, _ = context.WithCancel(ctx)\n\treturn ctx\n}\n")
	write("rules.yaml", "layers:\n  - packages: order\n    deny: [order/**]\n    allow: [order/port]\n    why: the domain stands alone\n")
	found, err := Run(Config{Dir: dir, Rules: filepath.Join(dir, "rules.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range found {
		got = append(got, f.File+" "+f.Analyzer+" "+f.Cause)
	}
	want := []string{"lost/lost.go lostcancel select", "order/order.go layers layer", "order/rest/rest.go bodyclose http-body", "order/rest/rest.go bodyclose http-body", "order/rest/rest.go deadline http-body", "order/rest/rest.go deadline http-body"}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	write("rules.yaml", "layers:\n  - packages: order\n    forbid: [x]\n")
	if _, err := Run(Config{Dir: dir, Rules: filepath.Join(dir, "rules.yaml")}); err == nil {
		t.Error("a rule with an unknown word is accepted")
	}
	write("broken/broken.go", "package broken\n\nfunc f() { undefined() }\n")
	if found, err := Run(Config{Dir: dir}); err == nil || len(found) == 0 {
		t.Errorf("a broken package: %d findings, %v", len(found), err)
	}
}

func TestCauses_AreThoseOfDoctor(t *testing.T) {
	t.Parallel()
	for _, cause := range bundled() {
		if !slices.Contains(doctor.Causes(), doctor.Cause(cause)) {
			t.Errorf("%q is no cause", cause)
		}
	}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, pkg string
		want         bool
	}{
		{"internal/*", "internal/order", true}, {"internal/*", "internal/order/rest", false},
		{"internal/**", "internal/order/rest", true}, {"internal/**", "internal", true}, {"internal/**", "internals", false},
		{"internal/*/*rest", "internal/order/orderrest", true}, {"net/http", "net/http", true}, {"net/http", "net/http/pprof", false},
	} {
		if got := match(c.pattern, c.pkg); got != c.want {
			t.Errorf("match(%q, %q) = %t", c.pattern, c.pkg, got)
		}
	}
}
