package cli

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/tools/go/analysis/unitchecker"

	"github.com/penstockhq/penstock/internal/vet"
)

type vetCmd struct {
	Packages []string `arg:"" optional:"" help:"Packages, as the go command takes them. Default: ./..."`
	Rules    string   `help:"YAML file with rules of which package may import which." type:"existingfile" placeholder:"FILE"`
	Tests    bool     `help:"Look at test files too."`
	Costs    bool     `help:"Also print what costs time and breaks nothing; it never fails the run." default:"true" negatable:""`
	JSON     bool     `help:"Print the findings as JSON." name:"json"`
}

// Help is shown by --help.
func (*vetCmd) Help() string {
	return `Exits with 0 if nothing was found, 1 if something was, 2 if packages could not be examined.
"//penstock:ignore REASON" on a line, or above it, silences what is found there.
The same analyzers run as "go vet -vettool=$(command -v penstock) ./...", and in golangci-lint as the module plugin github.com/penstockhq/penstock/lint.`
}

// Run examines the source.
func (c *vetCmd) Run(out streams) error {
	found, err := vet.Run(vet.Config{Patterns: c.Packages, Rules: c.Rules, Tests: c.Tests})
	failing := 0
	shown := []vet.Finding{}
	for _, f := range found {
		if f.Cause != vet.Cost {
			failing++
		} else if !c.Costs {
			continue
		}
		shown = append(shown, f)
	}
	if c.JSON {
		enc := json.NewEncoder(out.out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(shown); err != nil {
			return couldNot("vet", err)
		}
	} else {
		for _, f := range shown {
			fmt.Fprintf(out.out, "%s:%d:%d: %s (%s)\n", f.File, f.Line, f.Column, f.Message, f.Analyzer)
		}
	}
	if err != nil {
		return couldNot("vet", err)
	}
	if failing > 0 {
		return errReported
	}
	return nil
}

// asVetTool runs the analyzers for "go vet -vettool", which speaks to its tool by arguments
// of its own: -V=full, -flags, or the name of a file that ends in .cfg after nothing but
// flags. For these it does not return.
func asVetTool(args []string) {
	if len(args) == 0 {
		return
	}
	flags, last := args[:len(args)-1], args[len(args)-1]
	named := slices.ContainsFunc(flags, func(a string) bool { return !strings.HasPrefix(a, "-") })
	if args[0] == "-V=full" || args[0] == "-flags" || (strings.HasSuffix(last, ".cfg") && !named) {
		unitchecker.Main(vet.Analyzers("")...)
	}
}
