package app

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/internal/pgdb"
	"github.com/penstockhq/penstock/internal/testkit"
)

func TestPostgres_RunsOnTheSchemaBeforeAndWhileItIsBroughtUpToDate(t *testing.T) {
	t.Parallel()
	url, ctx := testkit.Database(t), context.Background()
	m, err := pgdb.NewMigrator(url)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := m.Up(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := m.DownTo(ctx, m.Known()-1); err != nil {
		t.Fatal(err)
	}
	const units = 1000
	servers := processesOn(t, url, 2, "HOT", units, func(cfg *Config) { cfg.Postgres.NoMigrate = true })

	// Somebody's open transaction is in the way of the migration for a while; orders go on.
	conn, err := pgx.Connect(ctx, url)
	if err == nil {
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, "BEGIN; SELECT count(*) FROM orders")
	}
	if err != nil {
		t.Fatal(err)
	}
	migrated := make(chan error, 1)
	go func() {
		_, err := m.Up(ctx)
		migrated <- err
	}()
	until(t, "the migration waiting", func() bool {
		var waits bool
		if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'orders'::regclass AND NOT granted)").Scan(&waits); err != nil {
			t.Fatal(err)
		}
		return waits
	})
	c := newCustomers(t, servers...)
	c.come(8, "HOT")
	until(t, "a part being sold", func() bool { return servers[0].level("HOT").Available < units })
	if _, err := conn.Exec(ctx, "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if err := <-migrated; err != nil {
		t.Fatal(err)
	}

	until(t, "everything being sold", func() bool { return servers[1].level("HOT").Available == 0 && c.refusedOnce() })
	c.leave(servers[0])
	if len(c.orders) != units {
		t.Errorf("%d orders were acknowledged for %d units", len(c.orders), units)
	}
	settled(t, servers[1])
}

func TestPostgres_ANewerSchemaIsRefusedAndAnOlderOneWithNoMigrate(t *testing.T) {
	t.Parallel()
	url, ctx := testkit.Database(t), context.Background()
	_, err := pgdb.Open(ctx, pgdb.Config{URL: url, NoMigrate: true})
	if err == nil || !contains(err, "penstock migrate up") {
		t.Errorf("an empty database with NoMigrate: %v", err)
	}
	m, err := pgdb.NewMigrator(url)
	if err == nil {
		_, err = m.Up(ctx)
	}
	if err == nil {
		_, err = m.DownTo(ctx, 1)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := pgdb.Open(ctx, pgdb.Config{URL: url, NoMigrate: true}); err == nil || !contains(err, "penstock migrate up") {
		t.Errorf("a schema that is too old with NoMigrate: %v", err)
	}
	testkit.Open(t, url)
	conn, err := pgx.Connect(ctx, url)
	if err == nil {
		_, err = conn.Exec(ctx, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, true)")
		err = errors.Join(err, conn.Close(ctx))
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, keep := range []bool{true, false} {
		if _, err := pgdb.Open(ctx, pgdb.Config{URL: url, NoMigrate: keep}); err == nil || !contains(err, "version 99999") {
			t.Errorf("a schema from the future, NoMigrate %v: %v", keep, err)
		}
	}
}
