package pgdb_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/internal/pgdb"
	"github.com/penstockhq/penstock/internal/testkit"
)

// limits asks for the time limits as a read has them.
func limits(t *testing.T, db *pgdb.DB) (statement, lock string) {
	t.Helper()
	err := db.Query(context.Background(), "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')", nil,
		func(rows pgx.Rows) error { return rows.Scan(&statement, &lock) })
	if err != nil {
		t.Fatal(err)
	}
	return statement, lock
}

func openWithLimits(t *testing.T, url string) *pgdb.DB {
	t.Helper()
	db, err := pgdb.Open(context.Background(), pgdb.Config{URL: url, NoMigrate: true, StatementTimeout: 7 * time.Second, LockTimeout: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

func TestSettings_AreThoseOfEveryReadAndBatch(t *testing.T) {
	t.Parallel()
	direct := testkit.Database(t)
	testkit.Open(t, direct) // makes the tables
	rows := probed(t, direct)
	for name, url := range map[string]string{"direct": direct, "behind a pooler": testkit.PgBouncer(t, direct)} {
		db := openWithLimits(t, url)
		if statement, lock := limits(t, db); statement != "7s" || lock != "3s" {
			t.Errorf("%s: a read has a statement timeout of %s and a lock timeout of %s", name, statement, lock)
		}
		before := rows()
		p := &probe{also: func(w *pgdb.Writes) {
			w.Queue(`DO $$ BEGIN
				ASSERT current_setting('statement_timeout') = '7s', 'statement_timeout';
				ASSERT current_setting('lock_timeout') = '3s', 'lock_timeout';
				ASSERT current_setting('enable_seqscan') = 'off', 'enable_seqscan';
				ASSERT current_setting('plan_cache_mode') = 'force_generic_plan', 'plan_cache_mode';
			END $$`)
		}}
		if err := run(db, p); err != nil {
			t.Errorf("%s: a batch runs with another setting: %v", name, err)
		}
		if n := rows() - before; n != 1 {
			t.Errorf("%s: the batch wrote %d rows", name, n)
		}
	}
}

func TestSettings_AreNotLeftToOthersBehindAPooler(t *testing.T) {
	t.Parallel()
	direct := testkit.Database(t)
	testkit.Open(t, direct)
	probed(t, direct)
	pooled := testkit.PgBouncer(t, direct)
	db := openWithLimits(t, pooled)
	var work sync.WaitGroup
	for range 8 {
		work.Go(func() {
			for range 10 {
				if err := run(db, &probe{}); err != nil {
					t.Error(err)
				}
				limits(t, db)
			}
		})
	}
	work.Wait()
	ctx := context.Background()
	for range 20 {
		stranger, err := pgx.Connect(ctx, pooled)
		if err != nil {
			t.Fatal(err)
		}
		var got string
		err = stranger.QueryRow(ctx, "SELECT current_setting('statement_timeout') || ' ' || current_setting('enable_seqscan')").Scan(&got)
		if err != nil || got != "0 on" {
			t.Errorf("somebody else's connection has %q (%v), want the server's own settings", got, err)
		}
		_ = stranger.Close(ctx)
	}
}
