package pgdb_test

import (
	"context"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestDocs_EveryQueryRuns(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/sql.md")
	if err != nil {
		t.Fatal(err)
	}
	queries := regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(queries) < 10 {
		t.Errorf("docs/sql.md has %d queries", len(queries))
	}
	url := testkit.Database(t)
	testkit.Open(t, url)
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conn.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	for _, q := range queries {
		if _, err := conn.Exec(context.Background(), q[1]); err != nil {
			t.Errorf("%s\n%v", strings.TrimSpace(q[1]), err)
		}
	}
}
