package e2e

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDoctor_ExaminesSavesShowsAndCompares(t *testing.T) {
	t.Parallel()
	s := serve(t, filepath.Join(t.TempDir(), "data"))
	dir := t.TempDir()
	saved, page := filepath.Join(dir, "now.zip"), filepath.Join(dir, "now.html")
	out, errOut, code := penstock(t, nil, "doctor", "--window", "2s", "--json", "--save", saved, "--html", page, s.ops)
	if code != 0 {
		t.Fatalf("an idle server: exits %d\n%s%s", code, out, errOut)
	}
	var report struct {
		Verdict   string `json:"verdict"`
		GoVersion string `json:"go_version"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || report.Verdict != "healthy" || !strings.HasPrefix(report.GoVersion, "go1.") {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	contains(t, "the page", string(text), "<!doctype html>", "healthy", "const report = {")
	for _, remote := range []string{"http-equiv=\"refresh\"", "src=\"http", "href=\"http", "@import"} {
		if strings.Contains(string(text), remote) {
			t.Errorf("the page needs a network: %s", remote)
		}
	}
	out, _, code = penstock(t, nil, "doctor", saved)
	if code != 0 {
		t.Errorf("the saved examination: exits %d", code)
	}
	contains(t, "its report", out, "HEALTHY", s.ops)
	out, _, code = penstock(t, nil, "doctor", "compare", saved, saved)
	if code != 0 {
		t.Errorf("compared with itself: exits %d", code)
	}
	contains(t, "the comparison", out, "neither examination found anything")
	out, _, code = penstock(t, nil, "doctor", "schema")
	if code != 0 || !json.Valid([]byte(out)) {
		t.Errorf("the schema: exits %d", code)
	}
	s.terminate()
}

func TestDoctor_SaysWhyItCannotExamine(t *testing.T) {
	t.Parallel()
	s := serve(t, filepath.Join(t.TempDir(), "data"))
	text := filepath.Join(t.TempDir(), "notes.txt")
	if err := os.WriteFile(text, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ args, want []string }{
		"nobody there":    {[]string{"doctor", "http://127.0.0.1:1"}, []string{"refused"}},
		"no profiles":     {[]string{"doctor", s.url}, []string{"net/http/pprof"}},
		"no URL":          {[]string{"doctor", "no such file"}, []string{"neither", "URL"}},
		"short window":    {[]string{"doctor", "--window", "1s", s.ops}, []string{"2s to 24h"}},
		"another file":    {[]string{"doctor", text}, []string{text, "--save"}},
		"bad header":      {[]string{"doctor", "--header", "x", s.ops}, []string{"--header"}},
		"unknown kind":    {[]string{"doctor", "--fail-on", "noise", s.ops}, []string{"--fail-on"}},
		"trace unsaved":   {[]string{"doctor", "--trace", "1s", s.ops}, []string{"--save"}},
		"page nowhere":    {[]string{"doctor", "--window", "2s", "--html", "/nowhere/x.html", s.ops}, []string{"/nowhere/x.html"}},
		"compare nothing": {[]string{"doctor", "compare", text, text}, []string{text}},
		"watch file":      {[]string{"doctor", "watch", "--file", text, s.ops}, []string{text, "learn anew"}},
		"vet no package":  {[]string{"vet", "./nowhere"}, []string{"go.mod"}},
	} {
		_, errOut, code := penstock(t, nil, tc.args...)
		if code != 2 {
			t.Errorf("%s: exits %d: %s", name, code, errOut)
		}
		contains(t, name, errOut, tc.want...)
	}
	s.terminate()
}

func TestDoctor_ASilentTargetIsAFinding(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, _, code := penstock(t, nil, "doctor", "--timeout", "300ms", "http://"+l.Addr().String())
	if code != 1 {
		t.Errorf("exits %d", code)
	}
	contains(t, "the report", out, "UNRESPONSIVE")
}
