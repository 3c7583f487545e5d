package vet

import (
	"cmp"
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"strings"

	"github.com/timakin/bodyclose/passes/bodyclose"
	"golang.org/x/tools/go/analysis"
)

// considerate returns a with what it reports under the name of a cause, and without what
// is in generated files or is ignored by a comment. It holds for every way to run it.
func considerate(a *analysis.Analyzer, cause string) *analysis.Analyzer {
	wrapped := *a
	wrapped.Run = func(pass *analysis.Pass) (any, error) {
		ignored := ignores{}
		report := pass.Report
		pass.Report = func(d analysis.Diagnostic) {
			if at := pass.Fset.Position(d.Pos); ignored.has(at) || isGenerated(at.Filename) {
				return
			}
			if a == bodyclose.Analyzer && handedOn(pass, d.Pos) {
				return
			}
			if cause != "" {
				d.Category = cause
				d.Message = cause + ": " + d.Message
			}
			d.Category = cmp.Or(d.Category, "other")
			report(d)
		}
		return a.Run(pass)
	}
	return &wrapped
}

// ignores knows the lines of files that carry "//penstock:ignore reason", or stand below
// one that is nothing else. The reason is required.
type ignores map[string][]string

func (ig ignores) has(at token.Position) bool {
	lines, known := ig[at.Filename]
	if !known {
		text, err := os.ReadFile(at.Filename)
		if err == nil {
			lines = strings.Split(string(text), "\n")
		}
		ig[at.Filename] = lines
	}
	for _, n := range []int{at.Line - 1, at.Line - 2} {
		if n < 0 || n >= len(lines) {
			continue
		}
		code, reason, ok := strings.Cut(lines[n], "//penstock:ignore ")
		if ok && strings.TrimSpace(reason) != "" && (n == at.Line-1 || strings.TrimSpace(code) == "") {
			return true
		}
	}
	return false
}

// isGenerated tells by the name: whoever generates code cannot mend it here.
func isGenerated(file string) bool {
	return strings.HasSuffix(file, ".pb.go") || strings.Contains(filepath.Base(file), "_gen.go") || strings.Contains(filepath.Base(file), "zz_generated")
}

// handedOn tells whether the response that is assigned at pos goes to another function as
// a whole, or is returned: then who has it closes it, which bodyclose does not see across
// packages.
func handedOn(pass *analysis.Pass, pos token.Pos) bool {
	for _, file := range pass.Files {
		if pos < file.FileStart || pos >= file.FileEnd {
			continue
		}
		on := false
		var made *ast.AssignStmt
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.AssignStmt:
				if n.Pos() <= pos && pos < n.End() {
					made = n // the innermost comes last
				}
			case *ast.CallExpr:
				for _, arg := range n.Args {
					on = on || isMade(pass, made, arg)
				}
			case *ast.ReturnStmt:
				for _, r := range n.Results {
					on = on || isMade(pass, made, r)
				}
			case *ast.KeyValueExpr:
				if sel, ok := n.Value.(*ast.SelectorExpr); ok && sel.Sel.Name == "Body" {
					on = on || isMade(pass, made, sel.X)
				}
			}
			return true
		})
		return on
	}
	return false
}

// isMade tells whether e is the first variable that an assignment sets.
func isMade(pass *analysis.Pass, made *ast.AssignStmt, e ast.Expr) bool {
	if made == nil {
		return false
	}
	v := object(pass, made.Lhs[0])
	return v != nil && object(pass, e) == v
}
