package vet

import (
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"

	"github.com/goccy/go-yaml"
	"golang.org/x/tools/go/analysis"
)

// Rule is one line of a file of layer rules:
//
//	layers:
//	  - packages: internal/order/**       # of this module; ** is any depth
//	    deny: [internal/*/*rest, net/http] # what they may not import
//	    why: the domain knows nothing of transport
type Rule struct {
	Packages string   `yaml:"packages"`
	Deny     []string `yaml:"deny"`
	Allow    []string `yaml:"allow"` // of what Deny forbids
	Why      string   `yaml:"why"`
}

// loadRules reads and checks a file of rules.
func loadRules(file string) ([]Rule, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the layer rules: %w", err)
	}
	var doc struct {
		Layers []Rule `yaml:"layers"`
	}
	if err := yaml.UnmarshalWithOptions(text, &doc, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for i, r := range doc.Layers {
		if r.Packages == "" || len(r.Deny) == 0 {
			return nil, fmt.Errorf("%s: rule %d needs packages and deny", file, i+1)
		}
	}
	return doc.Layers, nil
}

func newLayers(file string) *analysis.Analyzer {
	rules := sync.OnceValues(func() ([]Rule, error) { return loadRules(file) })
	return &analysis.Analyzer{
		Name: "layers", Doc: "report imports that the layer rules forbid",
		Run: func(pass *analysis.Pass) (any, error) {
			all, err := rules()
			if err != nil {
				return nil, err
			}
			module := ""
			if pass.Module != nil {
				module = pass.Module.Path
			}
			checkLayers(pass, module, all)
			return nil, nil
		},
	}
}

func checkLayers(pass *analysis.Pass, module string, rules []Rule) {
	within := func(pkg string) string { return strings.TrimPrefix(strings.TrimPrefix(pkg, module), "/") }
	for _, file := range pass.Files {
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				continue // the compiler says so
			}
			for _, r := range rules {
				if !match(r.Packages, within(pass.Pkg.Path())) || matchAny(r.Allow, within(imported)) || !matchAny(r.Deny, within(imported)) {
					continue
				}
				why := ""
				if r.Why != "" {
					why = ": " + r.Why
				}
				pass.Report(analysis.Diagnostic{Pos: spec.Pos(), Category: "layer", Message: "layer: " + within(pass.Pkg.Path()) + " may not import " + within(imported) + why})
			}
		}
	}
}

func matchAny(patterns []string, pkg string) bool {
	for _, p := range patterns {
		if match(p, pkg) {
			return true
		}
	}
	return false
}

// match is path.Match with "**" at the end for any depth, none included.
func match(pattern, pkg string) bool {
	base, deep := strings.CutSuffix(pattern, "/**")
	if !deep {
		ok, err := path.Match(pattern, pkg)
		return err == nil && ok
	}
	parts := strings.Count(base, "/") + 1
	words := strings.Split(pkg, "/")
	if len(words) < parts {
		return false
	}
	ok, err := path.Match(base, strings.Join(words[:parts], "/"))
	return err == nil && ok
}
