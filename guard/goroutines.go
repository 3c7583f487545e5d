package guard

import (
	"bufio"
	"bytes"
	"fmt"
	"runtime/pprof"
	"strconv"
	"strings"
)

// group is goroutines with one label and one stack.
type group struct {
	request uint64
	count   int
	stack   []string
}

// labelled lists the goroutines that carry a label of any Guard.
//
// It reads the text of the goroutine profile, the only form that has labels and names
// without a decoder:
//
//	3 @ 0x43a5ae 0x4062f8
//	# labels: {"guard":"17", "route":"/orders"}
//	#	0x4062f7	main.wait+0x57	/src/main.go:12
func labelled() ([]group, error) {
	var text bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&text, 1); err != nil {
		return nil, fmt.Errorf("goroutine profile: %w", err)
	}
	return parse(&text), nil
}

func parse(text *bytes.Buffer) []group {
	var all []group
	var at *group
	count := 0
	in := bufio.NewScanner(text)
	in.Buffer(make([]byte, 64<<10), 1<<20)
	for in.Scan() {
		line := in.Text()
		switch {
		case strings.HasPrefix(line, "# labels: "):
			if id, ok := requestOf(line); ok {
				all = append(all, group{request: id, count: count})
				at = &all[len(all)-1]
			}
		case strings.HasPrefix(line, "#"):
			if at != nil {
				at.stack = append(at.stack, frame(line))
			}
		case strings.Contains(line, " @ "):
			n, _, _ := strings.Cut(line, " ")
			count, _ = strconv.Atoi(n) // the runtime writes a number here
			at = nil
		}
	}
	return all
}

// requestOf finds the number of the request among labels.
func requestOf(line string) (uint64, bool) {
	_, rest, ok := strings.Cut(line, strconv.Quote(label)+":\"")
	if !ok {
		return 0, false
	}
	digits, _, _ := strings.Cut(rest, "\"")
	id, err := strconv.ParseUint(digits, 10, 64)
	return id, err == nil
}

// frame makes "main.wait /src/main.go:12" of a line of a stack.
func frame(line string) string {
	f := strings.Fields(strings.TrimPrefix(line, "#"))
	if len(f) < 3 {
		return strings.Join(f, " ")
	}
	name := f[1]
	if i := strings.LastIndex(name, "+0x"); i >= 0 {
		name = name[:i]
	}
	return name + " " + f[len(f)-1]
}
