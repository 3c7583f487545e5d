// Package lint is the analyzers of "penstock vet" as a module plugin of golangci-lint:
// name this package in .custom-gcl.yml, build with "golangci-lint custom", and enable the
// linter "penstock". Its one setting is "rules", a file with layer rules.
package lint

import (
	"github.com/golangci/plugin-module-register/register"
	"golang.org/x/tools/go/analysis"

	"github.com/penstockhq/penstock/internal/vet"
)

func init() { //nolint:gochecknoinits // this is how golangci-lint finds its plugins
	register.Plugin("penstock", New)
}

// Settings are what .golangci.yml may say below linters.settings.custom.penstock.settings.
type Settings struct {
	// Rules is a file with layer rules. Defaults to none.
	Rules string `json:"rules"`
}

// New returns the plugin; golangci-lint calls it.
func New(conf any) (register.LinterPlugin, error) { //nolint:ireturn // the signature is golangci-lint's
	s, err := register.DecodeSettings[Settings](conf)
	return plugin{s}, err
}

type plugin struct{ settings Settings }

// BuildAnalyzers is part of register.LinterPlugin.
func (p plugin) BuildAnalyzers() ([]*analysis.Analyzer, error) {
	return vet.Analyzers(p.settings.Rules), nil
}

// GetLoadMode is part of register.LinterPlugin.
func (plugin) GetLoadMode() string { return register.LoadModeTypesInfo }
