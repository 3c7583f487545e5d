package pgdb_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/internal/pgdb"
	"github.com/penstockhq/penstock/internal/testkit"
)

func TestMigrate_GoesDownAndUpAgainUnlessHistoryWasRemoved(t *testing.T) {
	t.Parallel()
	url, ctx := testkit.Database(t), context.Background()
	m, err := pgdb.NewMigrator(url)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for range 2 {
		for _, to := range []int64{1, 0} {
			if up, err := m.Up(ctx); err != nil || len(up) == 0 {
				t.Fatalf("%v, %v", up, err)
			}
			if down, err := m.DownTo(ctx, to); err != nil || int64(len(down)) != m.Known()-to {
				t.Fatalf("down to %d: %v, %v", to, down, err)
			}
		}
	}
	if _, err := m.Up(ctx); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "UPDATE counters SET value = 1 WHERE name = 'ledger_trimmed'"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.DownTo(ctx, 1); err == nil || !strings.Contains(err.Error(), "history was removed") {
		t.Fatalf("the base of removed history can be dropped: %v", err)
	}
	// What came after it was undone and comes again.
	if up, err := m.Up(ctx); err != nil || int64(len(up)) != m.Known()-2 {
		t.Fatalf("after the refusal: %v, %v", up, err)
	}
}
