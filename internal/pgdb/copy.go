package pgdb

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Copy fills an empty database from somewhere else, part by part and in order, so that it
// can be broken off and gone on with: how much of each part is there is committed with it.
// Until Finish, nothing serves the database: Open refuses it.
type Copy struct {
	db   *DB
	done map[string]int64 // rows by part
}

// copyChunk is how many rows are one transaction.
const copyChunk = 20_000

// copied are the tables that a copy fills; it begins only when all of them are empty.
const copied = "skus, stock, stock_base, reservations, reservations_base, stock_ledger, stock_events, stock_keys, orders, order_lines, idempotency_keys, order_events"

// OpenCopy opens the database for a copy, a new one or one that was broken off.
func OpenCopy(ctx context.Context, cfg Config) (*Copy, error) {
	cfg.copying = true
	db, err := Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	c := &Copy{db: db, done: map[string]int64{}}
	if err := c.begin(ctx); err != nil {
		db.Close()
		return nil, err
	}
	return c, nil
}

// isCopying reports whether a copy into the database is not finished.
func isCopying(ctx context.Context, conn *pgx.Conn) (unfinished bool, err error) {
	if err := conn.QueryRow(ctx, "SELECT to_regclass('copying') IS NOT NULL").Scan(&unfinished); err != nil {
		return false, fmt.Errorf("look for an unfinished copy: %w", err)
	}
	return unfinished, nil
}

func (c *Copy) begin(ctx context.Context) error {
	return pgx.BeginFunc(ctx, c.db.batches, func(tx pgx.Tx) error {
		var unfinished, empty bool
		err := tx.QueryRow(ctx, `SELECT to_regclass('copying') IS NOT NULL, NOT EXISTS (SELECT 1 FROM skus) AND NOT EXISTS (SELECT 1 FROM stock_ledger)
			AND NOT EXISTS (SELECT 1 FROM orders) AND NOT EXISTS (SELECT 1 FROM batches)`).Scan(&unfinished, &empty)
		switch {
		case err != nil:
			return fmt.Errorf("look into the database: %w", err)
		case unfinished:
			rows, err := tx.Query(ctx, "SELECT part, rows FROM copying")
			if err != nil {
				return fmt.Errorf("read how far the copy came: %w", err)
			}
			var part string
			var n int64
			_, err = pgx.ForEachRow(rows, []any{&part, &n}, func() error {
				c.done[part] = n
				return nil
			})
			return err
		case !empty:
			return errors.New("the database is not empty: copy into a new one")
		}
		if _, err := tx.Exec(ctx, "CREATE TABLE copying (part text PRIMARY KEY, rows bigint NOT NULL)"); err != nil {
			return fmt.Errorf("begin the copy: %w", err)
		}
		return nil
	})
}

// Close ends the connections, whether or not the copy is finished.
func (c *Copy) Close() { c.db.Close() }

// DB is the database that is copied into.
func (c *Copy) DB() *DB { return c.db }

// Numbers says which counter a table's rows are numbered by. The zero value is for a table
// whose rows are not.
type Numbers struct {
	// Counter stands at the number of the last row.
	Counter string
	// Removed is the number of the last row that the source has removed from the beginning
	// of the table, and the counter Trimmed remembers it.
	Removed uint64
	Trimmed string
}

// Part copies one table. each calls its argument for every row, in the same order every
// time; rows that an earlier run has copied are passed over. told hears how many rows are
// there.
func (c *Copy) Part(
	ctx context.Context, table string, columns []string, numbers Numbers,
	each func(add func(row []any) error) error, told func(table string, rows int64),
) error {
	skip, seen := c.done[table], int64(0)
	chunk := make([][]any, 0, copyChunk)
	flush := func() error {
		if err := c.write(ctx, table, columns, numbers, chunk, seen); err != nil {
			return fmt.Errorf("copy into %s: %w", table, err)
		}
		chunk = chunk[:0]
		told(table, seen)
		return nil
	}
	err := each(func(row []any) error {
		seen++
		if seen <= skip {
			return nil
		}
		if chunk = append(chunk, row); len(chunk) == copyChunk {
			return flush()
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	if seen < skip {
		return fmt.Errorf("%s has %d rows already, the source only %d: is it another data folder than before?", table, skip, seen)
	}
	return flush()
}

func (c *Copy) write(ctx context.Context, table string, columns []string, numbers Numbers, rows [][]any, seen int64) error {
	err := pgx.BeginFunc(ctx, c.db.batches, func(tx pgx.Tx) error {
		if _, err := tx.CopyFrom(ctx, pgx.Identifier{table}, columns, pgx.CopyFromRows(rows)); err != nil {
			return err
		}
		last := int64(numbers.Removed) + seen
		_, err := tx.Exec(ctx, "UPDATE counters SET value = CASE name WHEN $1 THEN $2::bigint ELSE $3 END WHERE name IN ($1, $4)",
			numbers.Counter, last, int64(numbers.Removed), numbers.Trimmed)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "INSERT INTO copying VALUES ($1, $2) ON CONFLICT (part) DO UPDATE SET rows = excluded.rows", table, seen)
		return err
	})
	if err == nil {
		c.done[table] = seen
	}
	return err
}

// Finish lets the database be served.
func (c *Copy) Finish(ctx context.Context, followed uint64) error {
	for _, sql := range []string{"ANALYZE " + copied} {
		if _, err := c.db.batches.Exec(ctx, sql); err != nil {
			return fmt.Errorf("finish the copy: %w", err)
		}
	}
	return pgx.BeginFunc(ctx, c.db.batches, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "UPDATE counters SET value = $1 WHERE name = $2", followed, CounterFollowed)
		if err == nil {
			_, err = tx.Exec(ctx, "UPDATE counters SET value = 1 WHERE name = $1", CounterCatalogue)
		}
		if err == nil {
			_, err = tx.Exec(ctx, "DROP TABLE copying")
		}
		if err != nil {
			return fmt.Errorf("finish the copy: %w", err)
		}
		return nil
	})
}
