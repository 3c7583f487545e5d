package vet

import (
	"go/ast"
	"go/types"

	"golang.org/x/tools/go/analysis"
)

func newRequestContext() *analysis.Analyzer {
	return newAnalyzer("requestctx", "report goroutines that keep a request's object or context after the handler has returned", runRequestContext)
}

// runRequestContext looks at go statements of handlers that do not wait for what they
// start: whoever then uses the request reads what the server has reused, and its context
// is cancelled under the work. Left out is what takes only the context, to end with it.
func runRequestContext(pass *analysis.Pass) {
	bodies := declared(pass)
	functions(pass, func(fn ast.Node, body *ast.BlockStmt, _ []ast.Node) {
		if inTest(pass, fn) || !servesRequests(pass, fn) || waits(pass, body) {
			return
		}
		requests := map[types.Object]bool{}
		for _, v := range parameters(pass, fn) {
			if isRequest(v.Type()) {
				requests[v] = true
			}
		}
		own(body, func(n ast.Node) bool {
			g, ok := n.(*ast.GoStmt)
			if !ok {
				return true
			}
			if id := usesAny(pass, g, requests); id != nil && !endsWithIt(pass, g, requests, bodies) {
				pass.Report(analysis.Diagnostic{Pos: id.Pos(), Category: "select", Message: "request: this goroutine outlives the handler and uses " + id.Name +
					", which is over then: copy what it needs before, and give it context.WithoutCancel of the request's context with a time limit of its own"})
			}
			return true
		})
	})
}

// endsWithIt tells whether a go statement takes nothing of the request but its context, and
// what it runs looks for the context's end, or cannot be seen.
func endsWithIt(pass *analysis.Pass, g *ast.GoStmt, requests map[types.Object]bool, bodies known) bool {
	only := true
	var stack []ast.Node
	ast.Inspect(g, func(n ast.Node) bool {
		if n == nil {
			stack = stack[:len(stack)-1]
			return true
		}
		stack = append(stack, n)
		if id, ok := n.(*ast.Ident); ok && requests[pass.TypesInfo.Uses[id]] {
			sel, ok := stack[len(stack)-2].(*ast.SelectorExpr)
			only = only && ok && sel.Sel.Name == "Context"
		}
		return true
	})
	if !only {
		return false
	}
	body := bodies.of(pass, g)
	if body == nil {
		return true
	}
	looks := false
	ast.Inspect(body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		looks = looks || (ok && isFunc(pass, call, "context", "Context.Done", "Context.Err"))
		return !looks
	})
	return looks
}

// usesAny finds a mention of one of the objects in a node.
func usesAny(pass *analysis.Pass, n ast.Node, objects map[types.Object]bool) (found *ast.Ident) {
	ast.Inspect(n, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if ok && isFunc(pass, call, "context", "WithoutCancel") {
			return false // that is how it is done
		}
		if id, ok := n.(*ast.Ident); ok && found == nil && objects[pass.TypesInfo.Uses[id]] {
			found = id
		}
		return found == nil
	})
	return found
}

// waits tells whether a function waits for anything, by which it may wait for what it
// started.
func waits(pass *analysis.Pass, body *ast.BlockStmt) bool {
	found := false
	own(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectStmt:
			found = true
		case *ast.UnaryExpr:
			found = found || n.Op.String() == "<-"
		case *ast.RangeStmt:
			if t := pass.TypesInfo.TypeOf(n.X); t != nil {
				_, isChan := t.Underlying().(*types.Chan)
				found = found || isChan
			}
		case *ast.CallExpr:
			if f := calledFunc(pass, n); f != nil && (f.Name() == "Wait" || f.Name() == "Copy" || f.Name() == "ServeHTTP") {
				found = true
			}
		}
		return !found
	})
	return found
}
