package vet

import (
	"go/ast"
	"go/types"
	"strings"

	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/analysis/passes/ctrlflow"
	"golang.org/x/tools/go/cfg"
)

func newMissedUnlock() *analysis.Analyzer {
	return newAnalyzer("missedunlock", "report locks that are still held on some return", runMissedUnlock, ctrlflow.Analyzer)
}

var unlockOf = map[string]string{"Lock": "Unlock", "RLock": "RUnlock"}

// runMissedUnlock follows the paths from each Lock to the function's returns. Left out are
// functions that hand a lock on or take one over by intention: those that never unlock it,
// that unlock it before they lock it (their caller holds it), and that say in their name
// that they lock; and a Lock under a condition, whose Unlock is under the same one.
func runMissedUnlock(pass *analysis.Pass) {
	graphs := pass.ResultOf[ctrlflow.Analyzer].(*ctrlflow.CFGs) //nolint:forcetypeassert // of ctrlflow, by its contract
	functions(pass, func(fn ast.Node, body *ast.BlockStmt, _ []ast.Node) {
		var graph *cfg.CFG
		switch fn := fn.(type) {
		case *ast.FuncDecl:
			if strings.Contains(strings.ToLower(fn.Name.Name), "lock") {
				return
			}
			graph = graphs.FuncDecl(fn)
		case *ast.FuncLit:
			graph = graphs.FuncLit(fn)
		}
		if graph == nil || inTest(pass, fn) {
			return
		}
		own(body, func(n ast.Node) bool {
			stmt, ok := n.(*ast.ExprStmt)
			if !ok {
				return true
			}
			lock, method := lockCall(pass, stmt.X)
			if lock == "" || unlockOf[method] == "" || !unlocksOnce(pass, body, lock, unlockOf[method]) ||
				takenOver(pass, body, lock, unlockOf[method]) || conditional(body, stmt) {
				return true
			}
			if ret := heldAt(pass, graph, stmt, lock, unlockOf[method]); ret != nil {
				cause := "mutex"
				if method == "RLock" || isRW(pass, stmt.X) {
					cause = "rwmutex"
				}
				pass.Report(analysis.Diagnostic{Pos: stmt.Pos(), Category: cause, Message: cause + ": " + lock + " is still locked at the return in line " +
					lineOf(pass, ret) + ": unlock with defer", Related: []analysis.RelatedInformation{{Pos: ret.Pos(), Message: "the return"}}})
			}
			return true
		})
	})
}

// lockCall tells which lock an expression calls a method of, by its text, and which one.
func lockCall(pass *analysis.Pass, e ast.Expr) (lock, method string) {
	call, ok := e.(*ast.CallExpr)
	if !ok || len(call.Args) > 0 {
		return "", ""
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || !isFunc(pass, call, "sync", "Mutex.Lock", "Mutex.Unlock", "RWMutex.Lock", "RWMutex.Unlock", "RWMutex.RLock", "RWMutex.RUnlock") {
		return "", ""
	}
	return types.ExprString(sel.X), sel.Sel.Name
}

func isRW(pass *analysis.Pass, e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	return ok && isFunc(pass, call, "sync", "RWMutex.Lock")
}

// unlocksOnce tells whether a function unlocks a lock in its own statements and never in a
// deferred or inner function: only then do its paths tell.
func unlocksOnce(pass *analysis.Pass, body *ast.BlockStmt, lock, unlock string) bool {
	plain, other := 0, 0
	var stack []ast.Node
	ast.Inspect(body, func(n ast.Node) bool {
		if n == nil {
			stack = stack[:len(stack)-1]
			return true
		}
		stack = append(stack, n)
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if l, m := lockCall(pass, call); l != lock || m != unlock {
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok && len(enclosing(stack)) == 0 && strings.Contains(strings.ToLower(sel.Sel.Name), "unlock") && l == "" {
				other++ // some helper that unlocks
			}
			return true
		}
		_, deferred := stack[len(stack)-2].(*ast.DeferStmt)
		if deferred || len(enclosing(stack)) > 0 {
			other++
		} else {
			plain++
		}
		return true
	})
	return plain > 0 && other == 0
}

// takenOver tells whether the first that a function does with a lock is to unlock it.
func takenOver(pass *analysis.Pass, body *ast.BlockStmt, lock, unlock string) bool {
	first := ""
	own(body, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && first == "" {
			if l, m := lockCall(pass, call); l == lock {
				first = m
			}
		}
		return first == ""
	})
	return first == unlock
}

// conditional tells whether a statement is the last that matters in the body of an if: what
// follows runs with the lock held or not.
func conditional(body *ast.BlockStmt, stmt ast.Stmt) bool {
	found := false
	own(body, func(n ast.Node) bool {
		branch, ok := n.(*ast.IfStmt)
		if !ok {
			return true
		}
		blocks := []*ast.BlockStmt{branch.Body}
		if other, ok := branch.Else.(*ast.BlockStmt); ok {
			blocks = append(blocks, other)
		}
		for _, b := range blocks {
			for _, s := range b.List {
				if s != stmt {
					continue
				}
				_, returns := b.List[len(b.List)-1].(*ast.ReturnStmt)
				found = !returns
			}
		}
		return true
	})
	return found
}

// heldAt looks for a return that can be reached from a Lock without the Unlock.
func heldAt(pass *analysis.Pass, graph *cfg.CFG, lock ast.Stmt, name, unlock string) *ast.ReturnStmt {
	p := lockPath{pass: pass, name: name, unlock: unlock, seen: map[*cfg.Block]bool{}}
	for _, b := range graph.Blocks {
		for i, n := range b.Nodes {
			if n == lock || (n.Pos() == lock.Pos() && n.End() == lock.End()) {
				return p.follow(b, i+1)
			}
		}
	}
	return nil
}

// lockPath follows the ways from a Lock.
type lockPath struct {
	pass         *analysis.Pass
	name, unlock string
	seen         map[*cfg.Block]bool
}

// follow returns the first return that comes before an Unlock.
func (p *lockPath) follow(b *cfg.Block, from int) *ast.ReturnStmt {
	for _, n := range b.Nodes[from:] {
		if p.unlocks(n) {
			return nil
		}
		if ret, ok := n.(*ast.ReturnStmt); ok {
			return ret
		}
	}
	for _, next := range b.Succs {
		if p.seen[next] {
			continue
		}
		p.seen[next] = true
		if ret := p.follow(next, 0); ret != nil {
			return ret
		}
	}
	return nil
}

// unlocks tells whether the lock is given back in a node, or taken again: then what follows
// is another statement's case.
func (p *lockPath) unlocks(n ast.Node) bool {
	found := false
	ast.Inspect(n, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if l, m := lockCall(p.pass, call); l == p.name && (m == p.unlock || unlockOf[m] == p.unlock) {
				found = true
			}
		}
		return !found
	})
	return found
}
