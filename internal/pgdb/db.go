// Package pgdb is what the PostgreSQL stores share: the connection pools, the schema and
// its migrations, batches as transactions, combined reads, and what errors mean. It
// knows no service.
//
// # How a batch becomes a transaction
//
// A batch of a group commit (batch.go) takes at most two round trips: one that begins,
// reads and locks in sorted order what the batch needs, one that writes everything and
// commits. A batch that reads nothing takes one. Nothing is locked while anything else
// than the database is waited for. In each transaction the counters (see the first
// migration) are locked last, so whoever holds one waits for nobody but the disk.
//
// What a reader would get wrong: a batch may be decided more than once. Two processes
// that use the same new key both decide that it is new; the unique index lets one
// commit, and the other decides again, having looked this time.
package pgdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/puzpuzpuz/xsync/v4"

	"github.com/penstockhq/penstock/internal/fault"
)

// Config of a DB. All but URL has defaults.
type Config struct {
	// URL is the connection string, in any form that libpq takes.
	URL string
	// Processes is how many processes will use the database; its connections are
	// divided by them. Defaults to 2.
	Processes int
	// PoolSize is the most connections of this process. Defaults to 7 for batches and
	// 2 for each core for reads, and never more than this process's
	// share of what the server allows.
	PoolSize int
	// PoolIdle is how many connections stay open without work. Defaults to 2.
	PoolIdle int
	// Lifetime is the age at which a connection is replaced, with up to a tenth more so
	// that not all go at once. It must be below the idle timeouts of whatever is in
	// between. Defaults to 30 min.
	Lifetime time.Duration
	// AcquireTimeout is how long a request waits for a connection. Defaults to 2 s.
	AcquireTimeout time.Duration
	// StatementTimeout bounds each statement of a batch or read. Defaults to 10 s.
	StatementTimeout time.Duration
	// LockTimeout bounds the wait for a row that another process has locked. Defaults to 5 s.
	LockTimeout time.Duration
	// NoMigrate leaves the schema as it is; an older one than this program needs is refused.
	NoMigrate bool
	// Logger gets warnings. Defaults to none.
	Logger *slog.Logger

	copying bool // opened for a Copy
}

const (
	batchConnections = 7 // a batch of orders with their stock, and two in flight of each store's own
	minPoolSize      = batchConnections + 2
	connectTimeout   = 2 * time.Second
)

func (c Config) withDefaults() Config {
	c.Processes = cmp.Or(c.Processes, 2)
	c.PoolIdle = cmp.Or(c.PoolIdle, 2)
	c.Lifetime = cmp.Or(c.Lifetime, 30*time.Minute)
	c.AcquireTimeout = cmp.Or(c.AcquireTimeout, 2*time.Second)
	c.StatementTimeout = cmp.Or(c.StatementTimeout, 10*time.Second)
	c.LockTimeout = cmp.Or(c.LockTimeout, 5*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// DB is an open database. Close ends it.
type DB struct {
	cfg     Config
	batches *pgxpool.Pool
	reads   *pgxpool.Pool
	offset  atomic.Int64 // the server's clock less ours, in nanoseconds
	watch   watch
	closing sync.Once
	// described says what the statements of batches take, once any connection has prepared
	// them; there are as many as there are kinds of batches.
	described *xsync.Map[string, *pgconn.StatementDescription]
}

// Open connects, brings the schema up to date and checks that the settings fit. The
// database must answer; after that it may go away and come back.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	cfg = cfg.withDefaults()
	pool, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("--postgres is not a connection string such as postgres://user:password@host:5432/database: %w", err)
	}
	switch mode := pool.ConnConfig.DefaultQueryExecMode; mode {
	case pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol:
		return nil, fmt.Errorf("default_query_exec_mode=%v does not ask the server for the types of what is sent, and arrays need them: "+
			"behind a pooler that knows no prepared statements use cache_describe", mode)
	default:
	}
	conn, err := connect(ctx, pool.ConnConfig)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // nothing is at stake on it any more
	server, err := readSettings(ctx, conn)
	if err != nil {
		return nil, err
	}
	if err := checkSchema(ctx, cfg, pool.ConnConfig); err != nil {
		return nil, err
	}
	unfinished, err := isCopying(ctx, conn)
	if err != nil {
		return nil, err
	}
	if unfinished && !cfg.copying {
		return nil, errors.New("a copy into this database was broken off: run \"penstock copy\" again to finish it")
	}
	size := poolSize(cfg, server)
	for _, warning := range server.warnings(cfg, size) {
		cfg.Logger.Warn("postgres: " + warning)
	}
	db := &DB{cfg: cfg, described: xsync.NewMap[string, *pgconn.StatementDescription]()}
	pool.MaxConnIdleTime = idleTime(cfg, server)
	if db.batches, err = db.pool(pool, batchConnections); err != nil { //nolint:contextcheck // a pool outlives the call
		return nil, err
	}
	if db.reads, err = db.pool(pool, size-batchConnections); err != nil { //nolint:contextcheck // likewise
		db.batches.Close()
		return nil, err
	}
	if err := db.measureClock(ctx); err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

func connect(ctx context.Context, cfg *pgx.ConnConfig) (*pgx.Conn, error) {
	cfg = cfg.Copy()
	cfg.ConnectTimeout = cmp.Or(cfg.ConnectTimeout, connectTimeout)
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to PostgreSQL at %s:%d: %w", cfg.Host, cfg.Port, err)
	}
	return conn, nil
}

func (db *DB) pool(base *pgxpool.Config, size int) (*pgxpool.Pool, error) {
	c := base.Copy()
	c.MaxConns = int32(size)
	c.MinIdleConns = int32(min(db.cfg.PoolIdle, size))
	c.MaxConnLifetime = db.cfg.Lifetime
	c.MaxConnLifetimeJitter = db.cfg.Lifetime / 10
	c.HealthCheckPeriod = min(c.HealthCheckPeriod, max(c.MaxConnIdleTime/4, 100*time.Millisecond)) // idle ones are found then
	c.ConnConfig.ConnectTimeout = cmp.Or(c.ConnConfig.ConnectTimeout, connectTimeout)
	c.AfterConnect = db.settle
	pool, err := pgxpool.NewWithConfig(context.Background(), c)
	if err != nil {
		return nil, fmt.Errorf("open connection pool: %w", err)
	}
	return pool, nil
}

// Close ends the pools. Closing twice is fine.
func (db *DB) Close() {
	db.closing.Do(func() {
		db.watch.end()
		db.batches.Close()
		if db.reads != nil {
			db.reads.Close()
		}
	})
}

// Now is the database's clock, as well as this process knows it: all processes on one
// database must agree on when a reservation ends.
func (db *DB) Now() time.Time {
	return time.Now().Add(time.Duration(db.offset.Load())).UTC().Truncate(time.Microsecond)
}

// measureClock learns the offset of the database's clock.
func (db *DB) measureClock(ctx context.Context) error {
	before := time.Now()
	var there time.Time
	if err := db.reads.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&there); err != nil {
		return fmt.Errorf("read the database's clock: %w", err)
	}
	took := time.Since(before)
	offset := there.Sub(before.Add(took / 2))
	if offset.Abs() <= took {
		offset = 0 // within what can be told
	}
	db.offset.Store(int64(offset))
	return nil
}

// settings are what of the server's configuration matters here.
type settings struct {
	maxConnections int
	reserved       int // for superusers
	durable        bool
	readOnly       bool
	version        int           // such as 150004
	idle           time.Duration // after it the server ends a session that does nothing; 0 for never
}

func readSettings(ctx context.Context, conn *pgx.Conn) (settings, error) {
	var s settings
	var fsync, commit, readOnly string
	var idle int64
	err := conn.QueryRow(ctx, `SELECT current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int,
		current_setting('fsync'), current_setting('synchronous_commit'), current_setting('transaction_read_only'),
		current_setting('server_version_num')::int,
		coalesce((SELECT setting::bigint FROM pg_settings WHERE name = 'idle_session_timeout'), 0)`).
		Scan(&s.maxConnections, &s.reserved, &fsync, &commit, &readOnly, &s.version, &idle)
	if err != nil {
		return s, fmt.Errorf("read the server's settings: %w", err)
	}
	s.idle = time.Duration(idle) * time.Millisecond
	s.durable = fsync == "on" && commit != "off"
	s.readOnly = readOnly == "on"
	if s.readOnly {
		return s, errors.New("the database is read-only, a standby perhaps: name the primary")
	}
	if s.version < 130_000 {
		return s, fmt.Errorf("PostgreSQL %d.%d is too old: 13 or later is needed", s.version/10_000, s.version%10_000)
	}
	return s, nil
}

// poolSize returns how many connections this process may open.
func poolSize(cfg Config, s settings) int {
	if cfg.PoolSize > 0 {
		return max(cfg.PoolSize, minPoolSize)
	}
	share := (s.maxConnections - s.reserved - 1) / cfg.Processes // one is for migrations and people
	return max(minPoolSize, min(share, batchConnections+2*max(2, runtime.GOMAXPROCS(0))))
}

// idleTime returns how long a connection may do nothing before it is closed from this
// side: before the server would end it.
func idleTime(cfg Config, s settings) time.Duration {
	idle := max(cfg.Lifetime/6, time.Second)
	if s.idle > 0 {
		idle = min(idle, s.idle*3/4)
	}
	return idle
}

func (s settings) warnings(cfg Config, size int) (warnings []string) {
	if need, have := cfg.Processes*size, s.maxConnections-s.reserved; need > have {
		warnings = append(warnings, fmt.Sprintf("%d processes × %d connections = %d, but the server allows max_connections %d − %d reserved = %d; "+
			"raise max_connections, or lower --postgres-pool-size", cfg.Processes, size, need, s.maxConnections, s.reserved, have))
	}
	if !s.durable {
		warnings = append(warnings, "fsync or synchronous_commit is off: orders that were acknowledged can be lost when the server crashes")
	}
	return warnings
}

// Redacted is the connection string without its password, for logs.
func Redacted(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "" {
		return "(a connection string)"
	}
	return u.Redacted()
}

// Ping returns why the database cannot be used, nil when it can. It does not ask the
// database but the watcher, which does so all the time.
func (db *DB) Ping() error {
	if last := time.Unix(0, db.watch.answered.Load()); db.watch.answered.Load() != 0 && time.Since(last) > 2*time.Second {
		return fault.New(fault.Unavailable, "the database has not answered for %v", time.Since(last).Round(time.Second)).WithRetryAfter(time.Second)
	}
	return nil
}

// Stats are the figures of the pools.
type Stats struct {
	Max, Open, InUse int32
	Waits            int64         // acquisitions that had to wait
	Waited           time.Duration // by all of them together
}

// Stats returns the figures of the two pools together.
func (db *DB) Stats() (s Stats) {
	for _, p := range []*pgxpool.Pool{db.batches, db.reads} {
		st := p.Stat()
		s.Max += st.MaxConns()
		s.Open += st.TotalConns()
		s.InUse += st.AcquiredConns()
		s.Waits += st.EmptyAcquireCount()
		s.Waited += st.EmptyAcquireWaitTime()
	}
	return s
}

// Counter names of the migrations.
const (
	CounterCatalogue   = "catalogue"
	CounterLedger      = "ledger"
	CounterStockEvents = "stock_events"
	CounterOrderEvents = "order_events"
	CounterFollowed    = "ledger_followed"

	CounterLedgerTrimmed      = "ledger_trimmed"
	CounterStockEventsTrimmed = "stock_events_trimmed"
	CounterOrderEventsTrimmed = "order_events_trimmed"
)

// Query runs a read on its own and calls scan for each row.
func (db *DB) Query(ctx context.Context, sql string, args []any, scan func(pgx.Rows) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, db.cfg.AcquireTimeout+db.cfg.StatementTimeout)
	defer cancel()
	conn, err := db.reads.Acquire(ctx)
	if err != nil {
		return db.Fault(err)
	}
	defer conn.Release()
	var b pgx.Batch
	settings := db.settings(&b, conn.Conn()) // of one implicit transaction with what follows
	b.Queue(sql, args...)
	results := conn.SendBatch(ctx, &b)
	defer func() { err = db.Fault(errors.Join(err, results.Close())) }()
	if settings {
		if _, err := results.Exec(); err != nil {
			return err
		}
	}
	rows, err := results.Query()
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// pause waits a little longer with each attempt, and not the same in all processes.
func pause(attempt int) {
	time.Sleep(time.Duration(1+rand.IntN(1<<min(attempt, 6))) * time.Millisecond)
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
