package gateway

import (
	"encoding/json"
	"html/template"
	"net/http"
	"strings"

	"github.com/swaggest/swgui/v5emb"

	"github.com/penstockhq/penstock/internal/fault"
	"github.com/penstockhq/penstock/internal/problem"
)

// addPages serves the reference and the explanations of problem types. All of it is in
// the binary, so it works without a network.
func (g *Gateway) addPages() {
	g.mux.HandleFunc("GET /openapi.yaml", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/yaml")
		_, _ = w.Write(g.cfg.OpenAPI) // the client is gone if this fails
	})
	g.mux.Handle("GET /docs/", v5emb.New("Penstock", "/openapi.yaml", "/docs/"))
	g.mux.HandleFunc("GET /problems/{$}", problemIndex)
	g.mux.HandleFunc("GET /problems/{slug}", explainProblem)
	g.mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/docs/", http.StatusFound)
	})
	known := map[string]bool{"/": true, "/openapi.yaml": true, "/docs/": true, "/problems/": true}
	g.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && (known[r.URL.Path] || strings.HasPrefix(r.URL.Path, "/problems/")) {
			methodNotAllowed(w, r, "GET, HEAD")
			return
		}
		notFound(w, r)
	})
}

type explanation struct {
	Type        string `json:"type"`
	Title       string `json:"title"`
	Status      int    `json:"status"`
	Explanation string `json:"explanation"`
}

func explain(c fault.Code) explanation {
	k := c.Kind()
	return explanation{c.Path(), k.Title, k.Status, k.Explanation}
}

// explainProblem answers a problem's type with what it means.
func explainProblem(w http.ResponseWriter, r *http.Request) {
	for _, c := range fault.Codes() {
		if c.String() == r.PathValue("slug") {
			show(w, r, []explanation{explain(c)})
			return
		}
	}
	problem.Write(w, fault.New(fault.RouteNotFound, "there is no problem type %s; /problems/ lists them", clip(r.URL.Path)))
}

func problemIndex(w http.ResponseWriter, r *http.Request) {
	var all []explanation
	for _, c := range fault.Codes() {
		all = append(all, explain(c))
	}
	show(w, r, all)
}

//nolint:gochecknoglobals // a constant
var page = template.Must(template.New("problems").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Penstock: problems</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:42rem;margin:3rem auto;padding:0 1rem;color-scheme:light dark}</style>
</head><body>{{range .}}<h1>{{.Title}}</h1><p><code>{{.Type}}</code> · HTTP {{.Status}}</p><p>{{.Explanation}}</p>{{end}}
<p><a href="/problems/">All problem types</a> · <a href="/docs/">Reference</a></p></body></html>
`))

func show(w http.ResponseWriter, r *http.Request, what []explanation) {
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_ = page.Execute(w, what) // the client is gone if this fails
		return
	}
	w.Header().Set("Content-Type", "application/json")
	var body any = what
	if len(what) == 1 {
		body = what[0]
	}
	_ = json.NewEncoder(w).Encode(body) //nolint:errchkjson // the client is gone if this fails
}
