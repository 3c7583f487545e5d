package pgdb

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrator changes the schema. Make one with NewMigrator, end it with Close.
type Migrator struct {
	provider *goose.Provider
	db       *sql.DB
}

// Migration is one step of the schema.
type Migration struct {
	Version   int64
	File      string
	AppliedAt time.Time // zero where it is not applied
}

// NewMigrator connects for migrations. Several processes may migrate at once: an advisory
// lock of the session lets one go first. A pooler in transaction mode has no sessions:
// give migrations the address of PostgreSQL itself.
func NewMigrator(url string) (*Migrator, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("%q is not a connection string: %w", Redacted(url), err)
	}
	return newMigrator(cfg)
}

func newMigrator(cfg *pgx.ConnConfig) (*Migrator, error) {
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	cfg = cfg.Copy()
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTimeout
	}
	db := stdlib.OpenDB(*cfg)
	provider, err := goose.NewProvider(goose.DialectPostgres, db, dir, goose.WithSessionLocker(locker))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("migrate: %w", err), db.Close())
	}
	return &Migrator{provider, db}, nil
}

// Close ends the connection.
func (m *Migrator) Close() error { return m.db.Close() }

// Known is the version that this program's schema has.
func (m *Migrator) Known() int64 {
	sources := m.provider.ListSources()
	return sources[len(sources)-1].Version
}

// Up applies every migration that is not applied, and returns those that it did.
func (m *Migrator) Up(ctx context.Context) ([]Migration, error) {
	if _, err := m.check(ctx); err != nil {
		return nil, err
	}
	results, err := m.provider.Up(ctx)
	if err != nil {
		return nil, fmt.Errorf("migrate up: %w", err)
	}
	return done(results), nil
}

// DownTo takes back the migrations above version, and returns those that it did. What
// stood in dropped tables is gone.
func (m *Migrator) DownTo(ctx context.Context, version int64) ([]Migration, error) {
	if version < 0 || version > m.Known() {
		return nil, fmt.Errorf("there is no version %d; versions are 0 (nothing) to %d", version, m.Known())
	}
	results, err := m.provider.DownTo(ctx, version)
	if err != nil {
		return nil, fmt.Errorf("migrate down: %w", err)
	}
	return done(results), nil
}

func done(results []*goose.MigrationResult) []Migration {
	migrations := make([]Migration, 0, len(results))
	for _, r := range results {
		migrations = append(migrations, Migration{Version: r.Source.Version, File: r.Source.Path})
	}
	return migrations
}

// Status returns every migration that this program knows.
func (m *Migrator) Status(ctx context.Context) ([]Migration, error) {
	statuses, err := m.provider.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	migrations := make([]Migration, 0, len(statuses))
	for _, s := range statuses {
		migrations = append(migrations, Migration{Version: s.Source.Version, File: s.Source.Path, AppliedAt: s.AppliedAt})
	}
	return migrations, nil
}

// oldestSchema is the oldest version that this program runs on: the one before its own last
// migration at least, so that processes and schema can be brought up to date in any order.
const oldestSchema = 2

// check returns the schema's version, and refuses one that is newer than this program.
func (m *Migrator) check(ctx context.Context) (int64, error) {
	version, err := m.provider.GetDBVersion(ctx)
	if err != nil {
		return 0, fmt.Errorf("read the schema's version: %w", err)
	}
	if known := m.Known(); version > known {
		return 0, fmt.Errorf("the database's schema has version %d; this program knows up to %d: run the version of penstock that migrated it, "+
			"or a newer one", version, known)
	}
	return version, nil
}

// checkSchema brings the schema up to date, or refuses one that is not.
func checkSchema(ctx context.Context, cfg Config, conn *pgx.ConnConfig) (err error) {
	m, err := newMigrator(conn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if !cfg.NoMigrate {
		_, err := m.Up(ctx)
		return err
	}
	version, err := m.check(ctx)
	if err != nil {
		return err
	}
	if version < oldestSchema {
		return errors.New("the database's schema is older than this program needs: run \"penstock migrate up\", or serve without --no-migrate")
	}
	if known := m.Known(); version < known {
		cfg.Logger.Warn(fmt.Sprintf("postgres: the schema has version %d of %d; run \"penstock migrate up\" to bring it up to date",
			version, known))
	}
	return nil
}
