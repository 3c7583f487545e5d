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
	"time"

	"github.com/penstockhq/penstock/internal/app"
	"github.com/penstockhq/penstock/internal/demo"
	"github.com/penstockhq/penstock/internal/telemetry"
)

type demoCmd struct {
	Buyers int    `help:"How many customers come." default:"50000"`
	Units  int    `help:"Stock of the hot SKU." default:"10000"`
	Seed   uint64 `help:"Makes the customers' choices repeatable." default:"1"`
	JSON   bool   `help:"Print the result as one JSON object." name:"json"`
	Keep   bool   `help:"Keep the data folder and say where it is."`
}

// Validate explains what is wrong with the flags.
func (c *demoCmd) Validate() error {
	if c.Buyers < 1 || c.Buyers > 10_000_000 {
		return errors.New("--buyers must be 1 to 10000000")
	}
	if c.Units < 1 || c.Units > 10_000_000 {
		return errors.New("--units must be 1 to 10000000")
	}
	return nil
}

// Run starts a server of its own in a temporary folder and drives the sale through it.
func (c *demoCmd) Run(ctx context.Context, out streams) (err error) {
	dir, err := os.MkdirTemp("", "penstock-demo-")
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	if c.Keep {
		fmt.Fprintf(out.err, "The data stays in %s; \"penstock verify --data %s\" reads it.\n", dir, dir)
	} else {
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	server := app.New(app.Config{
		Dir: dir, HTTP: "127.0.0.1:0", Ops: "127.0.0.1:0", Logger: telemetry.NewLogger(out.err, slog.LevelWarn),
	})
	if err := server.Start(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case failure := <-server.Failed():
			cancel(failure)
		case <-ctx.Done():
		}
	}()
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
