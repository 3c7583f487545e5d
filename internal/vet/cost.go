package vet

import (
	"go/ast"
	"go/token"
	"go/types"

	"golang.org/x/tools/go/analysis"
)

func newTicker() *analysis.Analyzer {
	return newAnalyzer("stopticker", "report tickers that are never stopped (as cost: since Go 1.23 one that nothing refers to is collected)", runTicker)
}

// runTicker looks for local tickers that stay in their function and are not stopped.
func runTicker(pass *analysis.Pass) {
	functions(pass, func(fn ast.Node, body *ast.BlockStmt, _ []ast.Node) {
		if inTest(pass, fn) || isMain(fn) {
			return
		}
		own(body, func(n ast.Node) bool {
			as, ok := n.(*ast.AssignStmt)
			if !ok || as.Tok != token.DEFINE || len(as.Lhs) != 1 || len(as.Rhs) != 1 {
				return true
			}
			call, ok := as.Rhs[0].(*ast.CallExpr)
			if !ok || !isFunc(pass, call, "time", "NewTicker") {
				return true
			}
			if v := object(pass, as.Lhs[0]); v != nil && neverStopped(pass, body, v) {
				pass.Report(analysis.Diagnostic{Pos: call.Pos(), Category: Cost, Message: "cost: " + v.Name() + " ticks until it is collected, though its function has returned: defer " + v.Name() + ".Stop()"})
			}
			return true
		})
	})
}

func isMain(fn ast.Node) bool {
	d, ok := fn.(*ast.FuncDecl)
	return ok && d.Recv == nil && d.Name.Name == "main"
}

// neverStopped tells whether a ticker is only read from: not stopped, not reset, and not
// handed to anybody who could.
func neverStopped(pass *analysis.Pass, body *ast.BlockStmt, v types.Object) bool {
	only := true
	var stack []ast.Node
	ast.Inspect(body, func(n ast.Node) bool {
		if n == nil {
			stack = stack[:len(stack)-1]
			return true
		}
		stack = append(stack, n)
		if id, ok := n.(*ast.Ident); ok && pass.TypesInfo.Uses[id] == v {
			sel, ok := stack[len(stack)-2].(*ast.SelectorExpr)
			only = only && ok && sel.Sel.Name == "C"
		}
		return true
	})
	return only
}

func newHotLoop() *analysis.Analyzer {
	return newAnalyzer("hotloop", "report what is dear in loops: compiling regular expressions, formatting, reading the clock (as cost)", runHotLoop)
}

// runHotLoop reports a regular expression compiled from a constant in any loop or handler,
// and Sprintf and time.Now in loops within loops.
func runHotLoop(pass *analysis.Pass) {
	functions(pass, func(fn ast.Node, body *ast.BlockStmt, _ []ast.Node) {
		if inTest(pass, fn) {
			return
		}
		perRequest := servesRequests(pass, fn)
		var walk func(n ast.Node, loops int)
		walk = func(n ast.Node, loops int) {
			own(n, func(m ast.Node) bool {
				switch m := m.(type) {
				case *ast.ForStmt:
					if m != n {
						walk(m.Body, loops+1)
						return false
					}
				case *ast.RangeStmt:
					if m != n {
						walk(m.Body, loops+1)
						return false
					}
				case *ast.CallExpr:
					costOf(pass, m, loops, perRequest)
				case *ast.IfStmt:
					// Under a condition it may be rare: only what is in the loop's own
					// statements counts as being in the loop.
					walk(m.Body, min(loops, 1))
					if m.Else != nil {
						walk(m.Else, min(loops, 1))
					}
					walk(m.Cond, loops)
					return false
				case *ast.CaseClause, *ast.CommClause:
					if m != n {
						walk(m, min(loops, 1))
						return false
					}
				case *ast.ReturnStmt:
					return false // comes once, and most often with an error to format
				}
				return true
			})
		}
		walk(body, 0)
	})
}

func costOf(pass *analysis.Pass, call *ast.CallExpr, loops int, perRequest bool) {
	say := func(message string) {
		pass.Report(analysis.Diagnostic{Pos: call.Pos(), Category: Cost, Message: "cost: " + message})
	}
	switch {
	case isFunc(pass, call, "regexp", "MustCompile", "Compile") && (loops > 0 || perRequest) && len(call.Args) == 1 && pass.TypesInfo.Types[call.Args[0]].Value != nil:
		say("this regular expression is compiled again each time: compile it once, in a package variable")
	case isFunc(pass, call, "time", "Now") && loops >= 2:
		say("the clock is read in a loop within a loop: read it once before")
	case isFunc(pass, call, "fmt", "Sprintf", "Sprint") && loops >= 2:
		say("strings are formatted in a loop within a loop: strconv.Append on one buffer is several times as fast")
	}
}
