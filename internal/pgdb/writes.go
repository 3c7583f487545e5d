package pgdb

import (
	"cmp"
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
	db     *DB
	conn   *pgx.Conn
	queued int

	batch   *pgx.Batch // collects them; nil where they are sent at once
	results pgx.BatchResults

	pipeline *pgconn.Pipeline // nil before the first statement
	prepared *statements
	asked    []*pgconn.StatementDescription // prepared here, of which the server has not told yet
	builder  pgx.ExtendedQueryBuilder
	held     int   // bytes that are to be flushed
	err      error // the first, of encoding or of the server
}

// statements are what a connection has prepared, by its text.
type statements struct {
	known map[string]*pgconn.StatementDescription
	named int
}

const (
	// flushAfter is how many bytes are worth a system call of their own. A lone order has
	// fewer and goes as one.
	flushAfter = 4 << 10
	// maxPrepared is how many statements a connection prepares before it is replaced:
	// they take memory in the server. Some dozens are in use.
	maxPrepared = 500
	preparedKey = "penstock.prepared" // where a connection keeps its statements
)

// write returns what sends to conn. begun says that a transaction has begun there, with
// its settings.
func (db *DB) write(conn *pgx.Conn, begun bool) *Writes {
	w := &Writes{db: db, conn: conn}
	data := conn.PgConn().CustomData()
	if data[settled] != true || conn.Config().DefaultQueryExecMode != pgx.QueryExecModeCacheStatement {
		w.batch = &pgx.Batch{}
		if !begun {
			db.settings(w.batch, conn)
		}
		return w
	}
	w.prepared, _ = data[preparedKey].(*statements)
	if w.prepared == nil {
		w.prepared = &statements{known: map[string]*pgconn.StatementDescription{}}
		data[preparedKey] = w.prepared
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
		if err := w.conn.PgConn().Conn().SetDeadline(time.Now().Add(2 * w.db.cfg.StatementTimeout)); err != nil {
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

// prepare returns the statement. It waits for the server only where no connection of this
// process has had it.
func (w *Writes) prepare(sql string) (*pgconn.StatementDescription, error) {
	if statement := w.prepared.known[sql]; statement != nil {
		return statement, nil
	}
	w.prepared.named++
	statement := &pgconn.StatementDescription{Name: "penstock_" + strconv.Itoa(w.prepared.named), SQL: sql}
	w.prepared.known[sql] = statement
	w.asked = append(w.asked, statement)
	w.pipeline.SendPrepare(statement.Name, sql, nil)
	if elsewhere, ok := w.db.described.Load(sql); ok {
		statement.ParamOIDs, statement.Fields = elsewhere.ParamOIDs, elsewhere.Fields
		return statement, nil
	}
	w.pipeline.SendFlushRequest()
	if err := w.pipeline.Flush(); err != nil {
		return nil, err
	}
	for len(w.asked) > 0 {
		if _, err := w.next(); err != nil {
			return nil, err
		}
	}
	w.db.described.Store(sql, statement)
	return statement, nil
}

// next reads the server's next answer to its end, and reports whether it was the last.
func (w *Writes) next() (done bool, err error) {
	result, err := w.pipeline.GetResults()
	switch r := result.(type) {
	case *pgconn.ResultReader:
		_, err = r.Close()
	case *pgconn.StatementDescription:
		statement := w.asked[0]
		w.asked = w.asked[1:]
		statement.ParamOIDs, statement.Fields = r.ParamOIDs, r.Fields
	case *pgconn.PipelineSync:
		done = true
	case nil:
		if err == nil {
			err = errors.New("the server has answered less than it was asked")
		}
	}
	return done, err
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
		_ = w.conn.Close(context.WithoutCancel(ctx))
		return w.err
	}
	_ = w.pipeline.Sync() // wait has the error
	return nil
}

// wait returns when all is carried out, or with the first error.
func (w *Writes) wait() error {
	if w.batch != nil {
		return w.waitForBatch()
	}
	for done := false; !done; {
		var err error
		if done, err = w.next(); err != nil {
			w.err = cmp.Or(w.err, err)
			done = code(err) == ""
		}
	}
	for _, statement := range w.asked { // an error before them kept the server from it
		delete(w.prepared.known, statement.SQL)
	}
	w.err = cmp.Or(w.err, w.pipeline.Close())
	if len(w.prepared.known) > maxPrepared && w.err == nil {
		_ = w.conn.Close(context.Background()) // its successor begins anew
	}
	if err := w.conn.PgConn().Conn().SetDeadline(time.Time{}); w.err == nil && !w.conn.IsClosed() {
		w.err = err
	}
	return w.err
}

func (w *Writes) waitForBatch() error {
	for range w.batch.Len() {
		_, err := w.results.Exec()
		w.err = cmp.Or(w.err, err)
	}
	return cmp.Or(w.err, w.results.Close())
}
