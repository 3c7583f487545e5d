package lint_test

import (
	"testing"

	"github.com/golangci/plugin-module-register/register"

	_ "github.com/penstockhq/penstock/lint"
)

func TestPlugin_IsFoundByItsNameAndRefusesUnknownSettings(t *testing.T) {
	t.Parallel()
	construct, err := register.GetPlugin("penstock")
	if err != nil {
		t.Fatal(err)
	}
	p, err := construct(map[string]any{"rules": "layers.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	analyzers, err := p.BuildAnalyzers()
	if err != nil || len(analyzers) < 10 || p.GetLoadMode() != register.LoadModeTypesInfo {
		t.Fatalf("%d analyzers, %v", len(analyzers), err)
	}
	if _, err := construct(map[string]any{"colour": "red"}); err == nil {
		t.Error("a setting that does not exist is accepted")
	}
}
