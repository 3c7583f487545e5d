package doctor

import (
	"fmt"
	"strings"
)

// advice is what one can say of a cause without knowing the program.
type advice struct {
	// what takes the function and says in one sentence what is going on; why says how
	// that comes about.
	what, why string
	fix       string
	before    string
	after     string
}

var advices = map[Cause]advice{
	ChanSend: {
		what:   "%s waits to send on a channel that nobody receives from any more.",
		why:    "The receiver has returned early, by a timeout, an error or a cancelled context, and a send without room in the channel waits for ever.",
		fix:    "Give the channel room for the one answer, or stop sending when the receiver is gone.",
		before: "ch := make(chan result)\ngo func() { ch <- work() }()",
		after:  "ch := make(chan result, 1) // the send never waits\ngo func() { ch <- work() }()",
	},
	ChanRecv: {
		what:   "%s waits to receive from a channel to which nobody sends and that nobody closes.",
		why:    "Whoever should have sent or closed it has returned, often on a path for errors.",
		fix:    "Close the channel where its only sender ends, on every path, and receive with the context.",
		before: "go func() {\n\tfor job := range jobs { do(job) }\n}()",
		after:  "defer close(jobs) // in the sender: the loop above ends\n// or: select { case job := <-jobs: … case <-ctx.Done(): return }",
	},
	Select: {
		what:   "%s waits in a select of which no case can ever happen.",
		why:    "Its channels have no sender left, and there is no case for the end: no ctx.Done(), or the context of one that is never cancelled.",
		fix:    "Add the case for the end and make sure that somebody cancels it.",
		before: "select {\ncase ev := <-events:\n\thandle(ev)\n}",
		after:  "select {\ncase ev := <-events:\n\thandle(ev)\ncase <-ctx.Done(): // and defer cancel() where ctx is made\n\treturn\n}",
	},
	Mutex: {
		what:   "%s waits for a mutex that is not given back.",
		why:    "Some path returns or panics without Unlock, locks twice, or two mutexes are taken in different orders.",
		fix:    "Unlock with defer right after Lock, never call out with the lock held, and take several locks in one order.",
		before: "mu.Lock()\nif bad {\n\treturn err // still locked\n}\nmu.Unlock()",
		after:  "mu.Lock()\ndefer mu.Unlock()\nif bad {\n\treturn err\n}",
	},
	RWMutex: {
		what:   "%s waits for a read-write mutex that is not given back.",
		why:    "A reader or the writer went without unlocking, or a goroutine that reads locks again while a writer waits: the writer waits for the reader, and the second read for the writer.",
		fix:    "Unlock with defer, and do not lock for reading inside what has locked for reading.",
		before: "mu.RLock()\ndefer mu.RUnlock()\nreturn c.Size() // locks again",
		after:  "mu.RLock()\ndefer mu.RUnlock()\nreturn len(c.items) // or sizeLocked()",
	},
	WaitGroup: {
		what:   "%s waits for a WaitGroup whose count never comes down to zero.",
		why:    "A goroutine returned or panicked before Done, Add was called for more than were started, or one of them is stuck itself.",
		fix:    "Start the goroutines with wg.Go, which counts by itself, or defer wg.Done() in their first line.",
		before: "wg.Add(1)\ngo func() {\n\tif err := step(); err != nil { return } // no Done\n\twg.Done()\n}()",
		after:  "wg.Go(func() {\n\tif err := step(); err != nil { return }\n})",
	},
	Cond: {
		what:   "%s waits on a sync.Cond that nobody signals.",
		why:    "What it waits for had happened before, or Signal woke one where all should have been woken, or the end of the program part does not Broadcast.",
		fix:    "Test the condition in a loop under the lock, and Broadcast when closing.",
		before: "func (q *Queue) Close() { q.mu.Lock(); q.closed = true; q.mu.Unlock() }",
		after:  "func (q *Queue) Close() { q.mu.Lock(); q.closed = true; q.mu.Unlock(); q.cond.Broadcast() }",
	},
	Sleep: {
		what:   "%s sleeps in a loop that has no way to end.",
		why:    "It is started again and again, for each request or connection, and time.Sleep knows nothing of a context.",
		fix:    "Wait for the context as well as for the time, and return when it ends.",
		before: "for {\n\tpoll()\n\ttime.Sleep(interval)\n}",
		after:  "for {\n\tpoll()\n\tselect {\n\tcase <-time.After(interval):\n\tcase <-ctx.Done():\n\t\treturn\n\t}\n}",
	},
	IO: {
		what:   "%s waits for bytes from a peer that sends none.",
		why:    "The connection has no deadline, and nobody closes it when its user is gone.",
		fix:    "Set a deadline before each read, and close the connection when what uses it ends.",
		before: "n, err := conn.Read(buf)",
		after:  "conn.SetReadDeadline(time.Now().Add(timeout))\nn, err := conn.Read(buf) // and context.AfterFunc(ctx, func() { conn.Close() })",
	},
	HTTPBody: {
		what:   "%s makes HTTP requests and does not close the body of the answer.",
		why:    "Until the body is read to its end or closed, the connection and its two goroutines are kept for it; the next request opens another.",
		fix:    "Close the body on every path, also where only the status is of interest.",
		before: "res, err := client.Get(url)\nif err != nil || res.StatusCode != 200 {\n\treturn err // body still open\n}",
		after:  "res, err := client.Get(url)\nif err != nil {\n\treturn err\n}\ndefer res.Body.Close()",
	},
	Timer: {
		what:   "%s waits for the next tick of a timer and has no way to end.",
		why:    "Stop does not close a ticker's channel, so that a loop over it waits for ever; one such loop is started for each request or connection.",
		fix:    "Select on the ticker and on the context, and stop the ticker on return.",
		before: "t := time.NewTicker(d)\nfor range t.C { refresh() }",
		after:  "t := time.NewTicker(d)\ndefer t.Stop()\nfor {\n\tselect {\n\tcase <-t.C:\n\t\trefresh()\n\tcase <-ctx.Done():\n\t\treturn\n\t}\n}",
	},
	Spin: {
		what:   "%s runs in a loop that never waits and never ends.",
		why:    "A select with a default, or a test of a flag, comes round at once; each such goroutine takes a core from the others.",
		fix:    "Wait for the event itself: a select without default, a channel that is closed, a sync.Cond.",
		before: "for {\n\tselect {\n\tcase m := <-in: handle(m)\n\tdefault:\n\t}\n}",
		after:  "for {\n\tselect {\n\tcase m := <-in: handle(m)\n\tcase <-ctx.Done(): return\n\t}\n}",
	},
	Other: {
		what: "%s does not end.",
		why:  "What it waits for is none of the usual things; its stack tells.",
		fix:  "Give it a context and return when that ends.",
	},
}

// libraryAdvices are for goroutines that a library started.
var libraryAdvices = map[string]advice{
	"http-idle": {
		what:   "%s opens connections that stay open and idle.",
		why:    "An http.Transport is made for each call, and each keeps its own connections for later requests that never come.",
		fix:    "Share one http.Client; where there must be many, call CloseIdleConnections.",
		before: "client := &http.Client{Transport: &http.Transport{}}\nclient.Get(url)",
		after:  "var client = &http.Client{Transport: transport} // made once",
	},
	"sql-rows": {
		what:   "%s runs queries and does not close their rows.",
		why:    "Rows that are not read to the end keep their database connection and a goroutine that waits for the context.",
		fix:    "Close the rows on every path.",
		before: "rows, err := db.QueryContext(ctx, q)",
		after:  "rows, err := db.QueryContext(ctx, q)\nif err != nil {\n\treturn err\n}\ndefer rows.Close()",
	},
	"sql-tx": {
		what:   "%s begins transactions that are neither committed nor rolled back.",
		why:    "Each keeps its database connection, its locks there and a goroutine that waits for the context.",
		fix:    "Defer the roll-back: after a commit it does nothing.",
		before: "tx, err := db.BeginTx(ctx, nil)",
		after:  "tx, err := db.BeginTx(ctx, nil)\nif err != nil {\n\treturn err\n}\ndefer tx.Rollback()",
	},
	"exec": {
		what:   "%s starts commands and does not wait for them.",
		why:    "Until Wait is called the process stays in the table and goroutines copy its output.",
		fix:    "Call Wait on every path.",
		before: "cmd.Start()",
		after:  "if err := cmd.Start(); err != nil {\n\treturn err\n}\ndefer cmd.Wait()",
	},
	"context": {
		what:   "%s makes contexts that are not cancelled.",
		why:    "Each lives until its parent ends, with a goroutine where the parent is not one of the standard library.",
		fix:    "Defer cancel where the context is made.",
		before: "ctx, _ := context.WithCancel(parent)",
		after:  "ctx, cancel := context.WithCancel(parent)\ndefer cancel()",
	},
	"grpc-conn": {
		what:   "%s opens gRPC connections and does not close them.",
		why:    "A ClientConn is meant to be shared; each has goroutines of its own that live until Close.",
		fix:    "Make one ClientConn for each server, at start.",
		before: "conn, err := grpc.NewClient(addr) // in a handler",
		after:  "conn, err := grpc.NewClient(addr) // in main\ndefer conn.Close()",
	},
	"grpc-stream": {
		what:   "%s opens gRPC streams and does not end them.",
		why:    "A stream ends when it is received from until an error, or when its context is cancelled.",
		fix:    "Cancel the stream's context when leaving.",
		before: "stream, err := client.Watch(ctx)",
		after:  "ctx, cancel := context.WithCancel(ctx)\ndefer cancel()\nstream, err := client.Watch(ctx)",
	},
}

// explain fills in a leak's explanation and fix.
func explain(l *Leak) {
	a := advices[l.Cause]
	if w := findLibraryWait(l.State, l.Stack); w != nil {
		if special, ok := libraryAdvices[w.name]; ok {
			a = special
		}
	}
	name := ShortName(l.Function)
	what := fmt.Sprintf(a.what, name)
	if l.State == "chan send (nil chan)" || l.State == "chan receive (nil chan)" {
		what = name + " uses a channel that is nil."
		a.why = "A nil channel is never ready: the variable was not made, or was set to nil to switch a case off."
	}
	if len(l.Behind) > 0 && l.Behind[0].Cause.isLock() && !l.Cause.isLock() {
		n := 0
		for _, b := range l.Behind {
			n += b.Goroutines
		}
		what = fmt.Sprintf("%s While it waits it holds a lock, behind which %d more wait in %s.", what, n, ShortName(l.Behind[0].Function))
		a.fix += " Do not wait for others with a lock held."
	} else {
		what += " " + a.why
	}
	l.Explanation = what
	l.Fix = a.fix
	if a.before != "" {
		l.Fix += "\n\nbefore:\n" + indent(a.before) + "\nafter:\n" + indent(a.after)
	}
}

func indent(s string) string {
	return "    " + strings.ReplaceAll(s, "\n", "\n    ")
}
