package pgdb_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/internal/groupcommit"
	"github.com/penstockhq/penstock/internal/pgdb"
	"github.com/penstockhq/penstock/internal/testkit"
)

func TestWrites_NothingStaysOfABatchThatCannotBeEncoded(t *testing.T) {
	t.Parallel()
	direct := testkit.Database(t)
	testkit.Open(t, direct)
	rows := probed(t, direct)
	for name, url := range map[string]string{"direct": direct, "behind a pooler": testkit.PgBouncer(t, direct)} {
		db := openWithLimits(t, url)
		for range 2 { // the second time the statements are prepared
			err := run(db, &probe{also: func(w *pgdb.Writes) {
				w.Queue("INSERT INTO probe DEFAULT VALUES")
				long(w) // the first are on their way
				w.Queue("SELECT $1::bigint", struct{}{})
			}})
			if _, ok := errors.AsType[*groupcommit.BatchError](err); !ok {
				t.Errorf("%s: got %v", name, err)
			}
			if n := rows(); n != 0 {
				t.Fatalf("%s: %d rows were written", name, n)
			}
		}
	}
	db := testkit.Open(t, direct)
	if err := run(db, &probe{}); err != nil || rows() != 1 {
		t.Errorf("the next batch: %v, %d rows", err, rows())
	}
}

func TestWrites_AfterAnErrorTheConnectionIsAsBefore(t *testing.T) {
	t.Parallel()
	url := testkit.Database(t)
	db, rows := testkit.Open(t, url), probed(t, url)
	write := func(statement int) {
		t.Helper()
		err := run(db, &probe{
			fail: func(attempt int) string {
				if attempt < 3 {
					return "23505"
				}
				return ""
			},
			also: func(w *pgdb.Writes) { // statements that are new behind one that fails
				w.Queue("SELECT $1::bigint, 'statement "+strconv.Itoa(statement)+"'", statement)
				w.Queue("INSERT INTO probe SELECT pg_backend_pid()")
			},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		write(i)
	}
	if n := backends(t, url, ""); n != 1 {
		t.Errorf("%d connections wrote, want the one that was there", n)
	}
	// The next connection has prepared nothing, but what the statements take is known.
	backends(t, url, "SELECT pg_terminate_backend(n) FROM probe WHERE n IS NOT NULL")
	for i := range 3 {
		write(i)
	}
	if n := backends(t, url, ""); n != 2 {
		t.Errorf("%d connections wrote, want the one that was there and its successor", n)
	}
	if n := rows(); n != 12 {
		t.Errorf("%d rows, want two of each batch", n)
	}
}

func TestWrites_AConnectionWithTooManyStatementsIsReplaced(t *testing.T) {
	t.Parallel()
	url := testkit.Database(t)
	db, rows := testkit.Open(t, url), probed(t, url)
	for i := range 12 {
		err := run(db, &probe{also: func(w *pgdb.Writes) {
			for j := range 100 {
				w.Queue("SELECT " + strconv.Itoa(i*100+j))
			}
			w.Queue("INSERT INTO probe SELECT pg_backend_pid()")
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := rows(); n != 24 {
		t.Errorf("%d rows, want two of each batch", n)
	}
	if n := backends(t, url, ""); n != 3 {
		t.Errorf("1,200 statements were prepared on %d connections, want 3", n)
	}
}

// backends returns how many processes of the server have noted themselves in probes, after
// it has done something else.
func backends(t *testing.T, url, before string) (n int) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(ctx) })
	if _, err := conn.Exec(ctx, before); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(ctx, "SELECT count(DISTINCT n) FROM probe").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestWrites_EachBatchHasItsTimeAndNoMore(t *testing.T) {
	t.Parallel()
	url := testkit.Database(t)
	other := testkit.Open(t, url) // without such limits
	rows := probed(t, url)
	const limit = 2 * time.Second // of a statement; a batch has twice that
	db, err := pgdb.Open(context.Background(), pgdb.Config{URL: url, StatementTimeout: limit, PoolIdle: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	wait := fmt.Sprintf("SELECT pg_sleep(%v)", limit.Seconds()/2)
	waits := func(w *pgdb.Writes) {
		for range 5 {
			w.Queue(wait)
		}
	}
	// The time of the first batch is over when the second begins. The pool would replace a
	// connection that had run out of time, and nobody would see it but by its process.
	who := func(w *pgdb.Writes) { w.Queue("INSERT INTO probe SELECT pg_backend_pid()") }
	if err := run(db, &probe{also: who}); err != nil {
		t.Fatal(err)
	}
	if err := run(other, &probe{also: waits}); err != nil {
		t.Fatal(err)
	}
	if err := run(db, &probe{read: "SELECT 1", also: who}); err != nil {
		t.Errorf("the next batch: %v", err)
	}
	if n := backends(t, url, ""); n != 1 {
		t.Errorf("two batches were written on %d connections", n)
	}
	// Each statement is within its limit, all of them together are not.
	if _, ok := errors.AsType[*groupcommit.BatchError](run(db, &probe{also: waits})); !ok {
		t.Error("a batch that takes longer was not given up")
	}
	if n := rows(); n != 5 {
		t.Errorf("%d rows were written, want those of three batches", n)
	}
	if err := run(db, &probe{}); err != nil {
		t.Errorf("the last batch: %v", err)
	}
}
