package pgdb_test

import (
	"context"
	"errors"
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
				w.Queue("SELECT $1::bigint", "not a number")
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
	for i := range 3 {
		err := run(db, &probe{
			fail: func(attempt int) string {
				if attempt < 3 {
					return "23505"
				}
				return ""
			},
			also: func(w *pgdb.Writes) { // statements that are new behind one that fails
				w.Queue("SELECT $1::bigint, 'statement " + strconv.Itoa(i) + "'", i)
				w.Queue("INSERT INTO probe SELECT pg_backend_pid()")
			},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := rows(); n != 6 {
		t.Errorf("%d rows, want two of each batch", n)
	}
	if n := backends(t, url); n != 1 {
		t.Errorf("%d connections wrote, want the one that was there", n)
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
	if n := backends(t, url); n != 3 {
		t.Errorf("1,200 statements were prepared on %d connections, want 3", n)
	}
}

// backends returns how many processes of the server have noted themselves in probes.
func backends(t *testing.T, url string) (n int) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(ctx) })
	if err := conn.QueryRow(ctx, "SELECT count(DISTINCT n) FROM probe").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestWrites_AServerThatDoesNotAnswerIsGivenUp(t *testing.T) {
	t.Parallel()
	url := testkit.Database(t)
	testkit.Open(t, url)
	rows := probed(t, url)
	db, err := pgdb.Open(context.Background(), pgdb.Config{URL: url, StatementTimeout: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	// Each statement is within its limit, all together are not.
	err = run(db, &probe{also: func(w *pgdb.Writes) {
		for range 20 {
			w.Queue("SELECT pg_sleep(0.1)")
		}
	}})
	if _, ok := errors.AsType[*groupcommit.BatchError](err); !ok {
		t.Errorf("got %v", err)
	}
	if n := rows(); n != 0 {
		t.Errorf("%d rows were written", n)
	}
	if err := run(db, &probe{}); err != nil {
		t.Errorf("the next batch: %v", err)
	}
}
