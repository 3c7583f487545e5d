package pgdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/penstockhq/penstock/internal/groupcommit"
)

// Work is one batch that is to be decided and written.
type Work interface {
	// Read queues what must be read and locked to decide. Reading nothing saves a round
	// trip: what is decided on memory must then hold when it is written; see Expect and
	// unique indexes. again says that it did not hold: now everything must be looked at.
	Read(b *pgx.Batch, again bool)
	// Decide decides everything. It may be called more than once, each time from the beginning.
	Decide() error
	// Write queues what is to be written, nothing for nothing.
	Write(w *Writes)
	// Number queues, after that, what takes numbers from counters.
	Number(w *Writes)
	// Committed is called when the batch is durable, or when it wrote nothing.
	Committed()
}

const (
	maxAttempts = 10
	// resolveFor is how long the outcome of a broken commit is looked for.
	resolveFor = 3 * time.Second
)

// Begin decides work and begins to write it; a groupcommit.Applier returns what it
// returns. Whatever goes wrong fails this batch alone, as a *groupcommit.BatchError:
// nothing is remembered in memory that the database could contradict.
func (db *DB) Begin(work Work) (groupcommit.Commit, error) {
	t := &transaction{db: db, work: work}
	if err := t.start(); err != nil {
		return t.again(err)
	}
	if t.writes == nil {
		work.Committed()
		return nil, nil //nolint:nilnil // nothing was written
	}
	return t, nil
}

// transaction is one attempt after the other at a batch.
type transaction struct {
	db      *DB
	work    Work
	attempt int
	until   time.Time // when to give up, from the first failure on

	conn   *pgxpool.Conn
	cancel context.CancelFunc
	writes *Writes  // on their way; nil where nothing is written
	token  [16]byte // marks this attempt's commit
}

// start begins an attempt: it reads, decides, and sends what is to be written. After an
// error nothing has been written.
func (t *transaction) start() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), t.db.cfg.AcquireTimeout)
	t.conn, err = t.db.batches.Acquire(ctx)
	cancel()
	if err != nil {
		return fmt.Errorf("get a connection: %w", err)
	}
	ctx, t.cancel = context.WithTimeout(context.Background(), 2*t.db.cfg.StatementTimeout)
	defer func() {
		if err != nil || t.writes == nil {
			t.rollback()
		}
	}()
	t.token, t.writes = uuid.Must(uuid.NewV7()), nil // in order of time: they go to the end of their index
	var read pgx.Batch
	read.Queue("BEGIN")
	t.db.settings(&read, t.conn.Conn())
	head := read.Len()
	t.work.Read(&read, t.attempt > 0)
	if read.Len() == head {
		// Nothing is read, so what is written in one go is one transaction by itself.
		return t.send(ctx, "")
	}
	if err := t.conn.SendBatch(ctx, &read).Close(); err != nil {
		if t.conn.Conn().IsClosed() && ctx.Err() == nil {
			err = fmt.Errorf("%w: %w", errAborted, err) // the server was restarted, perhaps
		}
		return fmt.Errorf("read: %w", err)
	}
	return t.send(ctx, "COMMIT")
}

// send decides and sends what is to be written.
func (t *transaction) send(ctx context.Context, commit string) error {
	if err := t.work.Decide(); err != nil {
		return err
	}
	w := t.db.write(t.conn.Conn(), commit != "")
	t.work.Write(w)
	t.work.Number(w)
	if w.queued == 0 {
		return nil
	}
	w.Queue("INSERT INTO batches (token) VALUES ($1)", t.token) //nolint:contextcheck // it has a deadline of its own
	if commit != "" {
		w.Queue(commit) //nolint:contextcheck // likewise
	}
	if err := w.commit(ctx); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	t.writes = w
	return nil
}

// rollback gives the connection back; one that is broken is dropped by the pool.
func (t *transaction) rollback() {
	if t.conn == nil {
		return
	}
	if !t.conn.Conn().IsClosed() && t.conn.Conn().PgConn().TxStatus() != 'I' {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := t.conn.Exec(ctx, "ROLLBACK")
		cancel()
		if err != nil {
			_ = t.conn.Conn().Close(context.Background()) // the server rolls back what it loses
		}
	}
	t.release()
}

func (t *transaction) release() {
	t.cancel()
	t.conn.Release()
	t.conn = nil
}

// Wait returns when the batch is durable; see groupcommit.Commit.
func (t *transaction) Wait() error {
	for {
		err := t.finish()
		if err == nil {
			t.work.Committed()
			return nil
		}
		if commit, err := t.again(err); commit == nil {
			return err
		}
	}
}

// finish reads the answers to what was sent.
func (t *transaction) finish() error {
	err := t.writes.wait()
	if err == nil {
		t.release()
		return nil
	}
	broken := t.conn.Conn().IsClosed()
	t.rollback()
	if broken {
		return t.resolve(err)
	}
	return fmt.Errorf("write: %w", err)
}

// errAborted says that a broken commit did not happen.
var errAborted = errors.New("the connection broke and the transaction was rolled back")

// resolve finds out what became of a commit whose connection broke. It puts up a fence
// under the batch's token: if the transaction has committed, its token is there already;
// if it is still running, this waits for it; and if it never committed, the token is now
// taken, so it never will. (The transaction's ID would not do: a server that crashes
// gives it to another transaction.)
func (t *transaction) resolve(cause error) error {
	deadline := time.Now().Add(resolveFor)
	for attempt := 4; time.Now().Before(deadline); attempt++ {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		var b pgx.Batch
		b.Queue("INSERT INTO batches (token, fence) VALUES ($1, true) ON CONFLICT DO NOTHING", t.token)
		var fenced bool
		b.Queue("SELECT fence FROM batches WHERE token = $1", t.token).QueryRow(func(row pgx.Row) error { return row.Scan(&fenced) })
		err := t.db.reads.SendBatch(ctx, &b).Close()
		cancel()
		switch {
		case err != nil:
			pause(attempt) // it is not back yet
		case fenced:
			return fmt.Errorf("%w: %w", errAborted, cause)
		default:
			return nil
		}
	}
	return unknown(cause)
}

// again decides the batch anew where that can help, and fails it where not.
func (t *transaction) again(err error) (groupcommit.Commit, error) {
	if t.until.IsZero() {
		t.until = time.Now().Add(resolveFor)
	}
	for isConflict(err) && t.attempt < maxAttempts || errors.Is(err, errAborted) && time.Now().Before(t.until) {
		aborted := errors.Is(err, errAborted)
		if t.attempt++; t.attempt > 1 || aborted {
			pause(t.attempt)
		}
		next := t.start()
		if next == nil && t.writes == nil {
			t.work.Committed()
			return nil, nil //nolint:nilnil // nothing was written
		}
		if next == nil {
			return t, nil
		}
		if aborted && !isOurs(next) && !isConflict(next) {
			next = fmt.Errorf("%w: %w", errAborted, next) // not back yet
		}
		err = next
	}
	return nil, &groupcommit.BatchError{Err: t.db.Fault(err)}
}
