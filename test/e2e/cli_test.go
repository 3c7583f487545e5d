package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstockhq/penstock/api/gen/oas"
	"github.com/penstockhq/penstock/internal/testkit"
)

func TestServe_BadFlagsSayWhatIsWrongAndWhatToDo(t *testing.T) {
	t.Parallel()
	file := func(content string) string {
		path := filepath.Join(t.TempDir(), "penstock.yaml")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, tc := range map[string]struct {
		env, args []string
		want      []string
	}{
		"address that others reach":   {nil, []string{"serve", "--http", "0.0.0.0:8080"}, []string{"0.0.0.0:8080", "no authentication", "--insecure-no-auth"}},
		"ops address":                 {nil, []string{"serve", "--ops", "192.0.2.1:6060"}, []string{"--ops"}},
		"address without a port":      {nil, []string{"serve", "--http", "localhost"}, []string{"--http", "HOST:PORT"}},
		"address in the environment":  {[]string{"PENSTOCK_HTTP=:80"}, []string{"serve"}, []string{"--http :80"}},
		"address in the file":         {nil, []string{"--config", file("http: '[::]:80'\n"), "serve"}, []string{"[::]:80"}},
		"unknown key in the file":     {nil, []string{"--config", file("htpp: x\n"), "serve"}, []string{"htpp"}},
		"file that is not YAML":       {nil, []string{"--config", file("{{"), "serve"}, []string{"YAML"}},
		"no such file":                {nil, []string{"--config", "/nowhere.yaml", "serve"}, []string{"/nowhere.yaml"}},
		"queue of nothing":            {nil, []string{"serve", "--max-queue", "0"}, []string{"--max-queue"}},
		"not a duration":              {nil, []string{"serve", "--keep-keys", "soon"}, []string{"keep-keys"}},
		"unknown flag":                {nil, []string{"serve", "--fast"}, []string{"--fast"}},
		"unknown command":             {nil, []string{"sevre"}, []string{"sevre"}},
		"no connection string":        {nil, []string{"serve", "--store", "postgres"}, []string{"--postgres", "postgres://"}},
		"connection string, no store": {nil, []string{"serve", "--postgres", "postgres://localhost/x"}, []string{"--store postgres"}},
		"unknown store":               {nil, []string{"serve", "--store", "mysql"}, []string{"pebble", "postgres"}},
		"processes":                   {nil, []string{"serve", "--store", "postgres", "--postgres", "x", "--postgres-processes", "0"}, []string{"--postgres-processes"}},
		"nothing to copy":             {nil, []string{"copy", "--postgres", "x", "--data", "/nowhere"}, []string{"/nowhere"}},
		"buyers":                      {nil, []string{"demo", "--buyers", "0"}, []string{"--buyers"}},
	} {
		out, errOut, code := penstock(t, tc.env, tc.args...)
		if code != 2 || out != "" {
			t.Errorf("%s: exits %d and prints %q", name, code, out)
		}
		contains(t, name, errOut, tc.want...)
	}
}

func TestServe_RefusesATakenPortAndATakenOrNewerFolder(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	s := serve(t, dir)
	newer := t.TempDir()
	if err := os.WriteFile(filepath.Join(newer, "PENSTOCK"), []byte(`{"format":99}`), 0o600); err != nil {
		t.Fatal(err)
	}
	any0 := []string{"--http", "127.0.0.1:0", "--ops", "127.0.0.1:0"}
	for name, tc := range map[string]struct{ args, want []string }{
		"taken port":         {[]string{"serve", "--data", newer, "--http", strings.TrimPrefix(s.url, "http://")}, []string{strings.TrimPrefix(s.url, "http://"), "--http"}},
		"taken folder":       {append([]string{"serve", "--data", dir}, any0...), []string{dir, "in use"}},
		"newer folder":       {append([]string{"serve", "--data", newer}, any0...), []string{newer, "format 99"}},
		"verify in use":      {[]string{"verify", "--data", dir}, []string{"in use", "--url"}},
		"verify nothing":     {[]string{"verify"}, []string{"--data", "--url"}},
		"verify no folder":   {[]string{"verify", "--data", "/nowhere"}, []string{"/nowhere"}},
		"verify wrong port":  {[]string{"verify", "--url", s.url}, []string{"operational port"}},
		"import no file":     {[]string{"import", "/nowhere.csv", "--url", s.url}, []string{"/nowhere.csv"}},
		"import what format": {[]string{"import", "/nowhere.xls", "--url", s.url}, []string{"--format"}},
	} {
		_, errOut, code := penstock(t, nil, tc.args...)
		if code != 1 {
			t.Errorf("%s: exits %d", name, code)
		}
		contains(t, name, errOut, tc.want...)
	}
	if out, errOut, code := penstock(t, nil, "verify", "--url", s.ops); code != 0 {
		t.Errorf("verify of the running server exits %d: %s%s", code, out, errOut)
	}
	s.terminate()
}

func TestServe_OpsPortTellsHealthMetricsAndProfiles(t *testing.T) {
	t.Parallel()
	s := serve(t, filepath.Join(t.TempDir(), "data"))
	s.stock("A", 185, 10)
	for path, want := range map[string]string{
		"/healthz": "ok", "/readyz": "ready", "/metrics": "penstock_groupcommit_batch_requests", "/debug/pprof/goroutine?debug=1": "groupcommit",
	} {
		res, err := s.http.Get(s.ops + path)
		if err != nil {
			t.Fatal(err)
		}
		body := new(strings.Builder)
		if _, err := copyAll(body, res); err != nil || res.StatusCode != http.StatusOK {
			t.Errorf("%s: %d, %v", path, res.StatusCode, err)
		}
		contains(t, path, body.String(), want)
	}
	// Nothing operational on the public port.
	if res, err := s.http.Get(s.url + "/metrics"); err != nil || res.StatusCode != http.StatusNotFound {
		t.Errorf("the API serves /metrics: %v, %v", res, err)
	} else if err := res.Body.Close(); err != nil {
		t.Error(err)
	}
	s.terminate()
	contains(t, "the log", s.log.String(), "penstock is ready", "penstock has stopped")
}

func TestImport_ReportsBadLinesAndExitsOne(t *testing.T) {
	t.Parallel()
	s := serve(t, filepath.Join(t.TempDir(), "data"))
	file := filepath.Join(t.TempDir(), "skus.csv")
	if err := os.WriteFile(file, []byte("sku,title,amount,currency\nA,Good,100,GBP\nB,Bad,1.5,GBP\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _, code := penstock(t, nil, "import", file, "--url", s.url)
	if code != 1 {
		t.Errorf("exits %d", code)
	}
	contains(t, "import", out, file+":3: B:", "1.5", "1 SKUs imported, 1 lines failed")
	if _, err := s.client.GetSKU(context.Background(), oas.GetSKUParams{Sku: "A"}); err != nil {
		t.Errorf("the good line does not stand: %v", err)
	}
}

func TestDemo_ProvesEveryPromise(t *testing.T) {
	t.Parallel()
	t.Run("folder", func(t *testing.T) {
		t.Parallel()
		demo(t)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		demo(t, "--store", "postgres", "--postgres", testkit.Database(t))
	})
}

func demo(t *testing.T, storage ...string) {
	t.Helper()
	out, errOut, code := penstock(t, nil, append([]string{"demo", "--buyers", "1500", "--units", "200", "--json"}, storage...)...)
	if code != 0 {
		t.Fatalf("exits %d:\n%s%s", code, out, errOut)
	}
	var r map[string]any
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, field := range []string{
		"accepted", "refused", "replayed", "expired", "paid", "oversold", "duplicates", "lost", "orders_per_second", "p50_ms", "p99_ms", "verify_ok",
	} {
		if _, ok := r[field]; !ok {
			t.Errorf("no %s", field)
		}
	}
	for _, field := range []string{"accepted", "refused", "replayed", "expired", "paid", "resold"} {
		if n, ok := r[field].(float64); !ok || n == 0 {
			t.Errorf("%s is %v: the sale did not show it", field, r[field])
		}
	}
	if r["oversold"] != 0.0 || r["lost"] != 0.0 || r["duplicates"] != 0.0 || r["verify_ok"] != true || r["hot_units_sold"] != 200.0 {
		t.Errorf("got %v", r)
	}
}

func TestCopy_MovesAFolderThatVerifyThenFindsRight(t *testing.T) {
	t.Parallel()
	url, dir := testkit.Database(t), filepath.Join(t.TempDir(), "data")
	s := serve(t, dir)
	s.stock("A", 200, 10)
	if _, err := s.client.PlaceOrder(t.Context(), request("k"), oas.PlaceOrderParams{IdempotencyKey: "k"}); err != nil {
		t.Fatal(err)
	}
	if _, errOut, code := penstock(t, nil, "copy", "--data", dir, "--postgres", url); code != 1 || !strings.Contains(errOut, "in use") {
		t.Errorf("copying from a server that runs exits %d: %s", code, errOut)
	}
	s.terminate()
	out, errOut, code := penstock(t, nil, "copy", "--data", dir, "--postgres", url)
	if code != 0 {
		t.Fatalf("exits %d:\n%s%s", code, out, errOut)
	}
	contains(t, "copy", out, "both sides were audited and agree", "1 orders")
	verifyOn(t, "--postgres", url)
	out, _, code = penstock(t, nil, "migrate", "status", "--postgres", url)
	if code != 0 {
		t.Errorf("migrate status exits %d", code)
	}
	contains(t, "migrate status", out, "00001_foundation.sql", "applied 2")
}

func TestHelp_ShowsCommandsAndDefaults(t *testing.T) {
	t.Parallel()
	out, _, code := penstock(t, nil)
	if code != 0 {
		t.Errorf("exits %d", code)
	}
	contains(t, "help", out, "serve", "demo", "import", "verify", "version")
	out, _, _ = penstock(t, nil, "serve", "--help")
	contains(t, "help of serve", out, "127.0.0.1:8080", "PENSTOCK_DATA", "--insecure-no-auth", "24h")
	out, _, _ = penstock(t, nil, "version")
	contains(t, "version", out, "penstock", "data format 2")
}
