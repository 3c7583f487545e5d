package doctor

import (
	"strings"

	"github.com/penstockhq/penstock/internal/doctor/goroutine"
)

// Cause is what goroutines are blocked in.
type Cause string

// The causes. The analyzers of "penstock vet" use the same names.
const (
	ChanSend  Cause = "chan-send"
	ChanRecv  Cause = "chan-recv"
	Select    Cause = "select"
	Mutex     Cause = "mutex"
	RWMutex   Cause = "rwmutex"
	WaitGroup Cause = "waitgroup"
	Cond      Cause = "cond"
	Sleep     Cause = "sleep"
	IO        Cause = "io"
	HTTPBody  Cause = "http-body"
	Timer     Cause = "timer"
	Spin      Cause = "spin"
	Other     Cause = "other"
)

// Causes lists all of them.
func Causes() []Cause {
	return []Cause{ChanSend, ChanRecv, Select, Mutex, RWMutex, WaitGroup, Cond, Sleep, IO, HTTPBody, Timer, Spin, Other}
}

// isLock tells whether a goroutine with the cause waits for somebody who holds something.
func (c Cause) isLock() bool { return c == Mutex || c == RWMutex }

// causeOf tells what a goroutine is blocked in, by its state and, where the runtime calls
// several things by one name (before Go 1.20 all of package sync was "semacquire"), by the
// frames above the program's own.
func causeOf(state string, frames []Frame) Cause {
	above := func(part string) bool {
		for _, f := range frames[:min(len(frames), 8)] {
			if strings.Contains(f.Func, part) {
				return true
			}
		}
		return false
	}
	switch state {
	case "chan send", "chan send (nil chan)":
		return ChanSend
	case "chan receive", "chan receive (nil chan)":
		return ChanRecv
	case "select", "select (no cases)":
		// A response's body is read by its user until the end or Close; until then
		// the connection's own goroutine waits.
		if above("net/http.(*persistConn).readLoop") || above("http2clientStream).writeRequest") || above("http2.(*clientStream).writeRequest") {
			return HTTPBody
		}
		return Select
	case "sleep":
		return Sleep
	case "IO wait", "syscall":
		return IO
	case "sync.Cond.Wait":
		return Cond
	case "sync.WaitGroup.Wait":
		return WaitGroup
	case "sync.RWMutex.RLock", "sync.RWMutex.Lock":
		return RWMutex
	case "sync.Mutex.Lock", "semacquire":
		switch {
		case above("sync.(*RWMutex)"):
			return RWMutex
		case above("sync.(*WaitGroup).Wait"):
			return WaitGroup
		case above("sync.(*Mutex)") || state == "sync.Mutex.Lock":
			return Mutex
		}
	case "running", "runnable", "preempted":
		return Spin
	}
	return Other
}

// lockAddress is the address that a goroutine waits at, if its dump shows it: two waiters
// with one address wait for one lock.
func lockAddress(g *goroutine.Goroutine) uint64 {
	for i, f := range g.Stack.Frames {
		if i >= len(g.Args) || i > 6 {
			break
		}
		lock := strings.Contains(f.Func, "sync.(*Mutex).") || strings.Contains(f.Func, "sync.(*RWMutex).")
		if (lock || strings.Contains(f.Func, "_Semacquire")) && len(g.Args[i]) > 0 {
			// The semaphore lies within the lock, so its address is rounded to the
			// next words; who compares allows for it.
			return g.Args[i][0]
		}
	}
	return 0
}

// libraryWait are goroutines that a library starts for its user, and that end when the
// user does something. The stack does not show the user: who calls one of entries does.
type libraryWait struct {
	name    string
	frame   string   // of the waiting goroutine
	state   string   // that it has when its user forgot; "" for any
	entries []string // the library's functions by which it comes to be
	// users are functions of what the entries returned: they show the user where nobody
	// was seen at an entry.
	users []string
}

var (
	// requesters send a request, and bodyReaders read the response's body, on HTTP/1 and 2.
	requesters  = []string{"net/http.(*Client).do", "net/http.(*Transport).RoundTrip", "net/http.(*Transport).roundTrip"}
	bodyReaders = []string{
		"net/http.(*bodyEOFSignal).Read", "net/http.(*cancelTimerBody).Read", "net/http.http2transportResponseBody.Read",
		"golang.org/x/net/http2.transportResponseBody.Read",
	}
)

var libraryWaits = []libraryWait{
	{"http-body", "net/http.(*persistConn).readLoop", "select", requesters, bodyReaders},
	{"http-body", "clientStream).writeRequest", "select", requesters, bodyReaders},
	{"http-idle", "net/http.(*persistConn).readLoop", "IO wait", requesters, bodyReaders},
	{"sql-rows", "database/sql.(*Rows).awaitDone", "", []string{"database/sql.(*DB).Query", "database/sql.(*Stmt).Query", "database/sql.(*Tx).Query", "database/sql.(*Conn).Query"}, nil},
	{"sql-tx", "database/sql.(*Tx).awaitDone", "", []string{"database/sql.(*DB).Begin", "database/sql.(*Conn).Begin"}, nil},
	{"exec", "os/exec.(*Cmd).watchCtx", "", []string{"os/exec.(*Cmd).Start"}, nil},
	{"exec", "os/exec.(*Cmd).Start", "", []string{"os/exec.(*Cmd).Start"}, nil},
	{"context", "context.(*cancelCtx).propagateCancel", "", []string{"context.WithCancel", "context.WithTimeout", "context.WithDeadline"}, nil},
	{"grpc-conn", "google.golang.org/grpc/internal/transport.(*http2Client).reader", "", []string{"google.golang.org/grpc.NewClient", "google.golang.org/grpc.Dial"}, nil},
	{"grpc-stream", "google.golang.org/grpc.newClientStreamWithParams", "", []string{"google.golang.org/grpc.(*ClientConn).NewStream"}, nil},
}

// findLibraryWait tells which of them a stack is.
func findLibraryWait(state string, frames []Frame) *libraryWait {
	for i := range libraryWaits {
		w := &libraryWaits[i]
		if w.state != "" && w.state != state {
			continue
		}
		for _, f := range frames {
			if strings.Contains(f.Func, w.frame) {
				return w
			}
		}
	}
	return nil
}

// byDesign tells whether goroutines with these frames are expected to wait for long, each
// on a peer that may keep silent: they are suspicious only in growing numbers.
func byDesign(cause Cause, frames []Frame) bool {
	if cause == IO {
		return true
	}
	for _, f := range frames {
		if f.Func == "net/http.(*conn).serve" {
			return true // as long as its client stays
		}
	}
	return false
}

// isOwn tells whether a goroutine serves an examination.
func isOwn(frames []Frame) bool {
	for _, f := range frames {
		if strings.HasPrefix(f.Func, "net/http/pprof.") || strings.HasPrefix(f.Func, "runtime/pprof.") {
			return true
		}
	}
	return false
}
