package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/internal/app"
	"github.com/penstockhq/penstock/internal/fault"
	"github.com/penstockhq/penstock/internal/order"
	"github.com/penstockhq/penstock/internal/order/orderservice"
	"github.com/penstockhq/penstock/internal/pgdb"
	"github.com/penstockhq/penstock/internal/pgserver"
)

func skuName(i int) string { return "SKU-" + strconv.Itoa(i) }

// postgresSettings are those of every design: durable, old WAL files recycled instead of
// new ones made, as on a server that has run for a while, and with room enough that no
// checkpoint falls into a measurement.
func postgresSettings() map[string]string {
	return map[string]string{
		"fsync": "on", "synchronous_commit": "on", "max_connections": "400", "shared_buffers": "1GB",
		"min_wal_size": "4GB", "max_wal_size": "16GB", "checkpoint_timeout": "1h",
	}
}

// design is a way to sell stock.
type design struct {
	name string
	// run sells from units of each SKU, and returns how many units are sold in the end.
	run func(ctx context.Context, lab *lab, d demand, units int) (got result, sold int64, err error)
}

// lab is what designs run on.
type lab struct {
	server    *pgserver.Server
	databases int
}

// database makes a fresh database. The one before is dropped: the server would go on
// vacuuming it.
func (l *lab) database(ctx context.Context) (string, error) {
	err := execute(ctx, l.server.URL("postgres"), "DROP DATABASE IF EXISTS bench"+strconv.Itoa(l.databases)+" WITH (FORCE)", "CHECKPOINT")
	if err != nil {
		return "", err
	}
	l.databases++
	return l.server.Create(ctx, "bench"+strconv.Itoa(l.databases))
}

// warm writes so many rows and drops them, so that there are WAL files to recycle and the
// server's memory is its own already: the first design would pay for both.
func (l *lab) warm(ctx context.Context, rows int) error {
	return execute(ctx, l.server.URL("postgres"),
		"CREATE TABLE warm AS SELECT n, repeat('x', 150) FROM generate_series(1, "+strconv.Itoa(rows)+") n; DROP TABLE warm; CHECKPOINT")
}

// execute runs statements one after the other.
func execute(ctx context.Context, url string, statements ...string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	for _, sql := range statements {
		if err == nil {
			_, err = conn.Exec(ctx, sql)
		}
	}
	return errors.Join(err, conn.Close(ctx))
}

func hotskuExperiment(ctx context.Context, o options) error {
	server, err := pgserver.Start(ctx, pgserver.Config{Settings: postgresSettings()})
	if err != nil {
		return err
	}
	defer func() { _ = server.Stop() }() // the tables are printed
	l := &lab{server: server}
	if err := l.warm(ctx, o.scale(4_000_000, 1000)); err != nil {
		return err
	}
	clients := []int{1, 8, 64, 256}
	uniform := clients[:3]
	if o.quick {
		clients, uniform = []int{8}, []int{8}
	}
	if len(o.clients) > 0 {
		clients, uniform = o.clients, o.clients
	}
	designs := []design{
		{"Penstock, embedded", penstockEmbedded},
		{"Penstock on PostgreSQL, one process", penstockOn(1)},
		{"Penstock on PostgreSQL, two processes", penstockOn(2)},
	}
	designs = append(designs, baselines()...)
	fmt.Printf("One hot SKU. Every design stores stock, order, line, idempotency key and event; fsync=on, synchronous_commit=on.\n\n")
	if err := l.compare(ctx, o, designs, clients, 1); err != nil {
		return err
	}
	fmt.Printf("\n10,000 SKUs of equal popularity, no hot spot.\n\n")
	designs = append(designs[1:2:2], uniformBaselines()...)
	designs = append(designs,
		design{"for comparison: one CTE statement that stores all that Penstock does; a pool of 4", sql((*lab).penstocksTables, shared, sameFacts)},
		design{"for comparison: its rows alone, with numbers of a sequence and without a CHECK; a pool of 4", sql((*lab).uncheckedTables, shared, rowsAlone)})
	return l.compare(ctx, o, designs, uniform, 10_000)
}

// compare prints a table of designs by clients.
func (l *lab) compare(ctx context.Context, o options, designs []design, clients []int, skus int) error {
	head := []string{"design"}
	for _, c := range clients {
		head = append(head, fmt.Sprintf("%d clients: orders/s", c), "p50 ms", "p99 ms")
	}
	head = append(head, "oversold")
	var rows [][]string
	for _, d := range designs {
		if !strings.Contains(d.name, o.only) {
			continue
		}
		row := []string{d.name}
		for _, c := range clients {
			got, _, err := d.run(ctx, l, demand{clients: c, took: o.took, skus: skus}, 1_000_000)
			if err != nil {
				return fmt.Errorf("%s, %d clients: %w", d.name, c, err)
			}
			row = append(row, count(got.rate), ms(got.latency, 50), ms(got.latency, 99))
		}
		oversold := "–"
		if skus == 1 {
			_, sold, err := d.run(ctx, l, demand{clients: min(64, clients[len(clients)-1]), took: time.Minute, skus: 1, sellOut: true}, 1000)
			if err != nil {
				return fmt.Errorf("%s, selling out: %w", d.name, err)
			}
			oversold = strconv.FormatInt(max(0, sold-1000), 10)
			if sold < 1000 {
				oversold = fmt.Sprintf("%d lost", 1000-sold)
			}
		}
		rows = append(rows, append(row, oversold))
	}
	table(head, rows)
	return nil
}

func penstockEmbedded(ctx context.Context, _ *lab, d demand, units int) (result, int64, error) {
	dir, err := os.MkdirTemp("", "penstock-bench-")
	if err != nil {
		return result{}, 0, err
	}
	got, err := sellers(ctx, 1, d, units, "-data", dir)
	return got, got.accepted, errors.Join(err, os.RemoveAll(dir))
}

// penstockOn sells with several processes on one database.
func penstockOn(processes int) func(context.Context, *lab, demand, int) (result, int64, error) {
	return func(ctx context.Context, l *lab, d demand, units int) (result, int64, error) {
		url, err := l.database(ctx)
		if err != nil {
			return result{}, 0, err
		}
		got, err := sellers(ctx, min(processes, d.clients), d, units, "-postgres", url)
		if err != nil {
			return got, 0, err
		}
		sold, err := one(ctx, url, "SELECT coalesce(sum(quantity), 0)::bigint FROM order_lines")
		return got, sold, err
	}
}

func one(ctx context.Context, url, sql string) (n int64, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return 0, err
	}
	err = conn.QueryRow(ctx, sql).Scan(&n)
	return n, errors.Join(err, conn.Close(ctx))
}

// sellers runs processes that each run a Penstock and a share of the clients in it: the
// baselines have no HTTP in between either. They begin together.
func sellers(ctx context.Context, processes int, d demand, units int, storage ...string) (result, error) {
	self, err := os.Executable()
	if err != nil {
		return result{}, err
	}
	type seller struct {
		cmd   *exec.Cmd
		out   *bufio.Reader
		begin func() error
	}
	var all []seller
	for i := range processes {
		args := append([]string{childCommand, sellerCommand, "-clients", strconv.Itoa(d.clients / processes), "-took", d.took.String(),
			"-skus", strconv.Itoa(d.skus), "-units", strconv.Itoa(units), fmt.Sprintf("-sellout=%v", d.sellOut), fmt.Sprintf("-first=%v", i == 0)}, storage...)
		cmd := exec.CommandContext(ctx, self, args...)
		cmd.Stderr = os.Stderr
		in, err1 := cmd.StdinPipe()
		out, err2 := cmd.StdoutPipe()
		if err := errors.Join(err1, err2, cmd.Start()); err != nil {
			return result{}, err
		}
		s := seller{cmd, bufio.NewReader(out), in.Close}
		if line, err := s.out.ReadString('\n'); err != nil || line != "ready\n" {
			return result{}, fmt.Errorf("a seller did not start: %q %w", line, errors.Join(err, cmd.Wait()))
		}
		all = append(all, s)
	}
	for _, s := range all {
		if err := s.begin(); err != nil {
			return result{}, err
		}
	}
	sum := result{latency: histogram()}
	for _, s := range all {
		var got snapshot
		err := json.NewDecoder(s.out).Decode(&got)
		if err = errors.Join(err, s.cmd.Wait()); err != nil {
			return sum, err
		}
		if got.Error != "" {
			return sum, errors.New(got.Error)
		}
		r := got.result()
		sum.accepted += r.accepted
		sum.refused += r.refused
		sum.rate += r.rate
		sum.latency.Merge(r.latency)
	}
	return sum, nil
}

// sellerCommand makes a child run a Penstock and clients in one process.
const sellerCommand = "seller"

func sellerMain(args []string) error {
	flags := flag.NewFlagSet(sellerCommand, flag.ExitOnError)
	data, url := flags.String("data", "", ""), flags.String("postgres", "", "")
	clients, skus, units := flags.Int("clients", 1, ""), flags.Int("skus", 1, ""), flags.Int("units", 1, "")
	took, sellOut, first := flags.Duration("took", time.Second, ""), flags.Bool("sellout", false, ""), flags.Bool("first", true, "")
	_ = flags.Parse(args) // it exits by itself
	cfg := app.Config{Dir: *data, HTTP: "127.0.0.1:0", Ops: "127.0.0.1:0"}
	if *url != "" {
		cfg.Postgres = &pgdb.Config{URL: *url}
	}
	a := app.New(cfg)
	ctx := context.Background()
	if err := a.Start(ctx); err != nil {
		return err
	}
	d := demand{clients: *clients, took: *took, skus: *skus, sellOut: *sellOut}
	if *first {
		if err := fillShop(newClient("http://"+a.HTTPAddr(), 16), d.skus, *units); err != nil {
			return err
		}
	}
	time.Sleep(300 * time.Millisecond) // what others have put into the catalogue is known by then
	fmt.Println("ready")
	_, _ = bufio.NewReader(os.Stdin).ReadByte() // until it is closed
	got, err := drive(ctx, d, func(ctx context.Context, _ int, n int64, sku string) (bool, error) {
		out := a.Orders().Place(ctx, []orderservice.PlaceRequest{{
			Key: strconv.Itoa(os.Getpid()) + "-" + strconv.FormatInt(n, 10), CustomerID: "c-" + strconv.FormatInt(n%100_000, 10),
			Lines: []order.Line{{SKU: sku, Quantity: 1}},
		}})[0]
		if fault.Is(out.Err, fault.InsufficientStock) {
			return false, nil
		}
		return out.Err == nil, out.Err
	})
	s := snapshot{Accepted: got.accepted, Refused: got.refused, Rate: got.rate, Latency: got.latency.Export()}
	if err != nil {
		s.Error = err.Error()
	}
	return errors.Join(json.NewEncoder(os.Stdout).Encode(s), a.Stop(ctx))
}

// fillShop puts SKUs into a Penstock, each with units.
func fillShop(c *client, skus, units int) error {
	if skus == 1 {
		return stockUp(c, "HOT", units)
	}
	var failure error
	running := make(chan error, 16)
	for w := range 16 {
		go func() {
			var err error
			for i := w; i < skus && err == nil; i += 16 {
				err = stockUp(c, skuName(i), units)
			}
			running <- err
		}()
	}
	for range 16 {
		failure = errors.Join(failure, <-running)
	}
	return failure
}

func stockUp(c *client, sku string, units int) error {
	err := c.must("PUT", "/v1/skus/"+sku, "", map[string]any{"title": sku, "unit_price": map[string]any{"amount": 185, "currency": "GBP"}})
	if err != nil {
		return err
	}
	return c.must("POST", "/v1/stock/"+sku+"/receipts", "receipt-"+sku, map[string]any{"quantity": units})
}
