package vet

import (
	"fmt"
	"go/ast"
	"go/types"
	"slices"
	"strings"

	"golang.org/x/tools/go/analysis"
)

// This file follows contexts from the calls that wait for another machine up to where they
// are made. A function that hands a parameter on to such a call, and sets no deadline on
// the way, gets a fact that says so; whoever calls it with context.Background() has made
// sure that it can wait for ever. What is not certain (a context from a field, from an
// interface's method, one that can be cancelled) is passed over.

// waitsFor is the fact that a function waits for another machine for as long as contexts
// among its parameters let it.
type waitsFor struct {
	On []waitsOn
}

// waitsOn is one such parameter.
type waitsOn struct {
	Param int
	Cause string
	Call  string // what waits in the end, such as "http.DefaultClient.Do"
}

// AFact makes waitsFor a fact.
func (*waitsFor) AFact() {}

func (w *waitsFor) String() string {
	words := make([]string, len(w.On))
	for i, on := range w.On {
		words[i] = fmt.Sprintf("%d:%s", on.Param, on.Call)
	}
	return "waits " + strings.Join(words, " ")
}

// contextUse is a context handed to a call in a function.
type contextUse struct {
	call   *ast.CallExpr
	origin origin
	callee *types.Func // that may have a fact; nil for a call that itself waits
	index  int         // of the context among callee's parameters
	waits  waitsOn     // of a call that itself waits
}

// origin is where a context comes from.
type origin struct {
	kind  originKind
	param int
}

type originKind int

const (
	originOther      originKind = iota // not known, or it ends some time
	originBackground                   // context.Background() as it is
	originParam                        // a parameter as it is
	originSelf                         // the variable itself, made anew from its own value
)

// followContexts gives the package's functions their facts and reports the calls whose
// context nobody has given an end.
func followContexts(pass *analysis.Pass) {
	uses := map[*types.Func][]contextUse{}
	for _, file := range pass.Files {
		for _, decl := range file.Decls {
			fd, ok := decl.(*ast.FuncDecl)
			if !ok || fd.Body == nil || inTest(pass, fd) {
				continue
			}
			if fn, ok := pass.TypesInfo.Defs[fd.Name].(*types.Func); ok {
				uses[fn] = contextUses(pass, fn, fd.Body)
			}
		}
	}
	facts := map[*types.Func]*waitsFor{}
	for changed := true; changed; {
		changed = false
		for fn, all := range uses {
			for _, use := range all {
				on, ok := use.waitsOn(pass, facts)
				if ok && use.origin.kind == originParam && addWait(facts, fn, waitsOn{use.origin.param, on.Cause, on.Call}) {
					changed = true
				}
			}
		}
	}
	for fn, all := range uses {
		if fact := facts[fn]; fact != nil {
			slices.SortFunc(fact.On, func(a, b waitsOn) int { return a.Param - b.Param })
			pass.ExportObjectFact(fn, fact)
		}
		for _, use := range all {
			if on, ok := use.waitsOn(pass, facts); ok && use.origin.kind == originBackground {
				report(pass, use.call, on.Cause, use.message(on))
			}
		}
	}
}

func addWait(facts map[*types.Func]*waitsFor, fn *types.Func, on waitsOn) bool {
	if facts[fn] == nil {
		facts[fn] = &waitsFor{}
	}
	for _, known := range facts[fn].On {
		if known.Param == on.Param {
			return false
		}
	}
	facts[fn].On = append(facts[fn].On, on)
	return true
}

// waitsOn tells whether the call waits for as long as the context lets it.
func (u *contextUse) waitsOn(pass *analysis.Pass, facts map[*types.Func]*waitsFor) (waitsOn, bool) {
	if u.callee == nil {
		return u.waits, true
	}
	fact := facts[u.callee]
	if fact == nil {
		fact = &waitsFor{}
		if u.callee.Pkg() == nil || u.callee.Pkg() == pass.Pkg || !pass.ImportObjectFact(u.callee, fact) {
			return waitsOn{}, false
		}
	}
	for _, on := range fact.On {
		if on.Param == u.index {
			return on, true
		}
	}
	return waitsOn{}, false
}

func (u *contextUse) message(on waitsOn) string {
	const fix = "hand the caller's context on, or make one with context.WithTimeout"
	if u.callee == nil {
		return "this call of " + on.Call + " has no time limit: " + fix
	}
	return fmt.Sprintf("%s waits for %s for as long as this context lets it, and nobody gives it a time limit: %s", u.callee.Name(), on.Call, fix)
}

// contextUses lists the contexts that a function hands on.
func contextUses(pass *analysis.Pass, fn *types.Func, body *ast.BlockStmt) []contextUse {
	var uses []contextUse
	from := origins{pass: pass, fn: fn, body: body}
	ast.Inspect(body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		switch callee := calledFunc(pass, call); {
		case isStub(pass, call):
			if len(call.Args) > 0 && !isStream(pass, call) {
				uses = append(uses, contextUse{call: call, origin: from.of(call.Args[0]), waits: waitsOn{Cause: "select", Call: "gRPC's " + callName(call)}})
			}
		case isDefaultClient(pass, call) && isFunc(pass, call, "net/http", "Client.Do"):
			if ctx, ok := from.request(call.Args[0]); ok {
				uses = append(uses, contextUse{call: call, origin: ctx, waits: waitsOn{Cause: "http-body", Call: "http.DefaultClient.Do"}})
			}
		case callee != nil:
			for i, arg := range call.Args {
				if isNamed(pass.TypesInfo.TypeOf(arg), "context", "Context") || isBackground(pass, arg) {
					uses = append(uses, contextUse{call: call, origin: from.of(arg), callee: callee.Origin(), index: i})
				}
			}
		}
		return true
	})
	return uses
}

// origins finds where the contexts of one function come from.
type origins struct {
	pass *analysis.Pass
	fn   *types.Func
	body *ast.BlockStmt
}

func (o origins) of(e ast.Expr) origin { return o.trace(e, nil) }

// trace follows an expression; visiting are the variables on the way here.
func (o origins) trace(e ast.Expr, visiting []types.Object) origin {
	e = ast.Unparen(e)
	if call, ok := e.(*ast.CallExpr); ok {
		switch {
		case isBackground(o.pass, call):
			return origin{kind: originBackground}
		case len(call.Args) > 0 && (isFunc(o.pass, call, "context", "WithValue") ||
			isFunc(o.pass, call, grpcPath+"/metadata", "AppendToOutgoingContext", "NewOutgoingContext")):
			return o.trace(call.Args[0], visiting)
		}
		return origin{}
	}
	v := object(o.pass, e)
	if v == nil || v.Parent() == nil || v.Parent() == o.pass.Pkg.Scope() {
		return origin{}
	}
	if slices.Contains(visiting, v) {
		return origin{kind: originSelf}
	}
	visiting = append(slices.Clone(visiting), v)
	var all []origin
	params := o.fn.Signature().Params()
	for i := range params.Len() {
		if params.At(i) == v {
			all = append(all, origin{kind: originParam, param: i})
		}
	}
	for _, value := range o.values(v) {
		if value == nil {
			return origin{} // one of several results
		}
		if from := o.trace(value, visiting); from.kind != originSelf {
			all = append(all, from)
		}
	}
	if len(all) == 0 || slices.ContainsFunc(all, func(x origin) bool { return x != all[0] }) {
		return origin{}
	}
	return all[0]
}

// values lists what a variable is set to, nil for what is not an expression of its own.
func (o origins) values(v types.Object) []ast.Expr {
	var all []ast.Expr
	take := func(name ast.Expr, i, names int, values []ast.Expr) {
		if object(o.pass, name) != v {
			return
		}
		if names == len(values) {
			all = append(all, values[i])
			return
		}
		all = append(all, nil)
	}
	ast.Inspect(o.body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			for i, name := range n.Lhs {
				take(name, i, len(n.Lhs), n.Rhs)
			}
		case *ast.ValueSpec:
			for i, name := range n.Names {
				take(name, i, len(n.Names), n.Values)
			}
		case *ast.RangeStmt:
			for _, name := range []ast.Expr{n.Key, n.Value} {
				if name != nil {
					take(name, 0, 1, nil)
				}
			}
		}
		return true
	})
	return all
}

// request finds the context of a request that is made in the same function.
func (o origins) request(e ast.Expr) (origin, bool) {
	v := object(o.pass, e)
	if v == nil {
		return origin{}, false
	}
	var made []*ast.CallExpr
	ast.Inspect(o.body, func(n ast.Node) bool {
		if set, ok := n.(*ast.AssignStmt); ok && len(set.Rhs) == 1 && object(o.pass, set.Lhs[0]) == v {
			call, _ := ast.Unparen(set.Rhs[0]).(*ast.CallExpr)
			made = append(made, call)
		}
		return true
	})
	if len(made) != 1 || made[0] == nil {
		return origin{}, false
	}
	switch call := made[0]; {
	case isFunc(o.pass, call, "net/http", "NewRequest"):
		return origin{kind: originBackground}, true
	case isFunc(o.pass, call, "net/http", "NewRequestWithContext"):
		return o.of(call.Args[0]), true
	}
	return origin{}, false
}

func isBackground(pass *analysis.Pass, e ast.Expr) bool {
	call, ok := ast.Unparen(e).(*ast.CallExpr)
	return ok && isFunc(pass, call, "context", "Background", "TODO")
}

// isStream tells whether a gRPC call opens a stream, which may be meant to last.
func isStream(pass *analysis.Pass, call *ast.CallExpr) bool {
	results, ok := pass.TypesInfo.TypeOf(call).(*types.Tuple)
	if !ok || results.Len() == 0 {
		return false
	}
	obj, _, _ := types.LookupFieldOrMethod(results.At(0).Type(), true, pass.Pkg, "RecvMsg")
	return obj != nil
}

// callName is how a call names what it calls.
func callName(call *ast.CallExpr) string {
	switch f := ast.Unparen(call.Fun).(type) {
	case *ast.SelectorExpr:
		return f.Sel.Name
	case *ast.Ident:
		return f.Name
	}
	return "call"
}
