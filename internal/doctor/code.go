package doctor

import (
	"path"
	"strings"

	"github.com/penstockhq/penstock/internal/doctor/goroutine"
)

// Frame is a place in the code.
type Frame = goroutine.Frame

// owner says whose code a frame is.
type owner int

const (
	ownRuntime owner = iota // of the standard library
	ownDependency
	ownUser
)

// code tells the examined program's own code from that of its dependencies and of the
// standard library, by the files' names: nothing else is known of the program.
type code struct {
	goroot string // what the files of the standard library begin with; "" with -trimpath
	// module is what the files of the main module begin with, where that can be told
	// from a dependency only by name: a program installed from the module cache.
	module string
}

// newCode learns from the goroutines of a dump where things are.
func newCode(gs []goroutine.Goroutine) code {
	var c code
	seen := map[*goroutine.Stack]bool{}
	for i := range gs {
		s := gs[i].Stack
		if seen[s] {
			continue
		}
		seen[s] = true
		for _, f := range s.Frames {
			if c.goroot == "" && isStandard(f.Func) {
				if at := strings.Index(f.File, "/src/"+packagePath(f.Func)+"/"); at >= 0 {
					c.goroot = f.File[:at+len("/src/")]
				}
			}
			if f.Func == "main.main" {
				if at := strings.Index(f.File, "@"); at >= 0 && isCached(f.File) {
					end := strings.IndexByte(f.File[at:], '/')
					if end > 0 {
						c.module = f.File[:at+end+1]
					}
				}
			}
		}
	}
	return c
}

// isCached tells whether a file is of the module cache, or of a module by -trimpath.
func isCached(file string) bool {
	at := strings.Index(file, "@v")
	return at >= 0 && strings.IndexByte(file[at:], '/') > 0
}

func (c code) owner(f Frame) owner {
	if !strings.Contains(f.Func, ".") {
		return ownRuntime // assembly of the runtime has no package: "gcWriteBarrier"
	}
	if isStandard(f.Func) && (c.goroot == "" || f.File == "" || strings.HasPrefix(f.File, c.goroot) ||
		strings.HasPrefix(f.File, packagePath(f.Func)+"/") || strings.Contains(f.File, "/src/"+packagePath(f.Func)+"/") ||
		!path.IsAbs(f.File)) {
		return ownRuntime
	}
	if c.module != "" && strings.HasPrefix(f.File, c.module) {
		return ownUser
	}
	if isCached(f.File) || strings.Contains(f.File, "/vendor/") {
		return ownDependency
	}
	return ownUser
}

// blame finds the frame to show: the innermost of the program's own code, else of a
// dependency, else the innermost of all. It returns its index.
func (c code) blame(frames []Frame) int {
	dependency := -1
	for i, f := range frames {
		switch c.owner(f) {
		case ownUser:
			return i
		case ownDependency:
			if dependency < 0 {
				dependency = i
			}
		case ownRuntime:
		}
	}
	return max(dependency, 0)
}

// packagePath is the import path of the package of a function: "net/http" of
// "net/http.(*conn).serve".
func packagePath(fn string) string {
	// Type arguments may hold slashes and dots.
	if i := strings.IndexByte(fn, '['); i >= 0 {
		fn = fn[:i]
	}
	slash := strings.LastIndexByte(fn, '/') + 1
	if dot := strings.IndexByte(fn[slash:], '.'); dot >= 0 {
		return fn[:slash+dot]
	}
	return fn
}

// standard are the first elements of the paths of the standard library's packages. A
// module may not be named like one.
var standard = func() map[string]bool {
	m := map[string]bool{}
	for name := range strings.FieldsSeq(`archive arena bufio builtin bytes cmp compress container context crypto database debug
		embed encoding errors expvar flag fmt go hash html image index internal io iter log maps math mime net os path plugin
		reflect regexp runtime simd slices sort strconv strings structs sync syscall testing text time unicode unique unsafe vendor weak`) {
		m[name] = true
	}
	return m
}()

func isStandard(fn string) bool {
	first, _, _ := strings.Cut(packagePath(fn), "/")
	return standard[first] && !strings.Contains(first, ".")
}

// ShortName is a function's name as people say it: without the path of its package.
func ShortName(fn string) string {
	args := ""
	if i := strings.IndexByte(fn, '['); i >= 0 {
		fn, args = fn[:i], "[…]"+afterBracket(fn[i:])
	}
	return path.Base(fn) + args
}

func afterBracket(s string) string {
	if i := strings.LastIndexByte(s, ']'); i >= 0 {
		return s[i+1:]
	}
	return ""
}
