// Package demo drives a flash sale through a server's REST API and checks, from what
// customers were told and from what is stored, that every promise held. It knows the
// server only by its address: everything goes through the generated client.
package demo

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/penstockhq/penstock/api/gen/oas"
)

// Config of a sale. The zero value is ready for use but for URL.
type Config struct {
	// URL is the server's API.
	URL string
	// Buyers is how many customers come. Defaults to 50000.
	Buyers int
	// Units is the stock of the hot SKU. Defaults to 10000.
	Units int
	// Connections is how many requests are under way at once. Defaults to 256.
	Connections int
	// Seed makes the buyers' choices repeatable. Defaults to 1.
	Seed uint64
	// Verify audits the stored data and returns how much was oversold and what
	// disagrees.
	Verify func(ctx context.Context) (oversold int64, problems []string, err error)
	// Progress is told now and then how the sale goes. Defaults to nothing.
	Progress func(Progress)
}

// Progress is how a sale goes.
type Progress struct {
	Phase                             string
	Done, Buyers                      int64
	Accepted, Refused, Paid, Replayed int64
}

// Result is the outcome of a sale. Its JSON is what `penstock demo --json` prints.
type Result struct {
	Buyers       int64    `json:"buyers"`
	Units        int64    `json:"units"`
	Accepted     int64    `json:"accepted"`
	Refused      int64    `json:"refused"`
	Replayed     int64    `json:"replayed"`
	KeyRefused   int64    `json:"key_reuse_refused"`
	Cancelled    int64    `json:"cancelled"`
	Expired      int64    `json:"expired"`
	Resold       int64    `json:"resold"`
	Paid         int64    `json:"paid"`
	HotSold      int64    `json:"hot_units_sold"`
	Oversold     int64    `json:"oversold"`
	Duplicates   int64    `json:"duplicates"`
	Lost         int64    `json:"lost"`
	Seconds      float64  `json:"seconds"`
	Rate         float64  `json:"orders_per_second"`
	P50          float64  `json:"p50_ms"`
	P99          float64  `json:"p99_ms"`
	P999         float64  `json:"p99_9_ms"`
	RefusedP50   float64  `json:"refused_p50_ms"`
	RefusedP99   float64  `json:"refused_p99_ms"`
	RefusedP999  float64  `json:"refused_p99_9_ms"`
	VerifyOK     bool     `json:"verify_ok"`
	OK           bool     `json:"ok"`
	Broken       []string `json:"broken_promises"`
	VerifyIssues []string `json:"verify_problems"`
}

const (
	hotSKU    = "85123A"
	tailSKUs  = 2000
	tailStock = 40 // units of each SKU of the tail
	holdShort = 2  // seconds that those hold who will not pay
)

// Run stocks the shop, lets the buyers in, sells again what was given back, and checks.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	cfg.Buyers = cmp.Or(cfg.Buyers, 50_000)
	cfg.Units = cmp.Or(cfg.Units, 10_000)
	cfg.Connections = cmp.Or(cfg.Connections, 256)
	cfg.Seed = cmp.Or(cfg.Seed, 1)
	if cfg.Progress == nil {
		cfg.Progress = func(Progress) {}
	}
	s, err := newSale(cfg)
	if err != nil {
		return nil, err
	}
	defer s.transport.CloseIdleConnections()
	stop := s.report()
	defer stop()
	for _, phase := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"stocking the shop", s.stock},
		{"sale", s.rush},
		{"selling again what was given back", s.sellRest},
		{"reading back every order", s.readBack},
		{"verifying stored data", s.verify},
	} {
		s.phase.Store(&phase.name)
		if err := phase.run(ctx); err != nil {
			return nil, fmt.Errorf("demo, %s: %w", phase.name, err)
		}
	}
	return s.result(), nil
}

// sale is one run.
type sale struct {
	cfg       Config
	client    *oas.Client
	transport *http.Transport
	counts    counts
	books     books
	accepted  *latencies
	refused   *latencies
	phase     atomic.Pointer[string]
	took      time.Duration // of the rush
	rushed    int64         // accepted in the rush
	outcome   Result
}

// counts is what happened, as customers saw it.
type counts struct {
	done, accepted, refused, replayed, keyRefused, paid, cancelled, resold atomic.Int64
}

func newSale(cfg Config) (*sale, error) {
	transport := &http.Transport{
		MaxIdleConns: cfg.Connections, MaxIdleConnsPerHost: cfg.Connections, MaxConnsPerHost: cfg.Connections,
		DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
	}
	client, err := oas.NewClient(cfg.URL, oas.WithClient(&http.Client{Transport: transport, Timeout: time.Minute}))
	if err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	s := &sale{cfg: cfg, client: client, transport: transport, accepted: newLatencies(), refused: newLatencies()}
	s.books.orders = map[string]*bought{}
	s.phase.Store(new("starting"))
	return s, nil
}

// report tells how the sale goes until the returned function is called.
func (s *sale) report() (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				c := &s.counts
				s.cfg.Progress(Progress{
					Phase: *s.phase.Load(), Done: c.done.Load(), Buyers: int64(s.cfg.Buyers), Accepted: c.accepted.Load(),
					Refused: c.refused.Load(), Paid: c.paid.Load(), Replayed: c.replayed.Load(),
				})
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// stock imports the catalogue and books the stock.
func (s *sale) stock(ctx context.Context) error {
	var lines bytes.Buffer
	write := json.NewEncoder(&lines)
	put := func(sku, title string, amount int64) error {
		return write.Encode(map[string]any{
			"sku": sku, "title": title, "unit_price": map[string]any{"amount": amount, "currency": "GBP"},
		})
	}
	err := put(hotSKU, "WHITE HANGING HEART T-LIGHT HOLDER", 255)
	for i := range tailSKUs {
		err = errors.Join(err, put(tailSKU(i), fmt.Sprintf("SHOP ITEM %d", i), int64(85+i%900)))
	}
	if err != nil {
		return fmt.Errorf("write the catalogue: %w", err)
	}
	report, err := s.client.ImportSKUs(ctx, &oas.ImportSKUsReqApplicationXNdjson{Data: &lines})
	if err != nil {
		return fmt.Errorf("import SKUs: %w", err)
	}
	if report.Imported != tailSKUs+1 {
		return fmt.Errorf("%d of %d SKUs were imported", report.Imported, tailSKUs+1)
	}
	return s.parallel(ctx, tailSKUs+1, func(ctx context.Context, i int) error {
		sku, quantity := hotSKU, int64(s.cfg.Units)
		if i > 0 {
			sku, quantity = tailSKU(i-1), tailStock
		}
		_, err := patiently(ctx, func() (*oas.StockLevelHeaders, error) {
			return s.client.ReceiveStock(ctx, &oas.StockReceipt{Quantity: quantity, Reference: oas.NewOptString("po-1")},
				oas.ReceiveStockParams{Sku: oas.SKUCode(sku), IdempotencyKey: "po-1-" + sku})
		})
		return err
	})
}

func tailSKU(i int) string { return fmt.Sprintf("T%05d", i) }

// verify has the server audit itself.
func (s *sale) verify(ctx context.Context) error {
	oversold, problems, err := s.cfg.Verify(ctx)
	if err != nil {
		return err
	}
	s.outcome.Oversold += oversold
	s.outcome.VerifyOK = len(problems) == 0
	s.outcome.VerifyIssues = append([]string{}, problems...)
	return nil
}

// result sums up, and names every promise that did not hold.
func (s *sale) result() *Result {
	r := &s.outcome
	c := &s.counts
	r.Buyers, r.Units = int64(s.cfg.Buyers), int64(s.cfg.Units)
	r.Accepted, r.Refused, r.Replayed, r.KeyRefused = c.accepted.Load(), c.refused.Load(), c.replayed.Load(), c.keyRefused.Load()
	r.Paid, r.Cancelled, r.Resold = c.paid.Load(), c.cancelled.Load(), c.resold.Load()
	r.Seconds = s.took.Seconds()
	r.Rate = float64(s.rushed) / max(r.Seconds, 0.001)
	r.P50, r.P99, r.P999 = s.accepted.milliseconds()
	r.RefusedP50, r.RefusedP99, r.RefusedP999 = s.refused.milliseconds()
	r.Broken = append([]string{}, s.books.broken...)
	check := func(ok bool, format string, args ...any) {
		if !ok {
			r.Broken = append(r.Broken, fmt.Sprintf(format, args...))
		}
	}
	r.Oversold += max(r.HotSold-r.Units, 0)
	check(r.Oversold == 0, "%d units were oversold", r.Oversold)
	check(r.Duplicates == 0, "%d orders were made twice", r.Duplicates)
	check(r.Lost == 0, "%d acknowledged orders or payments are not stored", r.Lost)
	check(r.VerifyOK, "verify found %d things that disagree", len(r.VerifyIssues))
	r.OK = len(r.Broken) == 0
	return r
}

// Print writes r as a table.
func (r *Result) Print(w io.Writer) error {
	verdict := "every promise held"
	if !r.OK {
		verdict = "BROKEN: " + strings.Join(r.Broken, "; ")
	}
	verified := "everything agrees"
	if !r.VerifyOK {
		verified = strings.Join(r.VerifyIssues, "\n              ")
	}
	_, err := fmt.Fprintf(w, `
  buyers      %8d   for %d units of one hot SKU and a tail of %d SKUs
  accepted    %8d   %.0f accepted orders/s in %.1f s
  refused     %8d   sold out, told so at once
  replayed    %8d   the same request again gave the same order
  key reused  %8d   the same key with another body was refused
  cancelled   %8d
  expired     %8d   not paid in time; their stock went back
  resold      %8d   orders that took stock which had been given back
  paid        %8d
  oversold    %8d
  duplicates  %8d
  lost        %8d

  latency, ms      p50      p99    p99.9
  accepted    %8.1f %8.1f %8.1f
  refused     %8.1f %8.1f %8.1f

  verify      %s
  verdict     %s
`, r.Buyers, r.Units, tailSKUs, r.Accepted, r.Rate, r.Seconds, r.Refused, r.Replayed, r.KeyRefused, r.Cancelled, r.Expired,
		r.Resold, r.Paid, r.Oversold, r.Duplicates, r.Lost, r.P50, r.P99, r.P999, r.RefusedP50, r.RefusedP99, r.RefusedP999,
		verified, verdict)
	return err
}

// latencies is a histogram that many may record into.
type latencies struct {
	mu   sync.Mutex
	hist *hdrhistogram.Histogram
}

func newLatencies() *latencies {
	return &latencies{hist: hdrhistogram.New(1, 120_000_000, 3)}
}

func (l *latencies) record(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.hist.RecordValue(d.Microseconds()) // longer than two minutes does not happen: the client gives up before
}

func (l *latencies) milliseconds() (p50, p99, p999 float64) {
	at := func(p float64) float64 { return float64(l.hist.ValueAtPercentile(p)) / 1000 }
	return at(50), at(99), at(99.9)
}
