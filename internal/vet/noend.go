package vet

import (
	"go/ast"
	"go/token"
	"go/types"
	"slices"

	"golang.org/x/tools/go/analysis"
)

func newNoEnd() *analysis.Analyzer {
	return newAnalyzer("noend", "report goroutines that are started for each request and have no way to end", runNoEnd)
}

// runNoEnd looks at the go statements of functions that are called once a request, and of
// those of a type that can be closed: who closes it expects its goroutines to end.
func runNoEnd(pass *analysis.Pass) {
	bodies := declared(pass)
	functions(pass, func(fn ast.Node, body *ast.BlockStmt, stack []ast.Node) {
		perRequest := slices.ContainsFunc(enclosing(stack), func(f ast.Node) bool { return servesRequests(pass, f) })
		if inTest(pass, fn) || (!perRequest && !closable(pass, fn)) {
			return
		}
		own(body, func(n ast.Node) bool {
			g, ok := n.(*ast.GoStmt)
			if !ok {
				return true
			}
			run := bodies.of(pass, g)
			if run == nil {
				return true
			}
			if cause, at := endless(pass, run); at.IsValid() {
				who := "each request starts one"
				if !perRequest {
					who = "closing the value that starts it does not reach it"
				}
				pass.Report(analysis.Diagnostic{Pos: g.Pos(), Category: cause, Message: cause + ": this goroutine has no way to end, and " + who +
					": its loop needs a case for a context's Done or a channel that is closed",
					Related: []analysis.RelatedInformation{{Pos: at, Message: "the loop"}}})
			}
			return true
		})
	})
}

// known are the bodies of the package's functions, and of function literals that a variable
// is declared with.
type known map[types.Object]*ast.BlockStmt

func declared(pass *analysis.Pass) known {
	all := known{}
	for _, file := range pass.Files {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if obj := pass.TypesInfo.Defs[n.Name]; obj != nil && n.Body != nil {
					all[obj] = n.Body
				}
			case *ast.AssignStmt:
				for i, e := range n.Rhs {
					if lit, ok := e.(*ast.FuncLit); ok && n.Tok == token.DEFINE && len(n.Lhs) == len(n.Rhs) {
						all[object(pass, n.Lhs[i])] = lit.Body
					}
				}
			}
			return true
		})
	}
	return all
}

// of is the body of what a go statement runs, nil if it is not known.
func (k known) of(pass *analysis.Pass, g *ast.GoStmt) *ast.BlockStmt {
	if lit, ok := g.Call.Fun.(*ast.FuncLit); ok {
		return lit.Body
	}
	if f := calledFunc(pass, g.Call); f != nil {
		return k[f]
	}
	if v := object(pass, g.Call.Fun); v != nil {
		return k[v]
	}
	return nil
}

// closable tells whether a function makes a value that has a method Close, Stop or
// Shutdown without result or with an error, or is a method of one.
func closable(pass *analysis.Pass, fn ast.Node) bool {
	decl, ok := fn.(*ast.FuncDecl)
	if !ok {
		return false
	}
	obj, ok := pass.TypesInfo.Defs[decl.Name].(*types.Func)
	if !ok {
		return false
	}
	var of types.Type
	if recv := obj.Signature().Recv(); recv != nil {
		of = recv.Type()
	} else if res := obj.Signature().Results(); res.Len() > 0 {
		of = res.At(0).Type()
	}
	named := namedOf(of)
	if of == nil || named == nil || named.Obj().Pkg() != pass.Pkg || types.IsInterface(named) {
		return false
	}
	for m := range named.Methods() {
		if (m.Name() == "Close" || m.Name() == "Stop" || m.Name() == "Shutdown") && m.Signature().Results().Len() <= 1 {
			return true
		}
	}
	return false
}

// endless finds a loop without a condition from which nothing leads out, at the top level
// of a goroutine's body, and says what it does most of its time.
func endless(pass *analysis.Pass, body *ast.BlockStmt) (cause string, at token.Pos) {
	for _, s := range body.List {
		label := ""
		if l, ok := s.(*ast.LabeledStmt); ok {
			label, s = l.Label.Name, l.Stmt
		}
		switch loop := s.(type) {
		case *ast.ForStmt:
			if loop.Cond == nil && !leavesLoop(pass, loop.Body, label) {
				return waitsBy(pass, loop.Body), loop.Pos()
			}
		case *ast.RangeStmt:
			if isTick(pass, loop.X) && !leavesLoop(pass, loop.Body, label) {
				return "timer", loop.Pos()
			}
		}
	}
	return "", token.NoPos
}

// isTick tells whether e is the channel of a ticker: it is never closed.
func isTick(pass *analysis.Pass, e ast.Expr) bool {
	switch e := ast.Unparen(e).(type) {
	case *ast.SelectorExpr:
		return e.Sel.Name == "C" && isNamed(pass.TypesInfo.TypeOf(e.X), "time", "Ticker")
	case *ast.CallExpr:
		return isFunc(pass, e, "time", "Tick")
	}
	return false
}

// leavesLoop tells whether a loop's body can leave it: by return, break, goto, panic, or by
// calling what ends the goroutine or the process. A method called on something that fails
// when closed (Read, Accept, Recv) is left through its error, by return.
func leavesLoop(pass *analysis.Pass, body *ast.BlockStmt, label string) bool {
	leaves := false
	var walk func(n ast.Node, breaks bool)
	walk = func(n ast.Node, breaks bool) {
		ast.Inspect(n, func(m ast.Node) bool {
			switch m := m.(type) {
			case *ast.FuncLit:
				return false
			case *ast.ReturnStmt:
				leaves = true
			case *ast.BranchStmt:
				leaves = leaves || m.Tok == token.GOTO || (m.Tok == token.BREAK && (breaks && m.Label == nil || m.Label != nil && (label == "" || m.Label.Name == label)))
			case *ast.ForStmt, *ast.RangeStmt, *ast.SelectStmt, *ast.SwitchStmt, *ast.TypeSwitchStmt:
				if m != n {
					walk(m, false)
					return false
				}
			case *ast.CallExpr:
				if id, ok := m.Fun.(*ast.Ident); ok && id.Name == "panic" {
					leaves = true
				}
				leaves = leaves || isFunc(pass, m, "os", "Exit") || isFunc(pass, m, "runtime", "Goexit") ||
					isFunc(pass, m, "log", "Fatal", "Fatalf", "Fatalln", "Panic", "Panicf", "Logger.Fatal", "Logger.Fatalf")
			}
			return true
		})
	}
	walk(body, true)
	return leaves
}

// waitsBy names the cause that doctor would give a goroutine in this loop.
func waitsBy(pass *analysis.Pass, body *ast.BlockStmt) string {
	cause := "spin"
	own(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectStmt:
			cause = "select"
			for _, c := range n.Body.List {
				if comm, ok := c.(*ast.CommClause); ok && comm.Comm == nil {
					cause = "spin"
				}
			}
			return false
		case *ast.UnaryExpr:
			if n.Op == token.ARROW && cause == "spin" {
				cause = "chan-recv"
				if isTick(pass, n.X) || isAfter(pass, n.X) {
					cause = "timer"
				}
			}
		case *ast.SendStmt:
			cause = "chan-send"
		case *ast.CallExpr:
			if isFunc(pass, n, "time", "Sleep") {
				cause = "sleep"
			}
		}
		return true
	})
	return cause
}

func isAfter(pass *analysis.Pass, e ast.Expr) bool {
	call, ok := ast.Unparen(e).(*ast.CallExpr)
	return ok && isFunc(pass, call, "time", "After", "Tick")
}
