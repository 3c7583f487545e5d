package doctor

import (
	"bufio"
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// sources reads lines of the target's code, where its files are on this machine. The names
// come from the target and are not trusted: only regular files that end in .go are read,
// and nothing of them goes further than the report.
type sources struct {
	root   string // a folder with the module
	module string // its path
	files  map[string][]byte
}

const maxSource = 4 << 20

func newSources(root string) *sources {
	s := &sources{root: root, files: map[string][]byte{}}
	if root == "" {
		return s
	}
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return s // then files are found by their recorded names only
	}
	in := bufio.NewScanner(bytes.NewReader(mod))
	for in.Scan() {
		if m, ok := strings.CutPrefix(strings.TrimSpace(in.Text()), "module "); ok {
			s.module = strings.Trim(strings.TrimSpace(m), `"`)
			break
		}
	}
	return s
}

// file returns the text of a file, nil if it is not to be had.
func (s *sources) file(name string) []byte {
	if text, known := s.files[name]; known {
		return text
	}
	var text []byte
	for _, path := range s.candidates(name) {
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() || info.Size() > maxSource {
			continue
		}
		if b, err := os.ReadFile(path); err == nil {
			text = b
			break
		}
	}
	if len(s.files) < 1000 {
		s.files[name] = text
	}
	return text
}

func (s *sources) candidates(name string) []string {
	if !strings.HasSuffix(name, ".go") {
		return nil
	}
	var all []string
	if s.root != "" && s.module != "" {
		if rest, ok := strings.CutPrefix(name, s.module+"/"); ok && filepath.IsLocal(rest) {
			all = append(all, filepath.Join(s.root, rest))
		}
	}
	if filepath.IsAbs(name) {
		all = append(all, name)
	}
	return all
}

// line returns a line of code without the space around it, "" if it is not to be had.
func (s *sources) line(f Frame) string {
	text := s.file(f.File)
	for range f.Line - 1 {
		_, rest, ok := bytes.Cut(text, []byte("\n"))
		if !ok {
			return ""
		}
		text = rest
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	line = bytes.TrimSpace(line)
	if len(line) > 160 {
		line = append(line[:160:160], "…"...)
	}
	return strings.ToValidUTF8(string(line), "�")
}

// waitsForTimer tells whether the statement at f receives from a timer or ticker and from
// nothing else. Timers are channels to the runtime: only the code tells.
func (s *sources) waitsForTimer(f Frame) bool {
	text := s.file(f.File)
	if text == nil {
		return false
	}
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, "", text, parser.SkipObjectResolution)
	if err != nil {
		return false
	}
	found, others := false, false
	ast.Inspect(file, func(n ast.Node) bool {
		if n == nil || set.Position(n.Pos()).Line > f.Line || set.Position(n.End()).Line < f.Line {
			return false
		}
		switch n := n.(type) {
		case *ast.SelectStmt:
			if set.Position(n.Pos()).Line != f.Line {
				return true
			}
			for _, clause := range n.Body.List {
				comm, ok := clause.(*ast.CommClause)
				if !ok || comm.Comm == nil || !receivesFromTimer(comm.Comm) {
					others = true
					continue
				}
				found = true
			}
			return false
		case *ast.RangeStmt:
			if set.Position(n.Pos()).Line == f.Line && isTimer(n.X) {
				found = true
			}
		case *ast.UnaryExpr:
			if n.Op == token.ARROW && set.Position(n.Pos()).Line == f.Line {
				found = found || isTimer(n.X)
				others = others || !isTimer(n.X)
			}
		}
		return true
	})
	return found && !others
}

func receivesFromTimer(s ast.Stmt) bool {
	var from ast.Expr
	switch s := s.(type) {
	case *ast.ExprStmt:
		from = s.X
	case *ast.AssignStmt:
		from = s.Rhs[0]
	}
	u, ok := from.(*ast.UnaryExpr)
	return ok && u.Op == token.ARROW && isTimer(u.X)
}

// isTimer recognises time.After(…), time.Tick(…) and the channel C of a timer.
func isTimer(e ast.Expr) bool {
	if call, ok := e.(*ast.CallExpr); ok {
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return false
		}
		pkg, ok := sel.X.(*ast.Ident)
		return ok && pkg.Name == "time" && (sel.Sel.Name == "After" || sel.Sel.Name == "Tick")
	}
	sel, ok := e.(*ast.SelectorExpr)
	return ok && sel.Sel.Name == "C"
}

// allocatesFor tells what the code at f makes room for: "map" if it puts something under a
// key, "slice" if it appends, "" if neither or if the file is not at hand. Profiles leave
// the runtime's own frames out, so that only the code tells. within tells whether the
// function that f is in fills a map anywhere.
func (s *sources) allocatesFor(f Frame) (what string, within bool) {
	text := s.file(f.File)
	if text == nil {
		return "", false
	}
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, "", text, parser.SkipObjectResolution)
	if err != nil {
		return "", false
	}
	for _, decl := range file.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Body == nil || set.Position(fn.Pos()).Line > f.Line || set.Position(fn.End()).Line < f.Line {
			continue
		}
		lists := listsOf(fn)
		ast.Inspect(fn.Body, func(n ast.Node) bool {
			if n == nil {
				return false
			}
			fills := fillsMap(n, lists)
			within = within || fills
			if set.Position(n.Pos()).Line == f.Line {
				what = allocation(n, what, fills)
			}
			return true
		})
	}
	return what, within
}

// fillsMap tells whether a statement puts something under a key. lists are the variables
// that are known to have indexes instead.
func fillsMap(n ast.Node, lists map[string]bool) bool {
	as, ok := n.(*ast.AssignStmt)
	if !ok {
		return false
	}
	return slices.ContainsFunc(as.Lhs, func(to ast.Expr) bool {
		index, ok := to.(*ast.IndexExpr)
		if !ok {
			return false
		}
		name, ok := index.X.(*ast.Ident)
		return !ok || !lists[name.Name]
	})
}

// listsOf names the variables that a function declares as arrays or slices.
func listsOf(fn *ast.FuncDecl) map[string]bool {
	lists := map[string]bool{}
	note := func(names []*ast.Ident, typ ast.Expr) {
		if _, ok := typ.(*ast.ArrayType); ok {
			for _, name := range names {
				lists[name.Name] = true
			}
		}
	}
	ast.Inspect(fn, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Field:
			note(n.Names, n.Type)
		case *ast.ValueSpec:
			note(n.Names, n.Type)
		case *ast.AssignStmt:
			for i, value := range n.Rhs {
				if name, ok := n.Lhs[i].(*ast.Ident); ok {
					note([]*ast.Ident{name}, madeType(value))
				}
			}
		}
		return true
	})
	return lists
}

// madeType is the type that make, or a literal, is written with; nil for all else.
func madeType(value ast.Expr) ast.Expr {
	switch value := value.(type) {
	case *ast.CompositeLit:
		return value.Type
	case *ast.CallExpr:
		if fn, ok := value.Fun.(*ast.Ident); ok && fn.Name == "make" && len(value.Args) > 0 {
			return value.Args[0]
		}
	}
	return nil
}

// allocation says what a node of the line makes room for, given what those before it did.
func allocation(n ast.Node, before string, fills bool) string {
	switch n := n.(type) {
	case *ast.AssignStmt:
		if fills && before == "" {
			return "map"
		}
	case *ast.CallExpr:
		if id, ok := n.Fun.(*ast.Ident); ok && id.Name == "append" {
			return "slice"
		}
	case *ast.UnaryExpr:
		if n.Op == token.AND && before == "map" {
			return "" // what is put there takes the room as well
		}
	}
	return before
}
