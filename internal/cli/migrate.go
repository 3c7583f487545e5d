package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/penstockhq/penstock/internal/pgdb"
)

type migrateCmd struct {
	Postgres string `help:"Connection string of the database: PostgreSQL itself, not a pooler." required:""`

	Up     migrateUpCmd     `cmd:"" help:"Apply every migration that is missing. Running processes of the version before go on working."`
	Status migrateStatusCmd `cmd:"" help:"List the migrations and when they were applied."`
	DownTo migrateDownToCmd `cmd:"" name:"down-to" help:"Take back the migrations above a version. What stands in tables that this drops is gone."`
}

// with runs fn with a Migrator.
func (c *migrateCmd) with(fn func(*pgdb.Migrator) error) (err error) {
	m, err := pgdb.NewMigrator(c.Postgres)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	return fn(m)
}

type migrateUpCmd struct{}

// Run applies what is missing.
func (migrateUpCmd) Run(ctx context.Context, io streams, parent *migrateCmd) error {
	return parent.with(func(m *pgdb.Migrator) error {
		done, err := m.Up(ctx)
		if err != nil {
			return err
		}
		return printMigrations(io.out, "applied", done)
	})
}

type migrateStatusCmd struct{}

// Run lists the migrations.
func (migrateStatusCmd) Run(ctx context.Context, io streams, parent *migrateCmd) error {
	return parent.with(func(m *pgdb.Migrator) error {
		all, err := m.Status(ctx)
		if err != nil {
			return err
		}
		for _, s := range all {
			applied := "not applied"
			if !s.AppliedAt.IsZero() {
				applied = "applied " + s.AppliedAt.UTC().Format("2006-01-02 15:04:05")
			}
			fmt.Fprintf(io.out, "%5d  %-40s %s\n", s.Version, s.File, applied)
		}
		return nil
	})
}

type migrateDownToCmd struct {
	Version int64 `arg:"" help:"Version to go back to; 0 removes everything."`
}

// Run takes migrations back.
func (c *migrateDownToCmd) Run(ctx context.Context, io streams, parent *migrateCmd) error {
	return parent.with(func(m *pgdb.Migrator) error {
		done, err := m.DownTo(ctx, c.Version)
		if err != nil {
			return err
		}
		return printMigrations(io.out, "taken back", done)
	})
}

func printMigrations(w io.Writer, what string, done []pgdb.Migration) error {
	for _, m := range done {
		if _, err := fmt.Fprintf(w, "%s: %s\n", what, m.File); err != nil {
			return err
		}
	}
	if len(done) == 0 {
		_, err := fmt.Fprintln(w, "nothing to do: the schema is there already")
		return err
	}
	return nil
}
