package vet

import (
	"go/ast"
	"go/token"
	"go/types"
	"slices"

	"golang.org/x/tools/go/analysis"
)

func newChanSend() *analysis.Analyzer {
	return newAnalyzer("chansend", "report sends in a goroutine to an unbuffered channel whose receiver can return without receiving", runChanSend)
}

// runChanSend looks for a channel that a function makes without room, in which a goroutine
// that it starts sends, and from which the function itself receives only as one case of a
// select among others, or after a return.
func runChanSend(pass *analysis.Pass) {
	functions(pass, func(_ ast.Node, body *ast.BlockStmt, _ []ast.Node) {
		for ch := range unbuffered(pass, body) {
			c := channelUse{pass: pass, ch: ch}
			c.look(body)
			if c.escapes || c.send == nil || !c.mayGiveUp() {
				continue
			}
			pass.Report(analysis.Diagnostic{Pos: c.send.Pos(), Category: "chan-send", Message: "chan-send: the receiver of " + ch.Name() +
				" can return before this send, which then waits for ever: make the channel with room for it, or select on the end as well"})
		}
	})
}

// unbuffered lists the local channels made without room.
func unbuffered(pass *analysis.Pass, body *ast.BlockStmt) map[types.Object]bool {
	found := map[types.Object]bool{}
	own(body, func(n ast.Node) bool {
		as, ok := n.(*ast.AssignStmt)
		if !ok || as.Tok != token.DEFINE || len(as.Lhs) != len(as.Rhs) {
			return true
		}
		for i, e := range as.Rhs {
			call, ok := e.(*ast.CallExpr)
			if !ok || len(call.Args) != 1 {
				continue
			}
			if id, ok := call.Fun.(*ast.Ident); !ok || id.Name != "make" {
				continue
			}
			if _, ok := pass.TypesInfo.TypeOf(call).Underlying().(*types.Chan); ok {
				if o := object(pass, as.Lhs[i]); o != nil {
					found[o] = true
				}
			}
		}
		return true
	})
	return found
}

// choice is a select that receives, and whether a loop comes back to it.
type choice struct {
	stmt   *ast.SelectStmt
	inLoop bool
}

// channelUse is how a function uses a channel of its own.
type channelUse struct {
	pass     *analysis.Pass
	ch       types.Object
	send     *ast.SendStmt // in a goroutine, not in a select
	started  token.Pos     // where that goroutine is
	receives []token.Pos   // plain ones of the function itself
	selects  []choice      // receives as one case of several
	returns  []*ast.ReturnStmt
	escapes  bool // is handed to somebody else, who may receive
}

// look walks the function. What it does not understand counts as handing the channel on.
func (c *channelUse) look(body ast.Node) {
	var stack []ast.Node
	ast.Inspect(body, func(n ast.Node) bool {
		if n == nil {
			stack = stack[:len(stack)-1]
			return true
		}
		stack = append(stack, n)
		switch n := n.(type) {
		case *ast.Ident:
			if c.pass.TypesInfo.Uses[n] == c.ch {
				c.use(n, stack)
			}
		case *ast.ReturnStmt:
			if len(enclosing(stack)) == 0 {
				c.returns = append(c.returns, n)
			}
		}
		return true
	})
}

// use judges one mention of the channel by what stands around it.
func (c *channelUse) use(id *ast.Ident, stack []ast.Node) {
	inside := enclosing(stack)
	parent := stack[len(stack)-2]
	switch p := parent.(type) {
	case *ast.SendStmt:
		c.sends(p, id, stack, inside)
	case *ast.UnaryExpr:
		if p.Op != token.ARROW || len(inside) > 0 {
			c.escapes = true
			return
		}
		for _, n := range stack {
			if comm, ok := n.(*ast.CommClause); ok && comm.Comm != nil && comm.Comm.Pos() <= id.Pos() && id.End() <= comm.Comm.End() {
				if sel := selectOf(stack, comm); sel != nil {
					c.selects = append(c.selects, choice{sel, inLoop(stack)})
				}
				return
			}
		}
		c.receives = append(c.receives, p.Pos())
	case *ast.RangeStmt:
		c.receives = append(c.receives, p.Pos())
		c.escapes = c.escapes || len(inside) > 0
	case *ast.CallExpr:
		if fn, ok := p.Fun.(*ast.Ident); !ok || fn.Name != "close" {
			c.escapes = true
		}
	default:
		c.escapes = true
	}
}

// sends judges a send by where it is.
func (c *channelUse) sends(s *ast.SendStmt, id *ast.Ident, stack, inside []ast.Node) {
	if s.Chan != id || len(inside) != 1 {
		c.escapes = true // sends itself, sends the channel, or sends from deeper inside
		return
	}
	started, ok := startedIn(stack, inside[0])
	if !ok {
		c.escapes = true
		return
	}
	if _, isCase := stack[len(stack)-3].(*ast.CommClause); isCase {
		if sel, ok := stack[len(stack)-5].(*ast.SelectStmt); ok && len(sel.Body.List) > 1 {
			return // may give up itself
		}
	}
	if c.send != nil {
		c.escapes = true // several senders: another shape, not judged
	}
	c.send, c.started = s, started
}

func selectOf(stack []ast.Node, comm *ast.CommClause) *ast.SelectStmt {
	for i, n := range stack {
		if n == comm && i >= 2 {
			sel, _ := stack[i-2].(*ast.SelectStmt)
			return sel
		}
	}
	return nil
}

// inLoop tells whether a loop is among the nodes.
func inLoop(stack []ast.Node) bool {
	return slices.ContainsFunc(stack, func(n ast.Node) bool {
		switch n.(type) {
		case *ast.ForStmt, *ast.RangeStmt:
			return true
		}
		return false
	})
}

// startedIn tells whether a function literal is what a go statement runs, and where.
func startedIn(stack []ast.Node, lit ast.Node) (token.Pos, bool) {
	for i, n := range stack {
		if n == lit && i >= 2 {
			if g, ok := stack[i-2].(*ast.GoStmt); ok {
				return g.Pos(), true
			}
		}
	}
	return 0, false
}

// mayGiveUp tells whether the function can come to its end without having received what
// the one goroutine sends.
func (c *channelUse) mayGiveUp() bool {
	for _, sel := range c.selects {
		if len(sel.stmt.Body.List) > 1 && len(c.receives) == 0 && leaves(sel, c) {
			return true
		}
	}
	if len(c.selects) > 0 || len(c.receives) == 0 {
		return false
	}
	for _, r := range c.returns {
		if r.Pos() > c.started && r.End() < c.receives[0] {
			return true
		}
	}
	return false
}

// leaves tells whether some other case of a select goes on without receiving: it returns,
// or it falls out of a select that is in no loop.
func leaves(sel choice, c *channelUse) bool {
	for _, clause := range sel.stmt.Body.List {
		comm, ok := clause.(*ast.CommClause)
		if !ok {
			continue
		}
		receives := false
		if comm.Comm != nil {
			ast.Inspect(comm.Comm, func(n ast.Node) bool {
				if id, ok := n.(*ast.Ident); ok && c.pass.TypesInfo.Uses[id] == c.ch {
					receives = true
				}
				return true
			})
		}
		if receives {
			continue
		}
		if !sel.inLoop && comm.Comm != nil {
			return true
		}
		for _, s := range comm.Body {
			if _, ok := s.(*ast.ReturnStmt); ok {
				return true
			}
		}
	}
	return false
}
