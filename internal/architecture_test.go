package internal_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/penstockhq/penstock/internal/order"
)

const module = "github.com/penstockhq/penstock/"

// imports returns for each package of the module which it imports, tests left out.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	cmd := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		all[strings.TrimPrefix(words[0], module)] = words[1:]
	}
	return all
}

// services are the parts that have the shape of domain, service, transport and store.
var services = []string{"order", "inventory", "catalogue"}

// place tells of which service a package is a part, and which part.
func place(pkg string) (service, part string) {
	words := strings.Split(pkg, "/")
	if len(words) < 2 || words[0] != "internal" || !slices.Contains(services, words[1]) {
		return "", ""
	}
	if len(words) == 2 {
		return words[1], "domain"
	}
	return words[1], strings.TrimPrefix(words[2], words[1])
}

func TestArchitecture_WhoMayImportWhom(t *testing.T) {
	t.Parallel()
	for pkg, imported := range imports(t) {
		service, part := place(pkg)
		outer := slices.Contains([]string{"rest", "pebble", "pg"}, part)
		for _, path := range imported {
			to, ours := strings.CutPrefix(path, module)
			toService, toPart := place(to)
			forbid := func(when bool, rule string) {
				if when {
					t.Errorf("%s imports %s: %s", pkg, to, rule)
				}
			}
			forbid(part == "domain" && strings.Contains(path, ".") && to != "internal/fault",
				"a domain imports the standard library and fault")
			forbid(pkg == "guard" && strings.Contains(path, "."), "guard needs the standard library alone")
			if !ours {
				continue
			}
			forbid(strings.HasPrefix(pkg, "internal/doctor") && !strings.HasPrefix(to, "internal/doctor"), "doctor serves any program and imports nothing of ours")
			forbid(part == "service" && toService != "" && (toService != service || toPart != "domain"),
				"a service imports its own domain")
			forbid(outer && toService != "" && toService != service, "never a peer")
			forbid(outer && toService == service && toPart != "domain" && toPart != "service",
				"transport and infrastructure never import each other")
			forbid(service == "" && toService != "" && !strings.HasPrefix(pkg, "internal/app"), "only app knows services")
			forbid(strings.HasPrefix(to, "internal/app") && !strings.HasPrefix(pkg, "internal/app") && pkg != "internal/cli", "only cli imports app")
			forbid(to == "internal/cli" && pkg != "cmd/penstock", "only the command imports cli")
			forbid(strings.HasSuffix(to, "test") && !strings.HasSuffix(pkg, "test"), "test packages are imported from tests alone")
		}
	}
}

func TestArchitecture_EveryPathThatTheDocumentsNameExists(t *testing.T) {
	t.Parallel()
	path := regexp.MustCompile("`((?:api|cmd|internal|bench|docs|test|tools|\\.ci)(?:/[A-Za-z0-9_./-]*)?)`")
	for _, document := range []string{"ARCHITECTURE.md", "README.md", "docs/orders.md", "docs/benchmarks.md", "docs/sql.md", "docs/doctor.md"} {
		text, err := os.ReadFile(filepath.Join("..", document))
		if err != nil {
			t.Fatal(err)
		}
		found := path.FindAllStringSubmatch(string(text), -1)
		for _, m := range found {
			if _, err := os.Stat(filepath.Join("..", m[1])); err != nil {
				t.Errorf("%s names %s: %v", document, m[1], err)
			}
		}
		if document == "ARCHITECTURE.md" && len(found) < 20 {
			t.Errorf("%s names only %d paths", document, len(found))
		}
	}
}

func TestArchitecture_TheDrawnStateMachineIsTheOneInTheCode(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/orders.md")
	if err != nil {
		t.Fatal(err)
	}
	var drawn, coded []string
	for _, m := range regexp.MustCompile(`(?m)^\s*(\S+) --> (\w+): (\w+)$`).FindAllStringSubmatch(string(text), -1) {
		drawn = append(drawn, strings.Replace(m[1], "[*]", "none", 1)+" "+m[3]+" "+m[2])
	}
	for _, tr := range order.Transitions {
		coded = append(coded, tr.From.String()+" "+tr.Action.String()+" "+tr.To.String())
	}
	slices.Sort(drawn)
	slices.Sort(coded)
	if !slices.Equal(drawn, coded) {
		t.Fatalf("docs/orders.md draws\n%s\nthe code has\n%s", strings.Join(drawn, "\n"), strings.Join(coded, "\n"))
	}
}
