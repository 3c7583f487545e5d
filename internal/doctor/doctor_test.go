package doctor_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/pprof"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.uber.org/goleak"

	"github.com/penstockhq/penstock/internal/doctor"
	"github.com/penstockhq/penstock/internal/doctor/render"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pprofMux serves this very process as a target.
func pprofMux() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// quick examines for as short as one may.
func quick(url string) doctor.Config {
	return doctor.Config{Access: doctor.Access{URL: url, Timeout: 2 * time.Second}, Window: 2 * time.Second, CPU: time.Second}
}

func take(t *testing.T, cfg doctor.Config) *doctor.Capture {
	t.Helper()
	c, err := doctor.Take(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTake_SavedAndLoadedGivesTheSameReport(t *testing.T) {
	t.Parallel()
	cfg := quick(serve(t, pprofMux()))
	cfg.Trace = 100 * time.Millisecond
	c := take(t, cfg)
	file := filepath.Join(t.TempDir(), "examination.zip")
	if err := c.Save(file); err != nil {
		t.Fatal(err)
	}
	loaded, err := doctor.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	before, err := json.Marshal(doctor.Analyse(c, ""))
	if err != nil {
		t.Fatal(err)
	}
	after, err := json.Marshal(doctor.Analyse(loaded, ""))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Fatalf("before\n%s\nafter\n%s", before, after)
	}
}

func TestReport_FollowsItsSchema(t *testing.T) {
	t.Parallel()
	text, err := json.Marshal(doctor.Analyse(take(t, quick(serve(t, pprofMux()))), ""))
	if err != nil {
		t.Fatal(err)
	}
	checkSchema(t, text)
}

// checkSchema holds a report against the schema that is published.
func checkSchema(t *testing.T, report []byte) {
	t.Helper()
	compiler := jsonschema.NewCompiler()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(doctor.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	if err := compiler.AddResource("report.json", doc); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("report.json")
	if err != nil {
		t.Fatal(err)
	}
	got, err := jsonschema.UnmarshalJSON(bytes.NewReader(report))
	if err != nil {
		t.Fatal(err)
	}
	if err := compiled.Validate(got); err != nil {
		t.Fatalf("%v\n%s", err, report)
	}
}

func TestTake_BasicAuthAndHeaders(t *testing.T) {
	t.Parallel()
	mux := pprofMux()
	url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if name, password, _ := r.BasicAuth(); name != "ops" || password != "s3cret" || r.Header.Get("X-Team") != "shop" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	cfg := quick(strings.Replace(url, "http://", "http://ops:s3cret@", 1))
	if _, err := doctor.Take(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "password") {
		t.Fatalf("without the header: %v", err)
	}
	cfg.Headers = http.Header{"X-Team": {"shop"}}
	if c := take(t, cfg); strings.Contains(c.Target, "s3cret") || len(c.Dumps) < 3 {
		t.Fatalf("target %q, %d dumps", c.Target, len(c.Dumps))
	}
}

func TestTake_TLSIsVerified(t *testing.T) {
	t.Parallel()
	s := httptest.NewTLSServer(pprofMux())
	s.Config.ErrorLog = nil
	t.Cleanup(s.Close)
	cfg := quick(s.URL)
	if _, err := doctor.Take(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Fatalf("an unknown certificate: %v", err)
	}
	cfg.Insecure = true
	take(t, cfg)
}

func TestTake_SaysWhatATargetLacks(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/debug/pprof/" || strings.HasSuffix(r.URL.Path, "/goroutine") {
			pprof.Index(w, r)
			return
		}
		http.NotFound(w, r)
	})
	r := doctor.Analyse(take(t, quick(serve(t, mux))), "")
	lacks := map[string]bool{}
	for _, m := range r.Unavailable {
		lacks[m.What] = m.Cost != "" && m.Why != ""
	}
	for _, what := range []string{"heap", "cpu", "metrics"} {
		if !lacks[what] {
			t.Errorf("nothing is said of %s: %v", what, r.Unavailable)
		}
	}
	if r.Verdict != doctor.Healthy || r.Heap.Verdict != "unknown" {
		t.Errorf("verdict %s, heap %s", r.Verdict, r.Heap.Verdict)
	}
	if _, err := doctor.Take(t.Context(), quick(serve(t, http.NotFoundHandler()))); err == nil || !strings.Contains(err.Error(), "net/http/pprof") {
		t.Errorf("no profiles at all: %v", err)
	}
}

func TestTake_ATargetThatDoesNotAnswerIsAFinding(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	url := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer close(release)
	cfg := quick(url)
	cfg.Timeout = 200 * time.Millisecond
	r := doctor.Analyse(take(t, cfg), "")
	if r.Verdict != doctor.Unresponsive || len(r.Failing(doctor.Kinds())) != 1 {
		t.Fatalf("%s %v", r.Verdict, r.Findings)
	}
	if _, err := doctor.Take(t.Context(), quick("http://127.0.0.1:1")); err == nil {
		t.Fatal("nobody there, and no error")
	}
}

func TestTake_FollowsNoRedirectToAnotherHost(t *testing.T) {
	t.Parallel()
	var reached atomic.Bool
	other := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Store(true) }))
	url := serve(t, http.RedirectHandler(other+"/debug/pprof/", http.StatusFound))
	if _, err := doctor.Take(t.Context(), quick(url)); err == nil || reached.Load() {
		t.Fatalf("err %v, reached %t", err, reached.Load())
	}
}

// hostile answers everything with what a broken or malicious target could.
func hostile(count string, body func(path string) []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/debug/pprof/" {
			fmt.Fprintf(w, "<td>%s</td><td><a href='goroutine?debug=1'>goroutine</a> mutex?debug=1 block?debug=1 goroutineleak?debug=1 <script>", count)
			return
		}
		w.Write(body(r.URL.Path))
	})
}

func gzipped(b []byte) []byte {
	var z bytes.Buffer
	zw := gzip.NewWriter(&z)
	zw.Write(b)
	zw.Close()
	return z.Bytes()
}

func TestTake_HostileTargetsAreBoundedAndReportsEscaped(t *testing.T) {
	t.Parallel()
	evil := "</script><script>alert(1)</script>\x1b[2J"
	dump := fmt.Sprintf("goroutine 1 [chan send, 99999999999999999999 minutes]:\nmain.%[1]s(0xffffffffffffffffffff)\n\t%[1]s.go:-5 +0x1\ncreated by main.%[1]s in goroutine 77777777777777777777777\n\t/etc/passwd:1\n\n", evil)
	bomb, records := gzipped(make([]byte, 200<<20)), gzipped(bytes.Repeat([]byte{0x12, 0x00}, 5<<20))
	bodies := map[string]func(path string) []byte{
		"rubbish":  func(string) []byte { return bytes.Repeat([]byte{0xff, 0x00, 0x0a}, 1<<16) },
		"bomb":     func(string) []byte { return bomb },
		"records":  func(string) []byte { return records },
		"one line": func(string) []byte { return bytes.Repeat([]byte("goroutine 1 ["), 1<<20) },
		"evil": func(path string) []byte {
			if strings.HasSuffix(path, "/goroutine") {
				var b strings.Builder
				for i := range 40 + int(time.Now().UnixMilli()%1_000_000)/50 {
					b.WriteString(strings.Replace(dump, "goroutine 1 ", fmt.Sprintf("goroutine %d ", i+2), 1))
				}
				return []byte(b.String())
			}
			return []byte("# HeapAlloc = 1\n# HeapAlloc = 1e308\n# HeapAlloc = -5\n# NumGC = NaN\n# NextGC = 1e308\n# HeapSys = 1\n# HeapIdle = 1\n# HeapInuse = 1\n# Mallocs = 1\n" +
				"go_goroutines 1\ngo_sync_mutex_wait_total_seconds_total " + []string{"-1e308", "1e308"}[time.Now().UnixMilli()/500%2] + "\n")
		},
	}
	for name, body := range bodies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			count := "99999999999999999999"
			if name == "evil" {
				count = "50" // so that the text is asked for
			}
			c, err := doctor.Take(t.Context(), quick(serve(t, hostile(count, body))))
			if err != nil {
				t.Fatal(err)
			}
			r := doctor.Analyse(c, "")
			var text, page bytes.Buffer
			if err := render.Text(&text, r, false); err != nil {
				t.Fatal(err)
			}
			if err := render.HTML(&page, r); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(text.String(), "\x1b") {
				t.Errorf("control characters reach the terminal: %q", text.String())
			}
			if strings.Contains(page.String(), "<script>alert") || strings.Contains(page.String(), "root:x:0") {
				t.Error("the page is not escaped, or shows files of this machine")
			}
			report, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			checkSchema(t, report)
			if said := fmt.Sprint(r.Unavailable); name == "records" && !strings.Contains(said, "records") {
				t.Errorf("five million samples were read: %s", said)
			}
			if name == "evil" && len(r.Leaks) == 0 {
				t.Error("the evil leak was not even found, so that nothing was tested")
			}
		})
	}
}

func TestTake_ReadsNoMoreThanIsOfUse(t *testing.T) {
	t.Parallel()
	url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write(bytes.Repeat([]byte("x"), 4<<20))
	}))
	if _, err := doctor.Take(t.Context(), quick(url)); err == nil || !strings.Contains(err.Error(), "more than is read") {
		t.Fatal(err)
	}
}

func TestConfig_SaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, c := range []doctor.Config{
		{Access: doctor.Access{URL: "http://x"}, Window: time.Second},
		{Access: doctor.Access{URL: "http://x"}, Window: 5 * time.Second, CPU: 6 * time.Second},
		{Access: doctor.Access{URL: "http://x"}, Trace: time.Hour},
		{Access: doctor.Access{URL: "ftp://x"}},
		{Access: doctor.Access{URL: "http://"}},
		{Access: doctor.Access{URL: "http://x", CAFile: "doctor_test.go"}},
	} {
		if _, err := doctor.Take(t.Context(), c); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}

func TestLoad_RefusesWhatIsNoExamination(t *testing.T) {
	t.Parallel()
	if _, err := doctor.Load("doctor_test.go"); err == nil || !strings.Contains(err.Error(), "--save") {
		t.Fatal(err)
	}
}
