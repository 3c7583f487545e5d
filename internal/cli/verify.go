package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/penstockhq/penstock/internal/app/audit"
	"github.com/penstockhq/penstock/internal/pebbledb"
	"github.com/penstockhq/penstock/internal/pgdb"
)

type verifyCmd struct {
	Data     string `help:"Data folder of a server that is not running." type:"path"`
	URL      string `help:"Operational port of a running server, such as http://127.0.0.1:6060. It goes before --data." name:"url"`
	Postgres string `help:"Connection string of a database, whether or not anything runs on it."`
	JSON     bool   `help:"Print the report as JSON." name:"json"`
}

// Run audits and prints what disagrees.
func (c *verifyCmd) Run(ctx context.Context, io streams) error {
	var report *audit.Report
	var err error
	switch {
	case c.URL != "":
		report, err = VerifyURL(ctx, http.DefaultClient, c.URL)
	case c.Postgres != "":
		report, err = verifyDatabase(ctx, c.Postgres)
	case c.Data != "":
		report, err = verifyFolder(ctx, c.Data)
	default:
		err = errors.New("name a data folder with --data, a database with --postgres, or a running server with --url")
	}
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if c.JSON {
		err = json.NewEncoder(io.out).Encode(report)
	} else {
		err = printReport(io.out, report)
	}
	if err == nil && !report.OK {
		err = errReported
	}
	return err
}

func verifyFolder(ctx context.Context, dir string) (*audit.Report, error) {
	db, err := pebbledb.Open(pebbledb.Config{Dir: dir, ReadOnly: true})
	if err != nil {
		if strings.Contains(err.Error(), "in use") {
			return nil, fmt.Errorf("%w; to verify a running server use --url with its operational port", err)
		}
		return nil, err
	}
	report, err := audit.Folder(ctx, db)
	return report, errors.Join(err, db.Close())
}

func verifyDatabase(ctx context.Context, url string) (*audit.Report, error) {
	db, err := pgdb.Open(ctx, pgdb.Config{URL: url, NoMigrate: true})
	if err != nil {
		return nil, err
	}
	defer db.Close()
	return audit.Database(ctx, db)
}

// VerifyURL has the server with the given operational port audit itself.
func VerifyURL(ctx context.Context, client *http.Client, url string) (*audit.Report, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(url, "/")+"/verify", nil)
	if err != nil {
		return nil, fmt.Errorf("%s is not a URL such as http://127.0.0.1:6060: %w", url, err)
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the server: %w", err)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<22))
	if err = errors.Join(err, res.Body.Close()); err != nil {
		return nil, fmt.Errorf("read the report: %w", err)
	}
	if res.StatusCode == http.StatusNotFound {
		return nil, fmt.Errorf("%s has no /verify: give the address of the operational port (--ops of serve), not that of the API", url)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server answered %s: %s", res.Status, strings.TrimSpace(string(body)))
	}
	var report audit.Report
	if err := json.Unmarshal(body, &report); err != nil {
		return nil, fmt.Errorf("the answer is not a report: %w", err)
	}
	return &report, nil
}

func printReport(w io.Writer, r *audit.Report) error {
	c := r.Checked
	var b strings.Builder
	fmt.Fprintf(&b, "checked %d stock levels, %d ledger entries, %d reservations, %d orders, %d keys, %d order events, %d stock events\n",
		c.Levels, c.Ledger, c.Reservations, c.Orders, c.Keys, c.OrderEvents, c.StockEvents)
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "  WRONG  %s\n", p)
	}
	if more := r.Total - int64(len(r.Problems)); more > 0 {
		fmt.Fprintf(&b, "  … and %d more\n", more)
	}
	if r.InFlight > 0 {
		fmt.Fprintf(&b, "%d orders are between two steps; the server completes them within seconds of running\n", r.InFlight)
	}
	if r.OK {
		b.WriteString("everything agrees: nothing oversold, lost or doubled\n")
	} else {
		fmt.Fprintf(&b, "%d things disagree\n", r.Total)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
