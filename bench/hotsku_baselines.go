package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/penstockhq/penstock/internal/freeport"
	"github.com/penstockhq/penstock/internal/pgdb"
)

// baselineSchema has the same facts as Penstock's: stock, order, line, key, event.
const baselineSchema = `
CREATE TABLE stock (sku text PRIMARY KEY, available bigint NOT NULL CHECK (available >= 0)) WITH (fillfactor = 50);
CREATE TABLE units (id bigserial PRIMARY KEY, sku text NOT NULL, sold boolean NOT NULL DEFAULT false);
CREATE TABLE orders (id text PRIMARY KEY, customer_id text NOT NULL, status text NOT NULL, total bigint NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE order_lines (order_id text NOT NULL, line int NOT NULL, sku text NOT NULL, quantity bigint NOT NULL, unit_price bigint NOT NULL, PRIMARY KEY (order_id, line));
CREATE TABLE idempotency_keys (key text PRIMARY KEY, order_id text NOT NULL);
CREATE TABLE events (seq bigserial PRIMARY KEY, order_id text NOT NULL, type text NOT NULL, time timestamptz NOT NULL DEFAULT now());`

// insertFacts stores an order without its stock; $1 is its ID, $2 its key, $3 its
// customer, $4 its SKU.
const insertFacts = `WITH o AS (INSERT INTO orders (id, customer_id, status, total) VALUES ($1, $3, 'reserved', 185)),
	l AS (INSERT INTO order_lines VALUES ($1, 1, $4, 1, 185)), k AS (INSERT INTO idempotency_keys VALUES ($2, $1))
	INSERT INTO events (order_id, type) VALUES ($1, 'reserved')`

// perClient and shared are how many connections a design uses.
const (
	perClient = 0
	shared    = 4
)

func baselines() []design {
	return append(uniformBaselines(), design{"one row a unit, SKIP LOCKED; a connection a client", sql((*lab).rowAUnit, perClient, skipLocked)},
		design{"Redis Lua decrement, orders to PostgreSQL afterwards; appendfsync always", redisDesign("always")},
		design{"the same; appendfsync everysec", redisDesign("everysec")})
}

// uniformBaselines are those that make sense without a hot spot, too.
func uniformBaselines() []design {
	return []design{
		{"conditional UPDATE, one transaction an order; a connection a client", sql((*lab).baseline, perClient, conditional)},
		{"the same, a pool of 4", sql((*lab).baseline, shared, conditional)},
		{"one CTE statement, UPDATE last; a pool of 4", sql((*lab).baseline, shared, oneStatement)},
		{"SELECT … FOR UPDATE, then update; a connection a client", sql((*lab).baseline, perClient, forUpdate)},
	}
}

// rowsOfPenstock begins a statement that stores an order as Penstock does, with its
// reservation, and takes its stock.
const rowsOfPenstock = `WITH r AS (INSERT INTO reservations (id, status, order_id, skus, locations, quantities, created_at, expires_at, version)
		VALUES ('rsv' || $1, 'active', $1, ARRAY[$2::text], ARRAY['main'], ARRAY[1::bigint], $3, $4, 1)),
	k AS (INSERT INTO idempotency_keys (key_hash, fingerprint, order_id, created_at) VALUES ($5, $5, $1, $3)),
	o AS (INSERT INTO orders (id, customer_id, status, total, currency, reservation_id, hold_expires_at, key_hash, version, created_at, updated_at)
		VALUES ($1, $6, 'reserved', 185, 'GBP', 'rsv' || $1, $4, $5, 1, $3, $3)),
	l AS (INSERT INTO order_lines VALUES ($1, 1, $2, 'main', 1, 185)),
	s AS (UPDATE stock SET reserved = reserved + 1, version = version + 1 WHERE sku = $2 AND on_hand > reserved RETURNING 1),
	`

// ledgerAndEvent end such a statement; c and d have a value for each.
const ledgerAndEvent = `g AS (INSERT INTO stock_ledger (seq, time, kind, sku, location, policy, quantity, reservation_id, order_id)
		SELECT value, $3, 'reserved', $2, 'main', 'reserve', 1, 'rsv' || $1, $1 FROM c)
	INSERT INTO order_events (seq, time, order_id, version, status) SELECT value, $3, $1, 1, 'reserved' FROM d`

// gapFree are numbers that become visible in order; sequential ones do not.
const (
	gapFree = `c AS (UPDATE counters SET value = value + 1 WHERE name = 'ledger' AND EXISTS (SELECT 1 FROM s) RETURNING value),
		d AS (UPDATE counters SET value = value + 1 WHERE name = 'order_events' AND EXISTS (SELECT 1 FROM c) RETURNING value),
		`
	sequential = `c AS (SELECT nextval('numbers') AS value FROM s), d AS (SELECT nextval('numbers') AS value FROM s),
		`
)

// sameFacts is oneStatement with all that Penstock stores beside the order: the
// reservation, the ledger, and numbers without gaps. It says what those cost without batches.
func sameFacts(ctx context.Context, conn *pgxpool.Conn, id, key, customer, sku string) (bool, error) {
	return asPenstock(ctx, conn, rowsOfPenstock+gapFree+ledgerAndEvent, id, key, customer, sku)
}

// rowsAlone is sameFacts with numbers from a sequence: what the rows and their indexes cost.
func rowsAlone(ctx context.Context, conn *pgxpool.Conn, id, key, customer, sku string) (bool, error) {
	return asPenstock(ctx, conn, rowsOfPenstock+sequential+ledgerAndEvent, id, key, customer, sku)
}

func asPenstock(ctx context.Context, conn *pgxpool.Conn, sql, id, key, customer, sku string) (bool, error) {
	now := time.Now()
	hash := sha256.Sum256([]byte(key))
	done, err := conn.Exec(ctx, sql, id, sku, now, now.Add(15*time.Minute), hash[:16], customer)
	return err == nil && done.RowsAffected() == 1, err
}

// uncheckedTables are penstocksTables without any CHECK.
func (l *lab) uncheckedTables(ctx context.Context, d demand, units int) (string, error) {
	url, err := l.penstocksTables(ctx, d, units)
	if err != nil {
		return "", err
	}
	return url, execute(ctx, url, "CREATE SEQUENCE numbers", `DO $$
		DECLARE c record;
		BEGIN
			FOR c IN SELECT conrelid::regclass AS held, conname FROM pg_constraint WHERE contype = 'c' AND conrelid <> 0 LOOP
				EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', c.held, c.conname);
			END LOOP;
		END $$`)
}

// penstocksTables prepares a database as Penstock has it.
func (l *lab) penstocksTables(ctx context.Context, d demand, units int) (string, error) {
	url, err := l.database(ctx)
	if err != nil {
		return "", err
	}
	db, err := pgdb.Open(ctx, pgdb.Config{URL: url})
	if err != nil {
		return "", err
	}
	db.Close()
	return url, execute(ctx, url, fmt.Sprintf(`INSERT INTO stock (sku, location, on_hand, reserved, version)
		SELECT 'SKU-' || i, 'main', %d, 0, 1 FROM generate_series(0, %d) i`, units, d.skus-1))
}

// sellOutCheck has oneStatement look whether its order was stored; with plenty of stock
// it is, and the look would cost the baseline a round trip.
var sellOutCheck atomic.Bool

func pgErrorCode(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// sale is how one order is stored by a baseline; false for sold out.
type sale func(ctx context.Context, conn *pgxpool.Conn, id, key, customer, sku string) (bool, error)

var errSoldOut = errors.New("sold out")

func inTransaction(ctx context.Context, conn *pgxpool.Conn, fn func(tx pgx.Tx) error) (bool, error) {
	err := pgx.BeginFunc(ctx, conn, fn)
	if errors.Is(err, errSoldOut) {
		return false, nil
	}
	return err == nil, err
}

func conditional(ctx context.Context, conn *pgxpool.Conn, id, key, customer, sku string) (bool, error) {
	return inTransaction(ctx, conn, func(tx pgx.Tx) error {
		done, err := tx.Exec(ctx, "UPDATE stock SET available = available - 1 WHERE sku = $1 AND available >= 1", sku)
		if err == nil && done.RowsAffected() == 0 {
			return errSoldOut
		}
		if err == nil {
			_, err = tx.Exec(ctx, insertFacts, id, key, customer, sku)
		}
		return err
	})
}

// oneStatement holds the hot row's lock only from the end of the statement until the
// commit: about the best that one transaction an order can do.
func oneStatement(ctx context.Context, conn *pgxpool.Conn, id, key, customer, sku string) (bool, error) {
	_, err := conn.Exec(ctx, `WITH s AS (SELECT 1 FROM stock WHERE sku = $4 AND available >= 1),
		o AS (INSERT INTO orders (id, customer_id, status, total) SELECT $1, $3, 'reserved', 185 FROM s),
		l AS (INSERT INTO order_lines SELECT $1, 1, $4, 1, 185 FROM s), k AS (INSERT INTO idempotency_keys SELECT $2, $1 FROM s),
		e AS (INSERT INTO events (order_id, type) SELECT $1, 'reserved' FROM s RETURNING seq)
		UPDATE stock SET available = available - 1 WHERE sku = $4 AND EXISTS (SELECT 1 FROM e)`, id, key, customer, sku)
	if err != nil && pgErrorCode(err) == "23514" {
		return false, nil // the CHECK: another one took the last unit meanwhile
	}
	if err != nil {
		return false, err
	}
	var left int64
	if sellOutCheck.Load() {
		if err := conn.QueryRow(ctx, "SELECT count(*) FROM orders WHERE id = $1", id).Scan(&left); err != nil || left == 0 {
			return false, err
		}
	}
	return true, nil
}

func forUpdate(ctx context.Context, conn *pgxpool.Conn, id, key, customer, sku string) (bool, error) {
	return inTransaction(ctx, conn, func(tx pgx.Tx) error {
		var available int64
		if err := tx.QueryRow(ctx, "SELECT available FROM stock WHERE sku = $1 FOR UPDATE", sku).Scan(&available); err != nil {
			return err
		}
		if available < 1 {
			return errSoldOut
		}
		if _, err := tx.Exec(ctx, "UPDATE stock SET available = available - 1 WHERE sku = $1", sku); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, insertFacts, id, key, customer, sku)
		return err
	})
}

func skipLocked(ctx context.Context, conn *pgxpool.Conn, id, key, customer, sku string) (bool, error) {
	return inTransaction(ctx, conn, func(tx pgx.Tx) error {
		done, err := tx.Exec(ctx, `UPDATE units SET sold = true WHERE id = (
			SELECT id FROM units WHERE sku = $1 AND NOT sold ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)`, sku)
		if err == nil && done.RowsAffected() == 0 {
			return errSoldOut
		}
		if err == nil {
			_, err = tx.Exec(ctx, insertFacts, id, key, customer, sku)
		}
		return err
	})
}

// baseline prepares a database with stock.
func (l *lab) baseline(ctx context.Context, d demand, units int) (string, error) {
	url, err := l.database(ctx)
	if err != nil {
		return "", err
	}
	name := "'HOT'"
	if d.skus > 1 {
		name = "'SKU-' || i"
	}
	return url, execute(ctx, url, baselineSchema, fmt.Sprintf("INSERT INTO stock SELECT %s, %d FROM generate_series(0, %d) i", name, units, d.skus-1))
}

// rowAUnit is baseline with a row for each unit.
func (l *lab) rowAUnit(ctx context.Context, d demand, units int) (string, error) {
	url, err := l.baseline(ctx, d, units)
	if err != nil {
		return "", err
	}
	return url, execute(ctx, url, fmt.Sprintf("INSERT INTO units (sku) SELECT 'HOT' FROM generate_series(1, %d)", min(units, 200_000)),
		"CREATE INDEX ON units (sku, id) WHERE NOT sold", "VACUUM ANALYZE units")
}

const countSold = "SELECT coalesce(sum(quantity), 0)::bigint FROM order_lines"

// sql is a design in which each order is a transaction of PostgreSQL.
func sql(prepare func(*lab, context.Context, demand, int) (string, error), connections int, sell sale) func(context.Context, *lab, demand, int) (result, int64, error) {
	return func(ctx context.Context, l *lab, d demand, units int) (result, int64, error) {
		url, err := prepare(l, ctx, d, units)
		if err != nil {
			return result{}, 0, err
		}
		cfg, err := pgxpool.ParseConfig(url)
		if err != nil {
			return result{}, 0, err
		}
		if cfg.MaxConns = int32(connections); connections == perClient {
			cfg.MaxConns = int32(d.clients)
		}
		pool, err := pgxpool.NewWithConfig(ctx, cfg)
		if err != nil {
			return result{}, 0, err
		}
		sellOutCheck.Store(d.sellOut)
		got, err := drive(ctx, d, func(ctx context.Context, client int, n int64, sku string) (bool, error) {
			conn, err := pool.Acquire(ctx)
			if err != nil {
				return false, err
			}
			defer conn.Release()
			key := strconv.FormatInt(n, 10)
			return sell(ctx, conn, "ord_01JD000000000000000"+key, "key-"+key, "c-"+strconv.FormatInt(n%100_000, 10), sku)
		})
		pool.Close()
		if err != nil {
			return got, 0, err
		}
		sold, err := one(ctx, url, countSold)
		return got, sold, err
	}
}

// takeAndQueue decrements and queues the order, in one step of Redis.
const takeAndQueue = `if tonumber(redis.call('GET', KEYS[1])) < 1 then return 0 end
if redis.call('SET', KEYS[3], ARGV[1], 'NX', 'EX', 86400) == false then return 0 end
redis.call('DECR', KEYS[1])
redis.call('LPUSH', KEYS[2], ARGV[1])
return 1`

// redisDesign acknowledges when Redis has the order; a worker stores it afterwards.
func redisDesign(fsync string) func(context.Context, *lab, demand, int) (result, int64, error) {
	return func(ctx context.Context, l *lab, d demand, units int) (result, int64, error) {
		url, err := l.baseline(ctx, d, units)
		if err != nil {
			return result{}, 0, err
		}
		address, stop, err := startRedis(ctx, fsync)
		if err != nil {
			return result{}, 0, err
		}
		client := redis.NewClient(&redis.Options{Addr: address, PoolSize: d.clients})
		err = client.Set(ctx, "stock:HOT", units, 0).Err()
		script := redis.NewScript(takeAndQueue)
		working, finish := context.WithCancel(ctx)
		worker := make(chan error, 1)
		go func() { worker <- storeQueued(working, client, url) }()
		var got result
		if err == nil {
			got, err = drive(ctx, d, func(ctx context.Context, _ int, n int64, _ string) (bool, error) {
				id := "ord_01JD000000000000000" + strconv.FormatInt(n, 10)
				ok, err := script.Run(ctx, client, []string{"stock:HOT", "orders", "key:" + id}, id).Int()
				return ok == 1, err
			})
		}
		finish()
		err = errors.Join(err, <-worker, client.Close(), stop())
		if err != nil {
			return got, 0, err
		}
		sold, err := one(ctx, url, countSold)
		return got, sold, err
	}
}

// storeQueued moves orders from Redis to PostgreSQL, up to a hundred in a transaction,
// until ctx has ended and the queue is empty.
func storeQueued(ctx context.Context, client *redis.Client, url string) error {
	background := context.WithoutCancel(ctx)
	conn, err := pgx.Connect(background, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(background) }()
	for {
		ended := ctx.Err() != nil
		ids, err := client.RPopCount(background, "orders", 100).Result()
		if errors.Is(err, redis.Nil) {
			if ended {
				return nil
			}
			time.Sleep(time.Millisecond)
			continue
		}
		if err != nil {
			return err
		}
		var b pgx.Batch
		for _, id := range ids {
			b.Queue(insertFacts, id, "key-"+id, "c-1", "HOT")
		}
		if err := conn.SendBatch(background, &b).Close(); err != nil {
			return err
		}
	}
}

// startRedis starts a private server in a temporary folder.
func startRedis(ctx context.Context, fsync string) (address string, stop func() error, err error) {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return "", nil, fmt.Errorf("redis-server is not installed (Debian: apt-get install redis-server): %w", err)
	}
	dir, err := os.MkdirTemp("", "penstock-redis-")
	if err != nil {
		return "", nil, err
	}
	port, err := freeport.Take()
	if err != nil {
		return "", nil, err
	}
	address = port.Address()
	cmd := exec.CommandContext(ctx, bin, "--port", strconv.Itoa(port.Number()), "--bind", "127.0.0.1", "--dir", dir, "--appendonly", "yes", "--appendfsync", fsync, "--save", "")
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() error {
		_ = cmd.Process.Kill() // its data is thrown away
		_ = cmd.Wait()
		return errors.Join(port.Release(), os.RemoveAll(dir))
	}
	for range 200 {
		if conn, err := net.Dial("tcp", address); err == nil {
			return address, stop, conn.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	return "", nil, errors.Join(errors.New("redis-server does not take connections"), stop())
}
