package goroutine_test

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/penstockhq/penstock/internal/doctor/goroutine"
)

const dump = `goroutine 1 [running]:
main.main()
	/src/main.go:12 +0x1d

goroutine 18 [chan receive, 3 minutes]:
main.(*pool).run(0xc000102000, {0x1, 0x2?}, ...)
	/src/pool.go:31 +0x1d
main.start.func1[...]()
	/src/pool.go:12 +0x25
created by main.start in goroutine 1
	/src/pool.go:11 +0x45

goroutine 19 gp=0xc000002a80 m=nil [select (no cases), 12 minutes, locked to thread]:
main.(*pool).run(0xc000102000, {0x1, 0x2?}, ...)
	/src/pool.go:31 +0x1d
...additional frames elided...
created by main.start
	/src/pool.go:11 +0x45

goroutine 20 [chan send (leaked) (scan)]:
main.send(0xc000102008)
	C:/src/send.go:7 +0x1d
created by main.start in goroutine 18
	C:/src/send.go:3
`

func TestRead_TellsStateAgeFramesAndCreator(t *testing.T) {
	t.Parallel()
	d, err := goroutine.Read(strings.NewReader(dump))
	if err != nil {
		t.Fatal(err)
	}
	got := make([]string, 0, len(d.Goroutines))
	for _, g := range d.Goroutines {
		got = append(got, fmt.Sprintf("%d %q %dm leaked=%t by %d %v | %s | %x", g.ID, g.State, g.Minutes, g.Leaked, g.Creator, g.Stack.CreatedBy, g.Stack.Frames, g.Args))
	}
	want := []string{
		`1 "running" 0m leaked=false by 0  (:0) | [main.main (/src/main.go:12)] | [[]]`,
		`18 "chan receive" 3m leaked=false by 1 main.start (/src/pool.go:11) | [main.(*pool).run (/src/pool.go:31) main.start.func1[...] (/src/pool.go:12)] | [[c000102000 1 2] []]`,
		`19 "select (no cases)" 12m leaked=false by 0 main.start (/src/pool.go:11) | [main.(*pool).run (/src/pool.go:31)] | [[c000102000 1 2]]`,
		`20 "chan send" 0m leaked=true by 18 main.start (C:/src/send.go:3) | [main.send (C:/src/send.go:7)] | [[c000102008]]`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestRead_WhatTheRuntimePrintsNow(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	defer close(stop)
	for range 50 {
		go func() { <-stop }()
	}
	buf := make([]byte, 1<<20)
	for {
		d, err := goroutine.Read(bytes.NewReader(buf[:runtime.Stack(buf, true)]))
		if err != nil {
			t.Fatal(err)
		}
		waiting := map[*goroutine.Stack]int{}
		for _, g := range d.Goroutines {
			if g.State == "chan receive" && strings.HasSuffix(g.Stack.CreatedBy.Func, "TestRead_WhatTheRuntimePrintsNow") && g.Stack.Frames[0].Line > 0 {
				waiting[g.Stack]++
			}
		}
		for _, n := range waiting {
			if n == 50 {
				return // all of them share one stack
			}
		}
		runtime.Gosched() // some have not begun to wait
	}
}

func TestRead_KeepsWhatStandsBeforeTheCut(t *testing.T) {
	t.Parallel()
	cut := strings.LastIndex(dump, "/src")
	d, err := goroutine.Read(iotest.DataErrReader(strings.NewReader(dump[:cut])))
	if !errors.Is(err, goroutine.ErrTruncated) || len(d.Goroutines) != 4 {
		t.Fatalf("got %d goroutines, %v", len(d.Goroutines), err)
	}
	if _, err := goroutine.Read(strings.NewReader("<html>404</html>\n")); err == nil {
		t.Fatal("a page of HTML was taken for a dump")
	}
}

func FuzzRead(f *testing.F) {
	f.Add(dump)
	f.Add("goroutine 1 [")
	f.Add("goroutine 18446744073709551616 [x]:\ncreated by  in goroutine \n:\n")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := goroutine.Read(strings.NewReader(text))
		if d == nil {
			if err == nil {
				t.Fatal("neither dump nor error")
			}
			return
		}
		for _, g := range d.Goroutines {
			if g.Stack == nil || len(g.Stack.Frames) == 0 || g.Minutes < 0 {
				t.Fatalf("%+v", g)
			}
		}
	})
}
