package pgdb_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/internal/fault"
	"github.com/penstockhq/penstock/internal/groupcommit"
	"github.com/penstockhq/penstock/internal/pgdb"
	"github.com/penstockhq/penstock/internal/testkit"
)

// probe is a batch that writes one row, after what a test wants to happen before it.
type probe struct {
	decided   int
	committed int
	fail      func(attempt int) string // SQLSTATE to raise, "" for none
	read      string                   // a query to begin with, "" for none
	also      func(w *pgdb.Writes)     // queues something else
}

func (p *probe) Read(b *pgx.Batch, _ bool) {
	if p.read != "" {
		b.Queue(p.read)
	}
}

func (p *probe) Decide() error {
	p.decided++
	return nil
}

func (p *probe) Write(w *pgdb.Writes) {
	if p.fail != nil {
		if state := p.fail(p.decided); state != "" {
			w.Queue("DO $$ BEGIN RAISE EXCEPTION 'a test' USING ERRCODE = '" + state + "'; END $$")
		}
	}
	if p.also != nil {
		p.also(w)
	}
	w.Queue("INSERT INTO probe DEFAULT VALUES")
}

func (p *probe) Number(*pgdb.Writes) {}

func (p *probe) Committed() { p.committed++ }

// run runs p as a batch.
func run(db *pgdb.DB, p *probe) error {
	commit, err := db.Begin(p)
	if err == nil && commit != nil {
		err = commit.Wait()
	}
	return err
}

// probed returns a database with the table that probes write, and how many rows it has.
func probed(t *testing.T, url string) func() int {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err == nil {
		_, err = conn.Exec(context.Background(), "CREATE TABLE probe (n int)")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return func() (n int) {
		t.Helper()
		if err := conn.QueryRow(context.Background(), "SELECT count(*) FROM probe").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
}

func TestBegin_AConflictIsDecidedAgain(t *testing.T) {
	t.Parallel()
	for name, state := range map[string]string{
		"unique violation": "23505", "serialization failure": "40001", "deadlock": "40P01", "wrong guess": "22012",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := testkit.Database(t)
			db, rows := testkit.Open(t, url), probed(t, url)
			p := &probe{fail: func(attempt int) string {
				if attempt < 3 {
					return state
				}
				return ""
			}}
			if err := run(db, p); err != nil {
				t.Fatal(err)
			}
			if p.decided != 3 || p.committed != 1 || rows() != 1 {
				t.Errorf("decided %d times, committed %d times, %d rows", p.decided, p.committed, rows())
			}
		})
	}
}

func TestBegin_AFailureOfTheDatabaseFailsItsBatchAlone(t *testing.T) {
	t.Parallel()
	url := testkit.Database(t)
	db, rows := testkit.Open(t, url), probed(t, url)
	for state, want := range map[string]fault.Code{
		"53100": fault.DiskFull, "25006": fault.Unavailable, "55P03": fault.Timeout, "57P01": fault.Unavailable, "40P01": fault.Overloaded,
	} {
		p := &probe{fail: func(int) string { return state }}
		err := run(db, p)
		batch, ok := errors.AsType[*groupcommit.BatchError](err)
		if !ok || !fault.Is(batch.Err, want) || fault.From(batch.Err).RetryAfter == 0 {
			t.Errorf("%s: got %v, want the batch to fail with %s and a time to come back", state, err, want)
		}
		if p.committed != 0 {
			t.Errorf("%s: a batch that failed was told that it is committed", state)
		}
	}
	if err := run(db, &probe{}); err != nil || rows() != 1 {
		t.Errorf("the next batch: %v, %d rows", err, rows())
	}
}

// relay is a connection to PostgreSQL that can be made to lose one direction and break.
type relay struct {
	url        string
	to         string
	loseBack   atomic.Bool // answers get lost
	loseThere  atomic.Bool // requests get lost
	listener   net.Listener
	goroutines sync.WaitGroup
}

func newRelay(t *testing.T, raw string) *relay {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{to: u.Host}
	if r.listener, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	u.Host = r.listener.Addr().String()
	r.url = u.String()
	r.goroutines.Go(r.accept)
	t.Cleanup(func() {
		_ = r.listener.Close()
		r.goroutines.Wait()
	})
	return r
}

func (r *relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", r.to)
		if err != nil {
			_ = client.Close()
			continue
		}
		end := sync.OnceFunc(func() { _, _ = client.Close(), server.Close() })
		r.goroutines.Go(func() { pump(server, client, &r.loseThere, end) })
		r.goroutines.Go(func() { pump(client, server, &r.loseBack, end) })
	}
}

// pump copies until an end is reached or lose is set: then what came is dropped and both
// ends are closed, once; connections that come later are whole.
func pump(to io.Writer, from io.Reader, lose *atomic.Bool, end func()) {
	defer end()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil || lose.CompareAndSwap(true, false) {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

func TestBegin_WhatBecameOfABrokenCommitIsFoundOut(t *testing.T) {
	t.Parallel()
	type losing func(*relay) *atomic.Bool
	for name, tt := range map[string]struct {
		lose losing
		also func(w *pgdb.Writes)
		read string
	}{
		"the answer got lost":        {lose: func(r *relay) *atomic.Bool { return &r.loseBack }},
		"the request got lost":       {lose: func(r *relay) *atomic.Bool { return &r.loseThere }},
		"a long request was cut off": {lose: func(r *relay) *atomic.Bool { return &r.loseThere }, also: long},
		"the question got lost":      {lose: func(r *relay) *atomic.Bool { return &r.loseThere }, read: "SELECT 1"},
		"what was read got lost":     {lose: func(r *relay) *atomic.Bool { return &r.loseBack }, read: "SELECT 1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := testkit.Database(t)
			rows := probed(t, url)
			r := newRelay(t, url)
			db, err := pgdb.Open(context.Background(), pgdb.Config{URL: r.url, PoolIdle: 1})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(db.Close)
			for range 3 { // its statements are prepared then, so that the batch is one exchange
				if err := run(db, &probe{also: tt.also, read: tt.read}); err != nil {
					t.Fatal(err)
				}
			}
			before, lost := rows(), tt.lose(r)
			lost.Store(true)
			p := &probe{also: tt.also, read: tt.read}
			if err := run(db, p); err != nil {
				t.Fatal(err)
			}
			if lost.Load() {
				t.Fatal("nothing got lost: the test did not test anything")
			}
			if p.committed != 1 || rows() != before+1 {
				t.Errorf("decided %d times, told %d times that it is committed, %d rows", p.decided, p.committed, rows()-before)
			}
		})
	}
}

// long queues so much that it does not go in one piece.
func long(w *pgdb.Writes) {
	text := strings.Repeat("x", 1<<20)
	for range 8 {
		w.Queue("SELECT length($1::text)", text)
	}
}

func TestBegin_WithoutADatabaseABatchFailsSoon(t *testing.T) {
	t.Parallel()
	server := testkit.Server(t)
	db := testkit.Open(t, server.URL("postgres"))
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	err := run(db, &probe{})
	if batch, ok := errors.AsType[*groupcommit.BatchError](err); !ok || !fault.Is(batch.Err, fault.Unavailable) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}
