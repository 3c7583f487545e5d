package vet

import (
	"go/ast"
	"go/types"
	"strconv"

	"golang.org/x/tools/go/analysis"
)

func newDeadline() *analysis.Analyzer {
	a := newAnalyzer("deadline", "report HTTP and gRPC calls that can wait for ever: no caller gives them a time limit", runDeadline)
	a.FactTypes = []analysis.Fact{new(waitsFor)}
	return a
}

// runDeadline looks for calls of net/http's own functions and of http.DefaultClient, which
// have no time limit; and for gRPC calls and HTTP requests whose context is, through
// however many callers, context.Background() as it is.
func runDeadline(pass *analysis.Pass) {
	functions(pass, func(fn ast.Node, body *ast.BlockStmt, stack []ast.Node) {
		if inTest(pass, fn) {
			return
		}
		own(body, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			switch {
			case isFunc(pass, call, "net/http", "Get", "Head", "Post", "PostForm"):
				report(pass, call, "http-body", "http."+calledFunc(pass, call).Name()+" has no time limit: use a client with a Timeout, or a request with a context")
			case isDefaultClient(pass, call) && isFunc(pass, call, "net/http", "Client.Get", "Client.Head", "Client.Post", "Client.PostForm"):
				report(pass, call, "http-body", "http.DefaultClient has no time limit: use a client with a Timeout, or a request with a context")
			}
			return true
		})
	})
	followContexts(pass)
}

func report(pass *analysis.Pass, at ast.Node, cause, message string) {
	pass.Report(analysis.Diagnostic{Pos: at.Pos(), Category: cause, Message: cause + ": " + message})
}

func lineOf(pass *analysis.Pass, n ast.Node) string {
	return strconv.Itoa(pass.Fset.Position(n.Pos()).Line)
}

func isDefaultClient(pass *analysis.Pass, call *ast.CallExpr) bool {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	client, ok := sel.X.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	v, ok := pass.TypesInfo.Uses[client.Sel].(*types.Var)
	return ok && v.Pkg() != nil && v.Pkg().Path() == "net/http" && v.Name() == "DefaultClient"
}

// isStub recognises a call that gRPC makes: of a method with ...grpc.CallOption as its last
// parameter, of the interface that gRPC generated for a client or of a connection itself.
// Whatever wraps such a call is judged by what it does with its context.
func isStub(pass *analysis.Pass, call *ast.CallExpr) bool {
	fn := calledFunc(pass, call)
	if fn == nil || fn.Signature().Recv() == nil || !fn.Signature().Variadic() {
		return false
	}
	recv := fn.Signature().Recv().Type()
	if !types.IsInterface(recv) && !isNamed(recv, grpcPath, "ClientConn") {
		return false
	}
	params := fn.Signature().Params()
	last, ok := params.At(params.Len() - 1).Type().(*types.Slice)
	return ok && isNamed(last.Elem(), grpcPath, "CallOption")
}

const grpcPath = "google.golang.org/grpc"
