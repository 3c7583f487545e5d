// Package goroutine reads what a Go program prints of its goroutines: the text of
// /debug/pprof/goroutine?debug=2, which is also what a crash prints.
//
// It only reads. What a stack means (a leak, a pool, an idle connection) is decided by
// package doctor. The one thing a reader would get wrong: the text is not trusted. It may
// be cut off anywhere, be endless or not be a dump at all; every size is bounded, and what
// is read up to a bound is returned together with why reading stopped there.
package goroutine

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
)

// Bounds of what is read of one dump.
const (
	maxGoroutines = 2_000_000
	maxStacks     = 200_000 // distinct ones
	maxStrings    = 400_000 // distinct function and file lines
	maxFrames     = 128     // of one stack; the runtime prints at most 100
	maxLine       = 32 << 10
	// maxArgs is of how many goroutines with one stack the arguments are kept: a few
	// dozen tell whether all of them wait for the same thing.
	maxArgs = 48
)

// ErrTruncated says that a dump ended before its end, or went on past what is read of it.
// The runtime itself stops after 64 MB.
var ErrTruncated = errors.New("the dump of goroutines is cut off")

// Frame is a place in the code.
type Frame struct {
	Func string `json:"function"` // with its package's path: "net/http.(*conn).serve"
	File string `json:"file"`
	Line int    `json:"line"`
}

// String is the place as compilers write it, after the function.
func (f Frame) String() string { return fmt.Sprintf("%s (%s:%d)", f.Func, f.File, f.Line) }

// Stack is a call stack, the innermost frame first. Goroutines with equal stacks share one.
type Stack struct {
	Frames    []Frame
	CreatedBy Frame // zero for the main goroutine
}

// Goroutine is one goroutine of a dump.
type Goroutine struct {
	ID      uint64
	Creator uint64 // ID of the goroutine that made it; 0 if not told (before Go 1.21, or main)
	// State is what the runtime calls it: "chan receive", "IO wait", "running", …
	State string
	// Minutes since it was first seen waiting by the collector, so 0 for less.
	Minutes int
	Leaked  bool // the runtime proved that nothing can wake it
	Stack   *Stack
	// Args are the words that the functions of its frames were called with, frame by
	// frame, as far as the dump shows them. Nil where they were not kept.
	Args [][]uint64
}

// Dump is what was read.
type Dump struct {
	Goroutines []Goroutine
	Stacks     int // distinct
}

// Read reads a dump. With an error that is ErrTruncated, what was read so far is returned
// and sound; the last goroutine may miss its outermost frames.
func Read(r io.Reader) (*Dump, error) {
	p := &parser{
		in: bufio.NewReaderSize(r, maxLine), dump: &Dump{},
		names: map[string]string{}, places: map[string]uint32{}, states: map[string]string{}, stacks: map[string]*interned{},
	}
	err := p.run()
	p.dump.Stacks = len(p.stacks)
	if err == nil && len(p.dump.Goroutines) == 0 {
		return nil, errors.New("no goroutine in it: this is not a dump of goroutines")
	}
	return p.dump, err
}

type interned struct {
	stack    *Stack
	withArgs int
}

type parser struct {
	in     *bufio.Reader
	dump   *Dump
	names  map[string]string    // what Frame.Func and File share
	places map[string]uint32    // a pair of lines → index in frames
	frames []Frame              // by place
	states map[string]string    // what Goroutine.State shares
	stacks map[string]*interned // key: places of the frames
	line   []byte
	key    []byte
	pair   []byte
	args   [][]uint64
	ids    []uint32
	parent uint32 // place of the creator, 0 for none
}

// next reads a line without its end into p.line. A longer line than maxLine is cut: only
// hostile ones are.
func (p *parser) next() error {
	line, err := p.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		p.line = append(p.line[:0], line...)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = p.in.ReadSlice('\n')
		}
		return err
	}
	if errors.Is(err, io.EOF) && len(line) > 0 {
		err = io.ErrUnexpectedEOF // every line of a whole dump has its end
	}
	if err != nil {
		return err
	}
	p.line = bytes.TrimRight(line, "\r\n")
	return nil
}

func (p *parser) run() error {
	for {
		switch err := p.next(); {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return ErrTruncated
		case err != nil:
			return fmt.Errorf("read the dump of goroutines: %w", err)
		}
		g, ok := p.header()
		if !ok {
			continue // what stands before, between and after goroutines
		}
		if len(p.dump.Goroutines) >= maxGoroutines {
			return fmt.Errorf("%w: more than %d goroutines", ErrTruncated, maxGoroutines)
		}
		whole, err := p.stack(&g)
		if err != nil {
			return err
		}
		if len(p.ids) > 0 {
			p.dump.Goroutines = append(p.dump.Goroutines, g)
		}
		if !whole {
			return ErrTruncated
		}
	}
}

var (
	headerStart = []byte("goroutine ")
	createdBy   = []byte("created by ")
	inGoroutine = []byte(" in goroutine ")
)

// header reads "goroutine 7 [chan receive, 3 minutes, locked to thread]:".
func (p *parser) header() (g Goroutine, ok bool) {
	rest, ok := bytes.CutPrefix(p.line, headerStart)
	if !ok {
		return g, false
	}
	digits := 0
	for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
		g.ID = g.ID*10 + uint64(rest[digits]-'0')
		digits++
	}
	open := bytes.IndexByte(rest, '[')
	end := bytes.LastIndexByte(rest, ']')
	if digits == 0 || digits > 19 || open < 0 || end < open {
		return g, false
	}
	state, rest, _ := bytes.Cut(rest[open+1:end], []byte(", "))
	for len(rest) > 0 {
		var part []byte
		part, rest, _ = bytes.Cut(rest, []byte(", "))
		if n, ok := bytes.CutSuffix(part, []byte(" minutes")); ok {
			g.Minutes, _ = strconv.Atoi(string(n)) // what is no number counts as no time
			g.Minutes = max(0, g.Minutes)
		}
	}
	state = bytes.TrimSuffix(state, []byte(" (scan)"))
	state, g.Leaked = bytes.CutSuffix(state, []byte(" (leaked)"))
	state = bytes.TrimSuffix(state, []byte(" (durable)"))
	g.State = p.intern(p.states, state)
	return g, true
}

// stack reads the frames that follow a header, up to the empty line after them.
// It returns false if the dump ended in between.
func (p *parser) stack(g *Goroutine) (whole bool, err error) {
	p.ids, p.args, p.parent = p.ids[:0], p.args[:0], 0
	for {
		switch err := p.next(); {
		case errors.Is(err, io.EOF):
			return true, p.finish(g)
		case errors.Is(err, io.ErrUnexpectedEOF):
			return false, p.finish(g)
		case err != nil:
			return false, err
		}
		if len(p.line) == 0 {
			return true, p.finish(g)
		}
		if p.line[0] == '\t' || bytes.HasPrefix(p.line, []byte("...")) {
			continue // a file without its function; "...12 frames elided..."
		}
		p.pair = append(p.pair[:0], p.line...)
		if err := p.next(); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return false, p.finish(g)
			}
			return false, err
		}
		if err := p.frame(g, p.pair, p.line); err != nil {
			return false, err
		}
	}
}

// frame takes in the two lines of a frame:
//
//	main.(*pool).run(0xc000102000, {0x1, 0x2})
//		/src/main.go:31 +0x1d
func (p *parser) frame(g *Goroutine, call, at []byte) error {
	creator, isCreator := bytes.CutPrefix(call, createdBy)
	name, words := call, []byte(nil)
	if isCreator {
		name = creator
		if i := bytes.LastIndex(creator, inGoroutine); i >= 0 {
			name = creator[:i]
			g.Creator, _ = strconv.ParseUint(string(creator[i+len(inGoroutine):]), 10, 64) // absent is 0
		}
	} else if i := bytes.LastIndexByte(call, '('); i > 0 {
		name, words = call[:i], bytes.TrimSuffix(call[i+1:], []byte(")"))
	}
	at = bytes.TrimSpace(at)
	if i := bytes.LastIndex(at, []byte(" +0x")); i >= 0 {
		at = at[:i]
	}
	id, err := p.place(name, at)
	if err != nil {
		return err
	}
	if isCreator {
		p.parent = id
		return nil
	}
	if len(p.ids) < maxFrames {
		p.ids = append(p.ids, id)
		p.args = append(p.args, parseWords(words))
	}
	return nil
}

// place numbers a pair of function and "file:line".
func (p *parser) place(name, at []byte) (uint32, error) {
	p.key = append(append(append(p.key[:0], name...), 0), at...)
	if id, ok := p.places[string(p.key)]; ok {
		return id, nil
	}
	if len(p.places) >= maxStrings {
		return 0, fmt.Errorf("%w: more than %d places in the code", ErrTruncated, maxStrings)
	}
	f := Frame{Func: p.intern(p.names, name)}
	if i := bytes.LastIndexByte(at, ':'); i >= 0 {
		f.Line, _ = strconv.Atoi(string(at[i+1:])) // hostile: no line
		at = at[:i]
	}
	f.File = p.intern(p.names, at)
	p.frames = append(p.frames, f)
	id := uint32(len(p.frames)) // from 1: 0 is no place
	p.places[string(p.key)] = id
	return id, nil
}

func (p *parser) intern(m map[string]string, b []byte) string {
	if s, ok := m[string(b)]; ok {
		return s
	}
	s := string(b)
	m[s] = s
	return s
}

// finish gives g the shared stack of its frames.
func (p *parser) finish(g *Goroutine) error {
	if len(p.ids) == 0 {
		return nil
	}
	p.key = binary.LittleEndian.AppendUint32(p.key[:0], p.parent)
	for _, id := range p.ids {
		p.key = binary.LittleEndian.AppendUint32(p.key, id)
	}
	in := p.stacks[string(p.key)]
	if in == nil {
		if len(p.stacks) >= maxStacks {
			return fmt.Errorf("%w: more than %d different stacks", ErrTruncated, maxStacks)
		}
		in = &interned{stack: &Stack{Frames: make([]Frame, len(p.ids))}}
		for i, id := range p.ids {
			in.stack.Frames[i] = p.frames[id-1]
		}
		if p.parent > 0 {
			in.stack.CreatedBy = p.frames[p.parent-1]
		}
		p.stacks[string(p.key)] = in
	}
	g.Stack = in.stack
	if in.withArgs < maxArgs {
		in.withArgs++
		g.Args = slices.Clone(p.args)
	}
	return nil
}

// parseWords reads the hexadecimal words of "0xc000102000, {0x1, 0x2}, 0x3?, ...". The
// question mark, which says that the word may be stale, is dropped: who compares words
// looks for the same ones in many places.
func parseWords(b []byte) []uint64 {
	var words []uint64
	for {
		i := bytes.Index(b, []byte("0x"))
		if i < 0 || len(words) >= 16 {
			return words
		}
		b = b[i+2:]
		var w uint64
		n := 0
		for n < len(b) && n < 16 {
			d, ok := hexDigit(b[n])
			if !ok {
				break
			}
			w = w<<4 | d
			n++
		}
		words = append(words, w)
		b = b[n:]
	}
}

func hexDigit(c byte) (uint64, bool) {
	switch {
	case c >= '0' && c <= '9':
		return uint64(c - '0'), true
	case c >= 'a' && c <= 'f':
		return uint64(c-'a') + 10, true
	}
	return 0, false
}
