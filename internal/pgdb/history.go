package pgdb

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/internal/fault"
)

// This file removes the old part of numbered logs. The numbers have no gaps, so the last
// number that was removed says everything about what is missing.

// trimChunk is how many rows of a log are removed in one transaction.
const trimChunk = 5000

// Trim removes rows of a numbered log that are older than before, some at a time, and
// returns how many. It goes from the oldest on and ends at the first that is younger, or
// that is numbered above limit; negative for none. counter remembers the last number that
// was removed, and its row is locked meanwhile: of several processes one removes. remove
// queues what removes all up to a number; it is one transaction with the counter.
func (db *DB) Trim(ctx context.Context, log, counter string, before time.Time, limit int64, remove func(b *pgx.Batch, upTo int64)) (int64, error) {
	total := int64(0)
	for {
		n, err := db.trimSome(ctx, log, counter, before, limit, remove)
		if err != nil {
			return total, fmt.Errorf("remove old rows of %s: %w", log, err)
		}
		if total += n; n == 0 {
			return total, nil
		}
	}
}

func (db *DB) trimSome(ctx context.Context, log, counter string, before time.Time, limit int64, remove func(b *pgx.Batch, upTo int64)) (removed int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, db.cfg.AcquireTimeout+db.cfg.StatementTimeout)
	defer cancel()
	err = pgx.BeginFunc(ctx, db.reads, func(tx pgx.Tx) error {
		var trimmed, upTo int64
		if err := tx.QueryRow(ctx, "SELECT value FROM counters WHERE name = $1 FOR UPDATE", counter).Scan(&trimmed); err != nil {
			return err
		}
		// Processes' clocks differ a little, so that times are not quite in the order of numbers.
		err := tx.QueryRow(ctx, `SELECT coalesce(min(seq) FILTER (WHERE time >= $1) - 1, max(seq), 0)
			FROM (SELECT seq, time FROM `+pgx.Identifier{log}.Sanitize()+` WHERE seq > $2 ORDER BY seq LIMIT $3) oldest`,
			before, trimmed, trimChunk).Scan(&upTo)
		if err != nil {
			return err
		}
		if limit >= 0 {
			upTo = min(upTo, limit)
		}
		if upTo <= trimmed {
			return nil
		}
		removed = upTo - trimmed
		var b pgx.Batch
		remove(&b, upTo)
		b.Queue("UPDATE counters SET value = $1 WHERE name = $2", upTo, counter)
		return tx.SendBatch(ctx, &b).Close()
	})
	return removed, db.Fault(err)
}

// ReadLog reads up to limit rows of a numbered log that come after a number, in order. It
// refuses when what follows that number was removed, as the counter trimmed says: the
// reader would miss events and not know. From the beginning (0), what is left may be read.
func ReadLog[T any](
	ctx context.Context, db *DB, log, columns, trimmed string, after uint64, limit int, scan func(pgx.Row) (T, error), seq func(*T) uint64,
) (found []T, err error) {
	err = db.Query(ctx, "SELECT "+columns+" FROM "+log+" WHERE seq > $1 ORDER BY seq LIMIT $2", []any{after, limit}, func(rows pgx.Rows) error {
		row, err := scan(rows)
		found = append(found, row)
		return err
	})
	if err != nil {
		return nil, err
	}
	if after == 0 || len(found) > 0 && seq(&found[0]) == after+1 {
		return found, nil
	}
	counters, err := db.Counters(ctx)
	if err != nil {
		return nil, err
	}
	if removed := counters[trimmed]; after < removed {
		return nil, fault.New(fault.EventsRemoved, "%d events after this cursor were removed", removed-after)
	}
	return found, nil
}
