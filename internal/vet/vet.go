// Package vet finds in the source what package doctor finds in the running program: the
// same causes under the same names, before it runs.
//
// Where a well-kept analyzer exists it is bundled; the others are here, one a file. They
// prefer to be silent: each reports only shapes of which nearly all are wrong. What costs
// time and breaks nothing has the category "cost", and does not fail a run.
package vet

import (
	"go/ast"
	"go/types"
	"slices"
	"strings"

	"github.com/ryanrolds/sqlclosecheck/pkg/analyzer"
	"github.com/timakin/bodyclose/passes/bodyclose"
	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/analysis/passes/copylock"
	"golang.org/x/tools/go/analysis/passes/httpresponse"
	"golang.org/x/tools/go/analysis/passes/inspect"
	"golang.org/x/tools/go/analysis/passes/lostcancel"
	"golang.org/x/tools/go/analysis/passes/waitgroup"
	"golang.org/x/tools/go/ast/inspector"
)

// Cost is the category of what wastes and breaks nothing.
const Cost = "cost"

// bundled are other people's analyzers, with the cause that doctor would name.
func bundled() map[*analysis.Analyzer]string {
	return map[*analysis.Analyzer]string{
		lostcancel.Analyzer:    "select",
		bodyclose.Analyzer:     "http-body",
		httpresponse.Analyzer:  "http-body",
		copylock.Analyzer:      "mutex",
		waitgroup.Analyzer:     "waitgroup",
		analyzer.NewAnalyzer(): "io",
	}
}

// Analyzers lists all of them. rules is the path of a file with layer rules, "" for none.
func Analyzers(rules string) []*analysis.Analyzer {
	var all []*analysis.Analyzer
	for _, a := range []*analysis.Analyzer{
		newChanSend(), newNoEnd(), newRequestContext(), newMissedUnlock(), newDeadline(), newTicker(), newHotLoop(),
	} {
		all = append(all, considerate(a, ""))
	}
	for a, cause := range bundled() {
		all = append(all, considerate(a, cause))
	}
	if rules != "" {
		all = append(all, considerate(newLayers(rules), ""))
	}
	slices.SortFunc(all, func(a, b *analysis.Analyzer) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// newAnalyzer makes an analyzer without a result or settings.
func newAnalyzer(name, doc string, run func(*analysis.Pass), needs ...*analysis.Analyzer) *analysis.Analyzer {
	return &analysis.Analyzer{
		Name: name, Doc: doc, Requires: append(needs, inspect.Analyzer),
		Run: func(pass *analysis.Pass) (any, error) {
			run(pass)
			return nil, nil
		},
	}
}

// functions calls visit for each function with a body, declared or literal, with the nodes
// that it lies in.
func functions(pass *analysis.Pass, visit func(fn ast.Node, body *ast.BlockStmt, stack []ast.Node)) {
	in := pass.ResultOf[inspect.Analyzer].(*inspector.Inspector) //nolint:forcetypeassert // of inspect, by its contract
	in.WithStack([]ast.Node{(*ast.FuncDecl)(nil), (*ast.FuncLit)(nil)}, func(n ast.Node, push bool, stack []ast.Node) bool {
		if !push {
			return true
		}
		switch fn := n.(type) {
		case *ast.FuncDecl:
			if fn.Body != nil {
				visit(n, fn.Body, stack)
			}
		case *ast.FuncLit:
			visit(n, fn.Body, stack)
		}
		return true
	})
}

// inTest tells whether a node is in a test file: there, what does not end ends with the
// process.
func inTest(pass *analysis.Pass, n ast.Node) bool {
	return strings.HasSuffix(pass.Fset.Position(n.Pos()).Filename, "_test.go")
}

// calledFunc is the function that a call names, nil for a value or a conversion.
func calledFunc(pass *analysis.Pass, call *ast.CallExpr) *types.Func {
	var id *ast.Ident
	switch f := ast.Unparen(call.Fun).(type) {
	case *ast.Ident:
		id = f
	case *ast.SelectorExpr:
		id = f.Sel
	default:
		return nil
	}
	fn, _ := pass.TypesInfo.Uses[id].(*types.Func)
	return fn
}

// isFunc tells whether a call is of a function of a package, or of a method as
// "Type.Method".
func isFunc(pass *analysis.Pass, call *ast.CallExpr, pkg string, names ...string) bool {
	fn := calledFunc(pass, call)
	if fn == nil || fn.Pkg() == nil || fn.Pkg().Path() != pkg {
		return false
	}
	name := fn.Name()
	if recv := fn.Signature().Recv(); recv != nil {
		if named := namedOf(recv.Type()); named != nil {
			name = named.Obj().Name() + "." + name
		}
	}
	return slices.Contains(names, name)
}

func namedOf(t types.Type) *types.Named {
	if p, ok := t.(*types.Pointer); ok {
		t = p.Elem()
	}
	named, _ := t.(*types.Named)
	return named
}

// isNamed tells whether t, or what it points to, is the type of a package.
func isNamed(t types.Type, pkg, name string) bool {
	named := namedOf(t)
	return named != nil && named.Obj().Pkg() != nil && named.Obj().Pkg().Path() == pkg && named.Obj().Name() == name
}

// parameters lists the types of a function's parameters.
func parameters(pass *analysis.Pass, fn ast.Node) []*types.Var {
	var sig *types.Signature
	switch fn := fn.(type) {
	case *ast.FuncDecl:
		if obj, ok := pass.TypesInfo.Defs[fn.Name].(*types.Func); ok {
			sig = obj.Signature()
		}
	case *ast.FuncLit:
		sig, _ = pass.TypesInfo.TypeOf(fn).(*types.Signature)
	}
	if sig == nil {
		return nil
	}
	vars := make([]*types.Var, 0, sig.Params().Len())
	for v := range sig.Params().Variables() {
		vars = append(vars, v)
	}
	return vars
}

// isRequest tells whether a value lives as long as a request: *http.Request,
// http.ResponseWriter, and what web frameworks make of both.
func isRequest(t types.Type) bool {
	named := namedOf(t)
	if named == nil || named.Obj().Pkg() == nil {
		return false
	}
	name := named.Obj().Pkg().Path() + "." + named.Obj().Name()
	switch name {
	case "net/http.Request", "net/http.ResponseWriter", "github.com/gin-gonic/gin.Context", "github.com/labstack/echo/v4.Context",
		"github.com/gofiber/fiber/v2.Ctx", "github.com/gofiber/fiber/v3.Ctx", "github.com/valyala/fasthttp.RequestCtx", "google.golang.org/grpc.ServerStream":
		return true
	}
	return false
}

// servesRequests tells whether a function is called once a request.
func servesRequests(pass *analysis.Pass, fn ast.Node) bool {
	return slices.ContainsFunc(parameters(pass, fn), func(v *types.Var) bool { return isRequest(v.Type()) })
}

// enclosing lists the functions that a node lies in, the innermost first.
func enclosing(stack []ast.Node) []ast.Node {
	var all []ast.Node
	for _, n := range slices.Backward(stack) {
		switch n.(type) {
		case *ast.FuncDecl, *ast.FuncLit:
			all = append(all, n)
		}
	}
	return all
}

// own walks a function's body without the functions inside it.
func own(body ast.Node, visit func(ast.Node) bool) {
	ast.Inspect(body, func(n ast.Node) bool {
		if _, ok := n.(*ast.FuncLit); ok && n != body {
			return false
		}
		return n == nil || visit(n)
	})
}

// object is the variable that an expression names, nil if it is none.
func object(pass *analysis.Pass, e ast.Expr) types.Object {
	if id, ok := ast.Unparen(e).(*ast.Ident); ok {
		if o := pass.TypesInfo.Uses[id]; o != nil {
			return o
		}
		return pass.TypesInfo.Defs[id]
	}
	return nil
}
