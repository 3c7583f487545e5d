package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	_ "net/http/pprof" // for the doctor
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// targetCommand makes a child a program to be examined: with so many goroutines that wait,
// so many megabytes in objects of 256 bytes, so much garbage and growth.
const targetCommand = "target"

// target is what is examined.
type target struct {
	name       string
	goroutines int
	leaks      int // goroutines a second
	heap       int // MB
	garbage    int // MB a second
	grows      int // MB a minute
}

func (t target) args() []string {
	args := []string{childCommand, targetCommand}
	for _, v := range []int{t.goroutines, t.leaks, t.heap, t.garbage, t.grows} {
		args = append(args, strconv.Itoa(v))
	}
	return args
}

// record is an object of the target's heap.
type record struct {
	next, other *record
	_           [240]byte
}

const recordsPerMB = 1 << 20 / 256

func targetMain(args []string) error {
	var v [5]int
	for i := range v {
		var err error
		if v[i], err = strconv.Atoi(args[i]); err != nil {
			return err
		}
	}
	for range v[0] {
		go waitForEver(8)
	}
	var held *record
	hold := func(n int) {
		for range n {
			held = &record{next: held, other: held}
		}
	}
	hold(v[2] * recordsPerMB)
	runtime.GC() // as if it had run for long
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	srv := &http.Server{Handler: http.DefaultServeMux}
	context.AfterFunc(ctx, func() { _ = srv.Close() }) // it is the end anyway
	go func() {
		var garbage *record
		for i := 0; ; i++ {
			time.Sleep(20 * time.Millisecond)
			if v[1] > 0 && i%50 == 0 {
				for range v[1] {
					go waitForEver(8)
				}
			}
			hold(v[4] * recordsPerMB / 60 / 50)
			for range v[3] * recordsPerMB / 50 {
				garbage = &record{other: garbage}
				garbage.other = nil
			}
		}
	}()
	fmt.Fprintf(os.Stderr, `{"msg":"penstock is ready","http":"%s","ops":""}`+"\n", l.Addr())
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// waitForEver waits some calls deep.
func waitForEver(depth int) {
	if depth > 0 {
		waitForEver(depth - 1)
		return
	}
	<-make(chan struct{})
}

// cpuSeconds is the CPU time that a process has taken.
func cpuSeconds(pid int) (float64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	words := strings.Fields(rest)
	if len(words) < 13 {
		return 0, errors.New("this system does not tell the CPU time of processes")
	}
	user, err1 := strconv.ParseFloat(words[11], 64)
	system, err2 := strconv.ParseFloat(words[12], 64)
	return (user + system) / 100, errors.Join(err1, err2) // in ticks of 10 ms
}

// examineExperiment measures what an examination costs the target and the examiner.
func examineExperiment(ctx context.Context, o options) error {
	window := time.Duration(o.scale(30, 3)) * time.Second
	var rows [][]string
	for _, t := range []target{
		{name: "small and idle", goroutines: 10, heap: 1},
		{name: "busy: 100 MB of garbage a second", goroutines: 500, heap: 100, garbage: 100},
		{name: "many goroutines, some leak", goroutines: o.scale(100_000, 2_000), leaks: 20, heap: 1},
		{name: "large and quiet, some leak", goroutines: o.scale(100_000, 2_000), leaks: 20, heap: o.scale(2_000, 50)},
		{name: "large and busy: 100 MB a second", goroutines: o.scale(100_000, 2_000), heap: o.scale(2_000, 50), garbage: 100},
		{name: "large and growing: 100 MB a minute", goroutines: o.scale(100_000, 2_000), heap: o.scale(2_000, 50), grows: 100},
	} {
		row, err := examineOne(ctx, t, window)
		if err != nil {
			return err
		}
		rows = append(rows, row)
	}
	table([]string{"target", "goroutines", "heap, MB", "seconds", "examiner's memory, MB", "CPU s that it adds to the target", "of two cores"}, rows)
	return nil
}

func examineOne(ctx context.Context, t target, window time.Duration) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s, err := startCommand("", exec.CommandContext(ctx, self, t.args()...))
	if err != nil {
		return nil, err
	}
	defer s.stop() //nolint:errcheck // its end is of no interest
	pid := s.cmd.Process.Pid
	spend := func(f func() error) (cpu, took float64, err error) {
		before, err := cpuSeconds(pid)
		if err != nil {
			return 0, 0, err
		}
		begin := time.Now()
		if err := f(); err != nil {
			return 0, 0, err
		}
		took = time.Since(begin).Seconds()
		after, err := cpuSeconds(pid)
		return after - before, took, err
	}
	pause := func() error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(window):
			return nil
		}
	}
	if err := pause(); err != nil { // what it did to begin with is over
		return nil, err
	}
	alone, aloneTook, err := spend(pause)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, childCommand, "doctor", "examine", "--window", window.String(), "--json", s.url)
	examined, took, err := spend(func() error {
		_, err := cmd.Output()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 1 {
			return nil // it has findings
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	memory := 0.0
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		memory = float64(usage.Maxrss) / 1024
	}
	added := max(0, examined-alone*took/aloneTook)
	return []string{t.name, count(float64(t.goroutines)), count(float64(t.heap)), fmt.Sprintf("%.1f", took), fmt.Sprintf("%.0f", memory),
		fmt.Sprintf("%.2f", added), fmt.Sprintf("%.1f %%", 100*added/2/took)}, nil
}
