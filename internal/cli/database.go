package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/penstockhq/penstock/internal/pgdb"
)

// storePostgres is the value of --store for PostgreSQL.
const storePostgres = "postgres"

// databaseFlags are those of commands that may use PostgreSQL.
type databaseFlags struct {
	Postgres          string        `help:"Connection string of the database, such as postgres://user:password@host:5432/penstock." group:"PostgreSQL"`
	PostgresProcesses int           `help:"How many penstock processes share the database; its connections are divided by them." default:"2" group:"PostgreSQL"`
	PostgresPoolSize  int           `help:"Most connections of this process, at least 9. 0 computes: 7 for batches and 2 a core for reads, or this process's share of max_connections if that is less." default:"0" group:"PostgreSQL"`
	PostgresPoolIdle  int           `help:"Connections kept open without work, of each of the two pools." default:"2" group:"PostgreSQL"`
	PostgresLifetime  time.Duration `help:"Age at which a connection is replaced, plus up to a tenth; keep it below the idle timeout of proxies." default:"30m" group:"PostgreSQL"`
	PostgresAcquire   time.Duration `help:"Time to wait for a connection before the answer is 503." default:"2s" group:"PostgreSQL"`
	PostgresStatement time.Duration `help:"Time that a statement may take." default:"10s" group:"PostgreSQL"`
	PostgresLock      time.Duration `help:"Time to wait for a row that another process has locked." default:"5s" group:"PostgreSQL"`
	NoMigrate         bool          `help:"Leave the schema as it is, and refuse to start on one that is too old." group:"PostgreSQL"`
}

func (f *databaseFlags) validate(store string) error {
	switch {
	case store == storePostgres && f.Postgres == "":
		return errors.New("--store postgres needs --postgres with a connection string, such as postgres://user:password@host:5432/penstock")
	case store != storePostgres && f.Postgres != "":
		return errors.New("--postgres is given without --store postgres")
	}
	if f.PostgresProcesses < 1 || f.PostgresPoolSize < 0 || f.PostgresPoolIdle < 0 {
		return errors.New("--postgres-processes must be at least 1, --postgres-pool-size and --postgres-pool-idle at least 0")
	}
	for name, d := range map[string]time.Duration{
		"lifetime": f.PostgresLifetime, "acquire": f.PostgresAcquire, "statement": f.PostgresStatement, "lock": f.PostgresLock,
	} {
		if d < time.Millisecond {
			return fmt.Errorf("--postgres-%s is too small", name)
		}
	}
	return nil
}

// config returns what the flags say, nil where the store is another.
func (f *databaseFlags) config(store string) *pgdb.Config {
	if store != storePostgres {
		return nil
	}
	return &pgdb.Config{
		URL: f.Postgres, Processes: f.PostgresProcesses, PoolSize: f.PostgresPoolSize, PoolIdle: f.PostgresPoolIdle,
		Lifetime: f.PostgresLifetime, AcquireTimeout: f.PostgresAcquire, StatementTimeout: f.PostgresStatement,
		LockTimeout: f.PostgresLock, NoMigrate: f.NoMigrate,
	}
}
