package pgdb

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Snapshot is the database as it was at one moment, whatever is written meanwhile.
type Snapshot struct{ tx pgx.Tx }

// Snapshot calls fn with the database as it is now, on a connection of its own: an audit
// of much data takes long, and must not take one from those who serve.
func (db *DB) Snapshot(ctx context.Context, fn func(Snapshot) error) (err error) {
	conn, err := connect(ctx, db.reads.Config().ConnConfig)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return fmt.Errorf("begin a snapshot: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // nothing was written
	return fn(Snapshot{tx})
}

// Each calls fn for each row of a query.
func (s Snapshot) Each(ctx context.Context, sql string, fn func(pgx.Rows) error) error {
	rows, err := s.tx.Query(ctx, sql)
	if err != nil {
		return fmt.Errorf("read the database: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the database: %w", err)
	}
	return nil
}

// Counter returns the value of a counter.
func (s Snapshot) Counter(ctx context.Context, name string) (value uint64, err error) {
	if err := s.tx.QueryRow(ctx, "SELECT value FROM counters WHERE name = $1", name).Scan(&value); err != nil {
		return 0, fmt.Errorf("read counter %s: %w", name, err)
	}
	return value, nil
}
