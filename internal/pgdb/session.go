package pgdb

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// This file makes the settings that everything runs with. Every read has its index, and a
// plan made while a table was small would scan it for ever; so nothing is scanned. And
// plans are kept: making one takes as long as an order.

// setting sets all of them; its parameters are the time limits and whether only for the
// transaction.
const setting = `SELECT set_config('lock_timeout', $1, $3), set_config('statement_timeout', $2, $3),
	set_config('enable_seqscan', 'off', $3), set_config('plan_cache_mode', 'force_generic_plan', $3)`

// settled marks a connection that has the settings for as long as it lives.
const settled = "penstock.settled"

// settle makes the settings on a new connection, once for all, if it is one to the server
// itself. A pooler in between would leave them to others, and tells by the process that it
// says is at the other end; behind one, every transaction sets them for itself.
func (db *DB) settle(ctx context.Context, conn *pgx.Conn) error {
	if db.cfg.copying {
		return nil // what it does takes long and reads whole tables
	}
	var pid uint32
	if err := conn.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
		return fmt.Errorf("ask the server for its process: %w", err)
	}
	if pid != conn.PgConn().PID() {
		return nil
	}
	if _, err := conn.Exec(ctx, setting, db.limits(false)...); err != nil {
		return fmt.Errorf("set time limits: %w", err)
	}
	conn.PgConn().CustomData()[settled] = true
	return nil
}

// settings queues the settings for one transaction, if the connection has not got them.
func (db *DB) settings(b *pgx.Batch, conn *pgx.Conn) (queued bool) {
	if conn.PgConn().CustomData()[settled] == true {
		return false
	}
	b.Queue(setting, db.limits(true)...)
	return true
}

func (db *DB) limits(local bool) []any {
	return []any{milliseconds(db.cfg.LockTimeout), milliseconds(db.cfg.StatementTimeout), local}
}
