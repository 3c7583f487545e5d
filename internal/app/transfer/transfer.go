// Package transfer moves everything from a data folder to PostgreSQL and audits both
// sides. It may be broken off at any time and run again: it goes on where it was.
//
// The folder is only read. What a reader would get wrong: idempotency keys count as new
// from the copy on, because a folder does not know exactly how old each is.
package transfer

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/penstockhq/penstock/internal/app/audit"
	"github.com/penstockhq/penstock/internal/catalogue/cataloguepebble"
	"github.com/penstockhq/penstock/internal/catalogue/cataloguepg"
	"github.com/penstockhq/penstock/internal/inventory/inventorypebble"
	"github.com/penstockhq/penstock/internal/inventory/inventorypg"
	"github.com/penstockhq/penstock/internal/order/orderpebble"
	"github.com/penstockhq/penstock/internal/order/orderpg"
	"github.com/penstockhq/penstock/internal/pebbledb"
	"github.com/penstockhq/penstock/internal/pgdb"
)

// Config of a transfer.
type Config struct {
	// From is a data folder that nobody serves, open for reading.
	From *pebbledb.DB
	// To is the database: an empty one, or one into which a transfer was broken off.
	To pgdb.Config
	// Progress is told how many rows of the table are there, of about how many; 0 where
	// that is not known. Defaults to nothing.
	Progress func(table string, rows, about int64)
}

// Run copies, and returns the audit of the database.
func Run(ctx context.Context, cfg Config) (*audit.Report, error) {
	before, err := audit.Folder(ctx, cfg.From)
	if err != nil {
		return nil, fmt.Errorf("read the data folder: %w", err)
	}
	if !before.OK {
		return nil, fmt.Errorf("the data folder is not right, so it is not copied; \"penstock verify\" tells more: %s", before.Problems[0])
	}
	to, err := pgdb.OpenCopy(ctx, cfg.To)
	if err != nil {
		return nil, err
	}
	defer to.Close()
	orders := orderpebble.Snapshot{R: cfg.From}
	followed, err := orders.Followed(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the data folder: %w", err)
	}
	totals := map[string]int64{
		"stock": before.Checked.Levels, "stock_ledger": before.Checked.Ledger, "reservations": before.Checked.Reservations,
		"orders": before.Checked.Orders, "idempotency_keys": before.Checked.Keys, "order_events": before.Checked.OrderEvents,
		"stock_events": before.Checked.StockEvents,
	}
	told := func(table string, rows int64) {
		if cfg.Progress != nil {
			cfg.Progress(table, rows, totals[table])
		}
	}
	err = cataloguepg.CopyFrom(ctx, to, cataloguepebble.Snapshot{R: cfg.From}.SKUs, told)
	if err == nil {
		err = inventorypg.CopyFrom(ctx, to, inventorypebble.Snapshot{R: cfg.From}, told)
	}
	if err == nil {
		err = orderpg.CopyFrom(ctx, to, orders, told)
	}
	if err != nil {
		return nil, fmt.Errorf("%w; run the same command again to go on from here", err)
	}
	return finish(ctx, to, followed, before)
}

// finish audits the copy against the original and, if it is right, lets it be served.
func finish(ctx context.Context, to *pgdb.Copy, followed uint64, before *audit.Report) (*audit.Report, error) {
	after, err := audit.Database(ctx, to.DB())
	if err != nil {
		return nil, fmt.Errorf("read the copy: %w", err)
	}
	want := before.Checked
	want.Listed = 0 // lists are the database's own
	// Orders are followed from where they were: until that is written, steps that are half
	// done look as if they were in flight.
	if after.Checked != want || after.Oversold != before.Oversold || !after.OK {
		return after, errors.New("the copy differs from the original: " + strings.Join(append(after.Problems, fmt.Sprintf("%+v, want %+v", after.Checked, want)), "; "))
	}
	return after, to.Finish(ctx, followed)
}
