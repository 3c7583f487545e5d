package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/penstockhq/penstock/internal/app"
	"github.com/penstockhq/penstock/internal/demo"
	"github.com/penstockhq/penstock/internal/pgdb"
	"github.com/penstockhq/penstock/internal/pgserver"
	"github.com/penstockhq/penstock/internal/telemetry"
)

type demoCmd struct {
	Buyers   int    `help:"How many customers come." default:"50000"`
	Units    int    `help:"Stock of the hot SKU." default:"10000"`
	Seed     uint64 `help:"Makes the customers' choices repeatable." default:"1"`
	Store    string `help:"Where the data is: pebble (a folder) or postgres." enum:"pebble,postgres" default:"pebble"`
	Postgres string `help:"With --store postgres: connection string of an empty database. Without, a private PostgreSQL is started from what is installed."`
	JSON     bool   `help:"Print the result as one JSON object." name:"json"`
	Keep     bool   `help:"Keep the data folder and say where it is."`
}

// Validate explains what is wrong with the flags.
func (c *demoCmd) Validate() error {
	if c.Buyers < 1 || c.Buyers > 10_000_000 {
		return errors.New("--buyers must be 1 to 10000000")
	}
	if c.Units < 1 || c.Units > 10_000_000 {
		return errors.New("--units must be 1 to 10000000")
	}
	if c.Postgres != "" && c.Store != storePostgres {
		return errors.New("--postgres is given without --store postgres")
	}
	if c.Keep && c.Store == storePostgres && c.Postgres == "" {
		return errors.New("--keep cannot keep a private PostgreSQL: give a database with --postgres")
	}
	return nil
}

// Run starts a server of its own in a temporary folder and drives the sale through it.
func (c *demoCmd) Run(ctx context.Context, out streams) (err error) {
	cfg, discard, err := c.storage(ctx, out.err)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer func() { err = errors.Join(err, discard()) }()
	cfg.HTTP, cfg.Ops, cfg.Logger = "127.0.0.1:0", "127.0.0.1:0", telemetry.NewLogger(out.err, slog.LevelWarn)
	server := app.New(cfg)
	if err := server.Start(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel(nil)
	watching.Go(func() {
		select {
		case failure := <-server.Failed():
			cancel(failure)
		case <-ctx.Done():
		}
	})
	result, err := demo.Run(ctx, demo.Config{
		URL: "http://" + server.HTTPAddr(), Buyers: c.Buyers, Units: c.Units, Seed: c.Seed,
		Progress: c.progress(out.err),
		Verify: func(ctx context.Context) (int64, []string, error) {
			report, err := VerifyURL(ctx, http.DefaultClient, "http://"+server.OpsAddr())
			if err != nil {
				return 0, nil, err
			}
			return report.Oversold, report.Problems, nil
		},
	})
	http.DefaultClient.CloseIdleConnections()
	if stopErr := server.Stop(context.WithoutCancel(ctx)); err == nil {
		err = stopErr
	}
	if isTerminal(out.err) {
		fmt.Fprintln(out.err)
	}
	if err != nil {
		return err
	}
	return c.print(out.out, result)
}

// storage prepares where the demo's data is, and returns how to throw it away.
func (c *demoCmd) storage(ctx context.Context, w io.Writer) (cfg app.Config, discard func() error, err error) {
	keep := func() error { return nil }
	switch {
	case c.Postgres != "":
		return app.Config{Postgres: &pgdb.Config{URL: c.Postgres, Processes: 1}}, keep, nil
	case c.Store == storePostgres:
		server, err := pgserver.Start(ctx, pgserver.Config{})
		if err != nil {
			return cfg, nil, err
		}
		return app.Config{Postgres: &pgdb.Config{URL: server.URL("postgres"), Processes: 1}}, server.Stop, nil
	}
	dir, err := os.MkdirTemp("", "penstock-demo-")
	if err != nil {
		return cfg, nil, err
	}
	if c.Keep {
		fmt.Fprintf(w, "The data stays in %s; \"penstock verify --data %s\" reads it.\n", dir, dir)
		return app.Config{Dir: dir}, keep, nil
	}
	return app.Config{Dir: dir}, func() error { return os.RemoveAll(dir) }, nil
}

func (c *demoCmd) print(w io.Writer, result *demo.Result) (err error) {
	if c.JSON {
		err = json.NewEncoder(w).Encode(result)
	} else {
		err = result.Print(w)
	}
	if err == nil && !result.OK {
		err = errReported
	}
	return err
}

// progress draws one live line on a terminal; elsewhere it writes a line now and then.
func (c *demoCmd) progress(w io.Writer) func(demo.Progress) {
	live, last := isTerminal(w), time.Time{}
	return func(p demo.Progress) {
		line := fmt.Sprintf("%-34s %6d of %d buyers, %d accepted, %d refused, %d replayed, %d paid",
			p.Phase, p.Done, p.Buyers, p.Accepted, p.Refused, p.Replayed, p.Paid)
		switch {
		case live:
			fmt.Fprintf(w, "\r%-110s", line)
		case time.Since(last) >= 2*time.Second:
			last = time.Now()
			fmt.Fprintln(w, line)
		}
	}
}
