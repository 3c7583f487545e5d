package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/penstockhq/penstock/internal/app/transfer"
	"github.com/penstockhq/penstock/internal/pebbledb"
	"github.com/penstockhq/penstock/internal/pgdb"
)

type copyCmd struct {
	Data     string `help:"Data folder of a server that is not running." type:"existingdir" required:""`
	Postgres string `help:"Connection string of an empty database, or of one into which a copy was broken off." required:""`
}

// Run copies and audits both sides.
func (c *copyCmd) Run(ctx context.Context, out streams) (err error) {
	from, err := pebbledb.Open(pebbledb.Config{Dir: c.Data, ReadOnly: true})
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	report, err := transfer.Run(ctx, transfer.Config{From: from, To: pgdb.Config{URL: c.Postgres}, Progress: c.progress(out.err)})
	if isTerminal(out.err) {
		fmt.Fprintln(out.err)
	}
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	fmt.Fprintf(out.out, "copied %s into %s; both sides were audited and agree\n", c.Data, pgdb.Redacted(c.Postgres))
	return printReport(out.out, report)
}

// progress draws a bar for each table on a terminal; elsewhere it writes a line now and then.
func (c *copyCmd) progress(w io.Writer) func(table string, rows, about int64) {
	live, last, current := isTerminal(w), time.Time{}, ""
	return func(table string, rows, about int64) {
		line := fmt.Sprintf("%-18s %10d rows", table, rows)
		if about > 0 {
			line = fmt.Sprintf("%-18s %s %10d of %d rows", table, bar(float64(rows)/float64(about)), rows, about)
		}
		switch {
		case live && table != current && current != "":
			fmt.Fprintf(w, "\n%s", line)
		case live:
			fmt.Fprintf(w, "\r%s", line)
		case table != current || time.Since(last) >= 2*time.Second:
			last = time.Now()
			fmt.Fprintln(w, line)
		}
		current = table
	}
}
