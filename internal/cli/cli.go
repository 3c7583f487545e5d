// Package cli is the command line: it turns flags, environment and a YAML file into the
// configuration of the parts, and runs one of them. It decides nothing else.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // the command ran and something is wrong
	exitUsage  = 2 // the command was not understood
)

const description = `Takes orders through the worst minute of the year: never oversold, answered means durable.

Begin with "penstock demo", which shows everything at work; then "penstock serve".
Every flag may be set in the environment as PENSTOCK_ and its name (PENSTOCK_DATA), and in a YAML file (--config).`

type commands struct {
	Config kong.ConfigFlag `help:"YAML file with the flags of the command, by their names (data: /var/lib/penstock)." placeholder:"FILE"`

	Serve serveCmd `cmd:"" help:"Run the server."`

	Demo    demoCmd    `cmd:"" help:"Start a server, drive a flash sale through it, and prove from stored data what it promises."`
	Import  importCmd  `cmd:"" help:"Import SKUs from a CSV or NDJSON file into a running server."`
	Verify  verifyCmd  `cmd:"" help:"Prove from stored data that nothing is oversold, lost or doubled."`
	Copy    copyCmd    `cmd:"" help:"Move a data folder to PostgreSQL. It may be broken off and run again."`
	Migrate migrateCmd `cmd:"" help:"Change the schema of a PostgreSQL database."`
	Doctor  doctorCmd  `cmd:"" help:"Examine any running Go program: goroutine leaks, heap growth, contention, CPU time, and the line that does it."`
	Vet     vetCmd     `cmd:"" help:"Find the same causes in source code, before it runs."`
	Version versionCmd `cmd:"" help:"Show the version."`
}

// streams is where commands write.
type streams struct{ out, err io.Writer }

// Main runs the command that args name and returns the exit code.
func Main(args []string, out, errOut io.Writer) int {
	asVetTool(args)
	var cmds commands
	code := -1 // what --help and the like want
	parser, err := kong.New(&cmds,
		kong.Name("penstock"),
		kong.Description(description),
		kong.Writers(out, errOut),
		kong.Exit(func(c int) { code = c }),
		kong.DefaultEnvars("PENSTOCK"),
		kong.Configuration(loadYAML),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
	)
	if err != nil {
		fmt.Fprintf(errOut, "penstock: %v\n", err)
		return exitUsage
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	run, err := parser.Parse(args)
	if code >= 0 {
		return code
	}
	if err != nil {
		fmt.Fprintf(errOut, "penstock: %v\nRun \"penstock --help\" for what there is.\n", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal kills: whoever sends it does not want to wait for the drain.
	defer context.AfterFunc(ctx, stop)()
	run.BindTo(ctx, (*context.Context)(nil))
	if err := run.Run(streams{out, errOut}); err != nil {
		if !errors.Is(err, errReported) {
			fmt.Fprintf(errOut, "penstock: %v\n", err)
		}
		if exit, ok := errors.AsType[*exitError](err); ok {
			return exit.code
		}
		return exitFailed
	}
	return exitOK
}

// errReported fails a command that has said why already.
var errReported = errors.New("reported")

// exitError fails a command with an exit code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }
