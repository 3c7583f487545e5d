package pgdb

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// This file sends what a transaction writes. While the server carries out the first
// statements of a large batch the next are still being encoded; a pgx.Batch is encoded
// first and sent then. Behind a pooler, which may know no prepared statements, it is a
// pgx.Batch all the same.

// Writes takes the statements that write a batch. Rows that they return are dropped.
type Writes struct {
	conn   *pgx.Conn
	queued int

	batch   *pgx.Batch // collects them; nil where they are sent at once
	results pgx.BatchResults

	pipeline *pgconn.Pipeline // nil before the first statement
	known    map[string]*pgconn.StatementDescription
	builder  pgx.ExtendedQueryBuilder
	within   time.Duration // all must be carried out
	held     int           // bytes that are to be flushed
	err      error         // the first, of encoding or of the server
}

const (
	// flushAfter is how many bytes are worth a system call of their own. A lone order has
	// fewer and goes as one.
	flushAfter = 4 << 10
	prepared   = "penstock.prepared" // where a connection keeps what it has prepared, by its text
	// maxPrepared is how many statements a connection prepares before it is replaced:
	// they take memory in the server. Some dozens are in use.
	maxPrepared = 500
)

// write returns what sends to conn. begun says that a transaction has begun there, with
// its settings.
func (db *DB) write(conn *pgx.Conn, begun bool) *Writes {
	w := &Writes{conn: conn, within: 2 * db.cfg.StatementTimeout}
	if conn.PgConn().CustomData()[settled] != true || conn.Config().DefaultQueryExecMode != pgx.QueryExecModeCacheStatement {
		w.batch = &pgx.Batch{}
		if !begun {
			db.settings(w.batch, conn)
		}
		return w
	}
	data := conn.PgConn().CustomData()
	w.known, _ = data[prepared].(map[string]*pgconn.StatementDescription)
	if w.known == nil {
		w.known = map[string]*pgconn.StatementDescription{}
		data[prepared] = w.known
	}
	return w
}

// Queue adds a statement. What goes wrong is told when all of them are to be carried out.
func (w *Writes) Queue(sql string, args ...any) {
	w.queued++
	if w.batch != nil {
		w.batch.Queue(sql, args...)
		return
	}
	if w.err == nil {
		w.err = w.send(sql, args)
	}
}

func (w *Writes) send(sql string, args []any) error {
	if w.pipeline == nil {
		// A deadline of the socket costs less than a context that somebody watches.
		if err := w.conn.PgConn().Conn().SetDeadline(time.Now().Add(w.within)); err != nil {
			return fmt.Errorf("set a deadline: %w", err)
		}
		w.pipeline = w.conn.PgConn().StartPipeline(context.Background())
	}
	statement, err := w.prepare(sql)
	if err != nil {
		return err
	}
	if err := w.builder.Build(w.conn.TypeMap(), statement, args); err != nil {
		return fmt.Errorf("encode what %q takes: %w", sql, err)
	}
	w.pipeline.SendQueryStatement(statement, w.builder.ParamValues, w.builder.ParamFormats, nil)
	for _, v := range w.builder.ParamValues {
		w.held += len(v)
	}
	if w.held < flushAfter {
		return nil
	}
	w.held = 0
	return w.pipeline.Flush()
}

// prepare returns the statement. It waits for the server only where this connection has
// never had it.
func (w *Writes) prepare(sql string) (*pgconn.StatementDescription, error) {
	if statement := w.known[sql]; statement != nil {
		return statement, nil
	}
	name := "penstock_" + strconv.Itoa(len(w.known))
	w.pipeline.SendPrepare(name, sql, nil)
	w.pipeline.SendFlushRequest()
	if err := w.pipeline.Flush(); err != nil {
		return nil, err
	}
	for {
		result, err := w.next()
		if err != nil {
			return nil, err
		}
		if statement, ok := result.(*pgconn.StatementDescription); ok {
			statement.Name, statement.SQL = name, sql
			w.known[sql] = statement
			return statement, nil
		}
	}
}

// next reads the next answer of the server to its end.
func (w *Writes) next() (any, error) {
	result, err := w.pipeline.GetResults()
	if rows, ok := result.(*pgconn.ResultReader); ok && err == nil {
		_, err = rows.Close()
	}
	if result == nil && err == nil {
		err = errors.New("the server has answered less than it was asked")
	}
	return result, err
}

// commit has the server carry out what was queued; wait says what became of it. After an
// error nothing was written, and nothing is left on the connection.
func (w *Writes) commit(ctx context.Context) error {
	if w.batch != nil {
		w.results = w.conn.SendBatch(ctx, w.batch)
		return nil
	}
	switch {
	case w.err == nil || code(w.err) != "":
	case w.conn.IsClosed():
		return fmt.Errorf("%w: %w", errAborted, w.err)
	default:
		// What was sent must not be carried out. The server forgets it with the connection.
		_ = w.conn.Close(context.Background())
		return w.err
	}
	_ = w.pipeline.Sync() // wait has the error
	return nil
}

// wait returns when all is carried out, or with the first error.
func (w *Writes) wait() error {
	if w.batch != nil {
		var err error
		for range w.batch.Len() {
			if _, e := w.results.Exec(); e != nil && err == nil {
				err = e
			}
		}
		if e := w.results.Close(); err == nil {
			err = e
		}
		return err
	}
	for {
		result, err := w.next()
		if w.err == nil {
			w.err = err
		}
		if _, done := result.(*pgconn.PipelineSync); done || err != nil && code(err) == "" {
			break
		}
	}
	if err := w.pipeline.Close(); w.err == nil {
		w.err = err
	}
	if len(w.known) > maxPrepared && w.err == nil {
		_ = w.conn.Close(context.Background()) // its successor begins anew
	}
	if err := w.conn.PgConn().Conn().SetDeadline(time.Time{}); w.err == nil && !w.conn.IsClosed() {
		w.err = err
	}
	return w.err
}
