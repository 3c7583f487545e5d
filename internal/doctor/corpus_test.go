package doctor_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstockhq/penstock/internal/doctor"
)

const corpusDir = "testdata/corpus"

// mark is a line of the corpus that is to be found.
type mark struct {
	kind, cause string // "LEAK" or "COST"
	file        string
	line        int
	function    string // in whose body it stands
}

// marks reads the marks of the corpus and which program's files they are of.
func marks(t *testing.T) map[string][]mark {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(corpusDir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	marked := regexp.MustCompile(`// (LEAK|COST) (\S+)$`)
	starts := regexp.MustCompile(`^func (?:\((\w+) \*?(\w+)\) )?(\w+)`)
	byFunction := map[string][]mark{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		function := ""
		for i, line := range strings.Split(string(text), "\n") {
			if m := starts.FindStringSubmatch(line); m != nil {
				function = m[3]
			}
			if m := marked.FindStringSubmatch(line); m != nil {
				byFunction[function] = append(byFunction[function], mark{m[1], m[2], filepath.Base(file), i + 1, function})
			}
		}
	}
	return byFunction
}

// expected maps each program to the functions with its marks.
var expected = map[string][]string{
	"signup-mail": {"signupLeaky"}, "first-answer": {"firstAnswerLeaky"}, "pipeline-error": {"produceLeaky"},
	"slow-subscriber": {"publishLeaky"}, "semaphore": {"semaphoreLeaky"}, "worker-unclosed": {"importWorker"},
	"reply-dropped": {"replyDroppedLeaky"}, "nil-channel": {"flushLeaky"}, "fan-in": {"collect"},
	"done-on-success": {"cleanUp"}, "event-stream": {"run"}, "background-context": {"follow"},
	"lost-cancel": {"watchKey"}, "missed-unlock": {"takeLeaky"}, "lock-around-send": {"setLeaky"},
	"transfer-deadlock": {"transferLeaky"}, "recursive-read-lock": {"count", "summaryLeaky", "set"},
	"missed-read-unlock": {"getLeaky", "set"}, "missed-done": {"renderParts"}, "one-add-too-many": {"index"},
	"queue-close": {"get"}, "retry-forever": {"deliverLeaky"}, "session-poller": {"pollLeaky"},
	"silent-peer": {"readLineLeaky"}, "proxy-copy": {"proxyLeaky"}, "transport-per-call": {"fetchLeaky"},
	"body-on-error": {"priceOfLeaky"}, "body-half-read": {"sniffLeaky"}, "ticker-loop": {"refreshLeaky"},
	"heartbeat": {"heartbeatLeaky"}, "busy-wait": {"busyWaitLeaky"}, "price-cache": {"putLeaky"},
	"session-map": {"beginLeaky"}, "audit-slice": {"addLeaky"}, "kept-buffers": {"readBody"}, "rare-leak": {"resolve"},
	"old-leak": {"stuckReport"}, "one-a-minute": {"awaitAnswer"},
	"json-hot": {"encodeOrder"}, "sprintf-keys": {"keyLeaky"}, "string-join": {"joinLeaky"}, "clock-loop": {"expireLeaky"},
	"regexp-call": {"validSKULeaky"}, "sync-logger": {"steps"}, "polling-loop": {"pollLeaky"}, "one-lock": {"touchLeaky"},
	"small-objects": {"buildLeaky"},
}

// traps have no leaky variant; greedy programs take a core and are run alone; lasting ones
// need minutes before there is anything to see.
var (
	traps   = []string{"slow-finishers", "growing-pool", "burst", "sleepers", "idle-connections", "warming-cache", "parked-pool", "busy-queue"}
	greedy  = []string{"busy-wait", "json-hot", "sprintf-keys", "string-join", "clock-loop", "regexp-call", "sync-logger", "polling-loop", "one-lock", "small-objects"}
	lasting = []string{"old-leak", "one-a-minute"}
)

// corpus is the built programs and the upstreams that they talk to.
type corpus struct {
	binary, examiner string
	http             *httptest.Server
	tcp              net.Listener
}

func buildCorpus(t *testing.T) *corpus {
	t.Helper()
	dir := t.TempDir()
	c := &corpus{binary: filepath.Join(dir, "corpus"), examiner: filepath.Join(dir, "examine")}
	if out, err := exec.Command("go", "build", "-o", dir, "./"+corpusDir, "./testdata/examine").CombinedOutput(); err != nil {
		t.Fatalf("build the corpus: %v\n%s", err, out)
	}
	// An upstream is a network away.
	mux := http.NewServeMux()
	answer := func(path string, after time.Duration, status int, body []byte) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(after)
			w.WriteHeader(status)
			w.Write(body)
		})
	}
	answer("/ok", 10*time.Millisecond, 200, []byte(`{"Amount":185}`))
	answer("/fail", 10*time.Millisecond, 500, make([]byte, 5000))
	answer("/slow", 100*time.Millisecond, 200, nil)
	answer("/big", 10*time.Millisecond, 200, make([]byte, 1<<20))
	c.http = httptest.NewServer(mux)
	t.Cleanup(c.http.Close)
	var err error
	if c.tcp, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := c.tcp.Accept()
			if err != nil {
				return
			}
			conns = append(conns, conn)
		}
	})
	t.Cleanup(func() {
		c.tcp.Close()
		accepting.Wait()
		for _, conn := range conns {
			conn.Close()
		}
	})
	return c
}

// start runs a program under load until stop is called, and returns its address.
func (c *corpus) start(name, variant string) (url string, stop func(), err error) {
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, c.binary, name, variant, c.http.URL, c.tcp.Addr().String())
	cmd.Env = append(os.Environ(), "GOMAXPROCS=2", "GOEXPERIMENT=")
	cmd.Stderr = io.Discard
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		return "", nil, err
	}
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		cancel()
		cmd.Wait()
		return "", nil, fmt.Errorf("%s %s said nothing: %w", name, variant, err)
	}
	url = "http://" + strings.TrimSpace(addr)
	client := &http.Client{Timeout: 300 * time.Millisecond, Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	var load sync.WaitGroup
	load.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				load.Go(func() {
					req, _ := http.NewRequestWithContext(ctx, http.MethodGet, url+"/work", nil)
					if res, err := client.Do(req); err == nil {
						io.Copy(io.Discard, res.Body)
						res.Body.Close()
					}
				})
			}
		}
	})
	return url, func() {
		cancel()
		cmd.Wait()
		load.Wait()
		client.CloseIdleConnections()
	}, nil
}

// outcome of one examination of the corpus.
type outcome struct {
	name, variant          string
	detected, cause, where bool
	falseAlarm             bool
	strays                 int // findings of leaks that are none, beside the one to be found
	took                   time.Duration
	report                 *doctor.Report
}

// run starts a program, lets it settle, examines it and stops it.
func (c *corpus) run(t *testing.T, j job, settle, window time.Duration, all map[string][]mark) outcome {
	url, stop, err := c.start(j.name, j.variant)
	if err != nil {
		t.Error(err)
		return outcome{name: j.name, variant: j.variant}
	}
	defer stop()
	select {
	case <-time.After(settle):
	case <-t.Context().Done():
	}
	return c.examine(t, url, j.name, j.variant, window, all)
}

// job is one program to be run.
type job struct{ name, variant string }

func (c *corpus) examine(t *testing.T, url, name, variant string, window time.Duration, all map[string][]mark) outcome {
	begin := time.Now()
	keep := ""
	if dir := os.Getenv("PENSTOCK_CORPUS_KEEP"); dir != "" {
		keep = filepath.Join(dir, name+"-"+variant+".zip")
	}
	var complaints strings.Builder
	cmd := exec.CommandContext(t.Context(), c.examiner, url, window.String(), keep)
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	r := &doctor.Report{}
	if err == nil {
		err = json.Unmarshal(out, r)
	}
	if err != nil {
		t.Errorf("%s %s: %v %s", name, variant, err, &complaints)
		return outcome{name: name, variant: variant}
	}
	o := outcome{name: name, variant: variant, took: time.Since(begin), report: r}
	failing := r.Failing(doctor.Kinds())
	if variant == "fixed" {
		o.falseAlarm = len(failing) > 0
		return o
	}
	var wanted []mark
	for _, fn := range expected[name] {
		wanted = append(wanted, all[fn]...)
	}
	if len(wanted) == 0 {
		t.Errorf("%s has no marks", name)
	}
	for _, f := range failing {
		o.detected = true
		if f.Kind == doctor.KindLeak && !slices.ContainsFunc(wanted, func(m mark) bool { return strings.Contains(f.Function, m.function) }) {
			o.strays++
		}
		for _, m := range wanted {
			if causeMatches(m, f, r) {
				o.cause = true
				if filepath.Base(f.File) == m.file && f.Line == m.line && strings.Contains(f.Function, m.function) {
					o.where = true
				}
			}
		}
	}
	return o
}

func causeMatches(m mark, f doctor.Finding, r *doctor.Report) bool {
	switch {
	case strings.HasPrefix(m.cause, "heap:"):
		return f.Kind == doctor.KindHeap && "heap:"+r.Heap.Kind == m.cause
	case m.kind == "LEAK":
		return f.Kind == doctor.KindLeak && strings.HasPrefix(f.ID, m.cause+"-")
	case m.cause == "lock":
		return f.Kind == doctor.KindContention
	case m.cause == "gc":
		return f.Kind == doctor.KindGC
	}
	return f.Kind == doctor.KindCPU && strings.HasPrefix(f.ID, m.cause+":")
}

func (o outcome) String() string {
	s := fmt.Sprintf("%-20s %-6s detected=%-5t cause=%-5t where=%-5t falseAlarm=%-5t %4.1fs", o.name, o.variant, o.detected, o.cause, o.where, o.falseAlarm, o.took.Seconds())
	if o.report != nil {
		for _, f := range o.report.Findings {
			s += fmt.Sprintf("\n      %s %s at %s %s:%d (%s)", f.Kind, f.Title, f.Function, filepath.Base(f.File), f.Line, f.Confidence)
		}
	}
	return s
}

// TestCorpus_LeaksAreFoundAndMendedTwinsAreNotAccused runs every program of the corpus as
// a process and examines it. The lasting ones, for which it waits minutes, are run with
// PENSTOCK_CORPUS=full, which also takes the window that users have.
func TestCorpus_LeaksAreFoundAndMendedTwinsAreNotAccused(t *testing.T) {
	if testing.Short() {
		t.Skip("runs some eighty processes")
	}
	full := os.Getenv("PENSTOCK_CORPUS") == "full"
	window, atOnce := 8*time.Second, 16
	if full {
		window = 30 * time.Second
	}
	c := buildCorpus(t)
	all := marks(t)
	var mu sync.Mutex
	var outcomes []outcome
	each := func(jobs []job, atOnce int, settle, window time.Duration) {
		places := make(chan struct{}, atOnce)
		var running sync.WaitGroup
		for _, j := range jobs {
			places <- struct{}{}
			running.Go(func() {
				defer func() { <-places }()
				o := c.run(t, j, settle, window, all)
				mu.Lock()
				defer mu.Unlock()
				outcomes = append(outcomes, o)
			})
		}
		running.Wait()
	}
	light, heavy, slow := jobs(os.Getenv("PENSTOCK_CORPUS_ONLY"))
	var lastingRuns sync.WaitGroup
	if full {
		lastingRuns.Go(func() { each(slow, len(slow), 6*time.Minute, window) })
	}
	each(light, atOnce, 2*time.Second, window) // the traps are to reach what they do for good
	awaitCores(t)
	each(heavy, 2, time.Second, window)
	lastingRuns.Wait()
	judge(t, outcomes)
}

// awaitCores waits until the machine has a core to spare, at most three minutes: programs
// that are to show what they do with one need to get it, and the tests of other packages
// run at the same time. Where the load cannot be read, it does not wait.
func awaitCores(t *testing.T) {
	t.Helper()
	ticks := func() (idle, all float64) {
		stat, _ := os.ReadFile("/proc/stat") // none elsewhere: all is 0
		first, _, _ := strings.Cut(string(stat), "\n")
		for i, word := range strings.Fields(first) {
			v, _ := strconv.ParseFloat(word, 64) // the first word is no number
			all += v
			if i == 4 || i == 5 { // idle, waiting for a disk
				idle += v
			}
		}
		return idle, all
	}
	for range 90 {
		idle, all := ticks()
		select {
		case <-time.After(2 * time.Second):
		case <-t.Context().Done():
			return
		}
		if idleNow, allNow := ticks(); idleNow-idle >= 0.5*(allNow-all) {
			return
		}
	}
	t.Log("the machine stays busy: what takes a core is looked at all the same")
}

// jobs lists what is to be run: all, or the programs that only names.
func jobs(only string) (light, heavy, slow []job) {
	for _, name := range slices.Concat(slices.Sorted(maps.Keys(expected)), traps) {
		if only != "" && !slices.Contains(strings.Split(only, ","), name) {
			continue
		}
		for _, variant := range []string{"leaky", "fixed"} {
			switch j := (job{name, variant}); {
			case variant == "leaky" && slices.Contains(traps, name):
			case slices.Contains(lasting, name):
				slow = append(slow, j)
			case slices.Contains(greedy, name):
				heavy = append(heavy, j)
			default:
				light = append(light, j)
			}
		}
	}
	return light, heavy, slow
}

// judge holds the whole corpus against what doctor promises: 95 % detected, 90 % with the
// right line and cause, no false alarm.
func judge(t *testing.T, outcomes []outcome) {
	t.Helper()
	slices.SortFunc(outcomes, func(a, b outcome) int { return strings.Compare(a.name+a.variant, b.name+b.variant) })
	var leaky, detected, cause, where, fixed, alarms, strays int
	var took time.Duration
	for _, o := range outcomes {
		bad := o.falseAlarm
		if o.variant == "fixed" {
			fixed++
			alarms += count(o.falseAlarm)
		} else {
			leaky++
			detected += count(o.detected)
			cause += count(o.cause)
			where += count(o.where)
			bad = !o.where || o.strays > 0
			strays += o.strays
		}
		took = max(took, o.took)
		if bad || os.Getenv("PENSTOCK_CORPUS_VERBOSE") != "" {
			t.Log(o)
		}
	}
	t.Logf("%d leaking programs: %d detected, %d with the right cause, %d with function and line; %d leaks besides that are none; %d others: %d false alarms; at most %.1f s each",
		leaky, detected, cause, where, strays, fixed, alarms, took.Seconds())
	if detected*100 < leaky*95 {
		t.Errorf("only %d of %d detected", detected, leaky)
	}
	if cause*100 < leaky*90 || where*100 < leaky*90 {
		t.Errorf("of %d only %d with the right cause, %d with the right place", leaky, cause, where)
	}
	if alarms > 0 || strays > 0 {
		t.Errorf("%d false alarms, %d leaks named that are none", alarms, strays)
	}
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}
