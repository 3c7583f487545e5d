package vet

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/tools/go/analysis/checker"
	"golang.org/x/tools/go/packages"
)

// Config of a run.
type Config struct {
	// Dir is where patterns are resolved. Defaults to the current folder.
	Dir string
	// Patterns are packages as the go command takes them. Defaults to ./...
	Patterns []string
	// Rules is a file with layer rules. Defaults to none.
	Rules string
	// Tests says whether test files are looked at too. Defaults to false.
	Tests bool
}

// Finding is something found.
type Finding struct {
	File     string `json:"file"` // relative to Config.Dir where it is below it
	Line     int    `json:"line"`
	Column   int    `json:"column"`
	Analyzer string `json:"analyzer"`
	Cause    string `json:"cause"` // as doctor names it, "cost" or "layer"
	Message  string `json:"message"`
}

// Run examines packages and lists what was found, by file and line. The error says what
// could not be examined; what was found elsewhere is returned all the same.
func Run(cfg Config) ([]Finding, error) {
	if cfg.Rules != "" {
		if _, err := loadRules(cfg.Rules); err != nil {
			return nil, err
		}
	}
	patterns := cfg.Patterns
	if len(patterns) == 0 {
		patterns = []string{"./..."}
	}
	dir, err := filepath.Abs(cmp.Or(cfg.Dir, "."))
	if err != nil {
		return nil, err
	}
	pkgs, err := packages.Load(&packages.Config{Dir: dir, Mode: packages.LoadAllSyntax | packages.NeedModule, Tests: cfg.Tests}, patterns...)
	if err != nil {
		return nil, fmt.Errorf("load the packages: %w", err)
	}
	var broken []error
	pkgs = slices.DeleteFunc(pkgs, func(p *packages.Package) bool {
		for _, e := range p.Errors {
			broken = append(broken, e)
		}
		return len(p.Errors) > 0
	})
	if len(pkgs) == 0 {
		return nil, errors.Join(append(broken, errors.New("no package to examine"))...)
	}
	graph, err := checker.Analyze(Analyzers(cfg.Rules), pkgs, nil)
	if err != nil {
		return nil, fmt.Errorf("analyse: %w", err)
	}
	found, failed := collect(graph, dir)
	if len(broken) > 0 {
		failed = nil // what depends on a broken package only repeats that it is
	}
	return found, errors.Join(append(broken, failed...)...)
}

func collect(graph *checker.Graph, dir string) (found []Finding, failed []error) {
	seen := map[Finding]bool{}
	for _, act := range graph.Roots {
		if act.Err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", act, act.Err))
			continue
		}
		for _, d := range act.Diagnostics {
			at := act.Package.Fset.Position(d.Pos)
			f := Finding{File: relative(dir, at.Filename), Line: at.Line, Column: at.Column, Analyzer: act.Analyzer.Name, Cause: d.Category, Message: d.Message}
			if !seen[f] {
				seen[f] = true
				found = append(found, f)
			}
		}
	}
	slices.SortFunc(found, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.File, b.File), a.Line-b.Line, a.Column-b.Column, strings.Compare(a.Analyzer, b.Analyzer))
	})
	return found, failed
}

func relative(dir, file string) string {
	if rel, err := filepath.Rel(dir, file); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return file
}
