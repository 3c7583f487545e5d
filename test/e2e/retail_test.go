package e2e

import (
	"cmp"
	"context"
	"encoding/csv"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/penstockhq/penstock/api/gen/oas"
	"github.com/penstockhq/penstock/internal/testkit"
)

// retailLine is a line of the file; see test/testdata/README.md for what its dirt means.
type retailLine struct {
	invoice, sku, title, customer string
	quantity, pence               int64
}

func (l retailLine) taken() bool { return strings.HasPrefix(l.invoice, "C") }

// services are codes without goods.
var services = []string{"POST", "DOT", "C2", "D", "M", "S", "AMAZONFEE", "BANK_CHARGES"}

func readRetail(t *testing.T) []retailLine {
	t.Helper()
	f, err := os.Open("../testdata/online-retail-10k.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	records, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var lines []retailLine
	for _, r := range records[1:] {
		quantity, err := strconv.ParseInt(r[3], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		price, err := strconv.ParseFloat(r[5], 64)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, retailLine{
			invoice: r[0], sku: strings.ReplaceAll(r[1], " ", "_"), title: r[2], quantity: quantity,
			pence: int64(math.Round(price * 100)), customer: cmp.Or(strings.TrimSuffix(r[6], ".0"), "guest"),
		})
	}
	return lines
}

// price is the price on most lines of a SKU, the lowest of several such; 0 only where
// there is no other.
func price(lines []retailLine) int64 {
	seen := map[int64]int{}
	for _, l := range lines {
		if l.pence > 0 {
			seen[l.pence]++
		}
	}
	best := int64(0)
	for _, p := range slices.Sorted(maps.Keys(seen)) {
		if seen[p] > seen[best] {
			best = p
		}
	}
	return best
}

// catalogueFile writes the catalogue as CSV and returns the file and the prices.
func catalogueFile(t *testing.T, lines []retailLine) (string, map[string]int64) {
	t.Helper()
	bySKU, prices := map[string][]retailLine{}, map[string]int64{}
	for _, l := range lines {
		bySKU[l.sku] = append(bySKU[l.sku], l)
	}
	file := filepath.Join(t.TempDir(), "catalogue.csv")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	w := csv.NewWriter(f)
	err = w.Write([]string{"sku", "title", "amount", "currency", "policy"})
	for sku, of := range bySKU {
		prices[sku] = price(of)
		policy := "reserve"
		if slices.Contains(services, sku) {
			policy = "untracked"
		}
		if err == nil {
			err = w.Write([]string{sku, of[0].title, strconv.FormatInt(prices[sku], 10), "GBP", policy})
		}
	}
	w.Flush()
	for _, e := range []error{err, w.Error(), f.Close()} {
		if e != nil {
			t.Fatal(e)
		}
	}
	return file, prices
}

// invoices groups lines, in the order of the file.
func invoices(lines []retailLine) [][]retailLine {
	var out [][]retailLine
	for _, l := range lines {
		if n := len(out); n > 0 && out[n-1][0].invoice == l.invoice {
			out[n-1] = append(out[n-1], l)
		} else {
			out = append(out, []retailLine{l})
		}
	}
	return out
}

// amendments finds for each invoice that takes goods back the last earlier invoice of
// the same customer that has all of them, if there is one; by invoice number, both ways.
func amendments(all [][]retailLine) (order, by map[string]string) {
	order, by = map[string]string{}, map[string]string{}
	for i, taken := range all {
		if !taken[0].taken() || taken[0].customer == "guest" {
			continue
		}
		for _, sold := range slices.Backward(all[:i]) {
			id := sold[0].invoice
			if sold[0].customer == taken[0].customer && by[id] == "" && !sold[0].taken() && remainder(sold, taken) != nil {
				order[taken[0].invoice], by[id] = id, taken[0].invoice
				break
			}
		}
	}
	return order, by
}

// remainder returns the lines of sold without what is taken back, nil if sold does not
// have all of that.
func remainder(sold, taken []retailLine) []retailLine {
	rest := slices.Clone(sold)
	for _, back := range taken {
		i := slices.IndexFunc(rest, func(l retailLine) bool { return l.sku == back.sku && l.quantity >= -back.quantity })
		if i < 0 {
			return nil
		}
		rest[i].quantity += back.quantity
	}
	return rest
}

// TestRetail_RealInvoicesEndWithTheBalancesOfTheFile replays 512 invoices as orders,
// cancellations and returns.
func TestRetail_RealInvoicesEndWithTheBalancesOfTheFile(t *testing.T) {
	t.Parallel()
	t.Run("folder", func(t *testing.T) {
		t.Parallel()
		storage := []string{"--data", t.TempDir() + "/data"}
		replayRetail(t, storage, storage)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		url := testkit.Database(t)
		replayRetail(t, []string{"--store", "postgres", "--postgres", url}, []string{"--postgres", url})
	})
}

// replayRetail runs the test with the flags that tell serve and verify where the data is.
func replayRetail(t *testing.T, storage, audited []string) {
	t.Helper()
	lines := readRetail(t)
	s := serveOn(t, storage...)
	file, prices := catalogueFile(t, lines)
	out, errOut, code := penstock(t, nil, "import", file, "--url", s.url)
	if code != 0 || len(prices) != 2015 {
		t.Fatalf("import of %d codes exits %d:\n%s%s", len(prices), code, out, errOut)
	}
	contains(t, "import", out, "2015 SKUs imported, 0 lines failed")

	// Straight from the file: what must have been there at the start, and what is left.
	opening, left := map[string]int64{}, map[string]int64{}
	for _, l := range lines {
		if slices.Contains(services, l.sku) {
			continue
		}
		left[l.sku] += 0
		switch {
		case l.quantity > 0:
			opening[l.sku] += l.quantity
		case l.taken():
			left[l.sku] -= l.quantity
		default:
			opening[l.sku] -= l.quantity
		}
	}
	shop := retailShop{t: t, s: s, prices: prices, waiting: map[string]string{}, sold: map[string][]retailLine{}}
	for sku, units := range opening {
		shop.book(s.client.ReceiveStock(t.Context(), &oas.StockReceipt{Quantity: units, Reference: oas.NewOptString("opening")},
			oas.ReceiveStockParams{Sku: oas.SKUCode(sku), IdempotencyKey: "opening-" + sku}))
	}
	all := invoices(lines)
	shop.amended, shop.amendedBy = amendments(all)
	for _, invoice := range all {
		shop.replay(invoice)
	}
	t.Logf("%d invoices: %d orders paid, %d cancelled, %d returns, %d write-offs",
		len(all), shop.paid, shop.cancelled, shop.returned, shop.writtenOff)
	if len(all) != 512 || shop.paid == 0 || shop.cancelled == 0 || shop.returned == 0 || shop.writtenOff == 0 {
		t.Fatal("the file does not have what the test is about")
	}
	shop.compare(left)
	s.terminate()
	verifyOn(t, audited...)
}

// retailShop replays invoices.
type retailShop struct {
	t                  *testing.T
	s                  *server
	prices             map[string]int64
	amended, amendedBy map[string]string       // see amendments
	waiting            map[string]string       // order that will be amended, by its invoice
	sold               map[string][]retailLine // its lines
	count              int

	paid, cancelled, returned, writtenOff int
}

func (r *retailShop) book(_ *oas.StockLevelHeaders, err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *retailShop) replay(invoice []retailLine) {
	r.t.Helper()
	if invoice[0].taken() {
		r.takeBack(invoice)
		return
	}
	id := r.place(invoice[0].invoice, invoice)
	switch {
	case id == "":
	case r.amendedBy[invoice[0].invoice] != "":
		r.waiting[invoice[0].invoice], r.sold[invoice[0].invoice] = id, invoice
	default:
		r.pay(id)
	}
}

// place orders the lines of an invoice; "" when it has none to order.
func (r *retailShop) place(key string, invoice []retailLine) string {
	r.t.Helper()
	order := &oas.PlaceOrder{CustomerID: "c-" + invoice[0].customer, HoldSeconds: oas.NewOptInt64(3600)}
	total := int64(0)
	for _, l := range invoice {
		if l.quantity == 0 {
			continue // amended away
		}
		if l.quantity < 0 {
			r.adjust(l, "write-off")
			r.writtenOff++
			continue
		}
		order.Lines = append(order.Lines, oas.PlaceOrderLine{Sku: oas.SKUCode(l.sku), Quantity: oas.Quantity(l.quantity)})
		total += l.quantity * r.prices[l.sku]
	}
	if len(order.Lines) == 0 {
		return ""
	}
	placed, err := r.s.client.PlaceOrder(context.Background(), order, oas.PlaceOrderParams{IdempotencyKey: key})
	if err != nil {
		r.t.Fatalf("invoice %s: %v", invoice[0].invoice, err)
	}
	if got := placed.Response.Total; got.Amount != total || got.Currency != "GBP" {
		r.t.Fatalf("invoice %s costs %+v, want %d", invoice[0].invoice, got, total)
	}
	return placed.Response.ID
}

func (r *retailShop) pay(id string) {
	r.t.Helper()
	if _, err := r.s.client.PayOrder(context.Background(), &oas.PayOrder{Reference: "card"}, oas.PayOrderParams{ID: id}); err != nil {
		r.t.Fatal(err)
	}
	r.paid++
}

// takeBack cancels the order that the invoice amends and places what remains of it
// anew, or books a return.
func (r *retailShop) takeBack(invoice []retailLine) {
	r.t.Helper()
	if first := r.amended[invoice[0].invoice]; first != "" {
		if _, err := r.s.client.CancelOrder(context.Background(), oas.CancelOrderParams{ID: r.waiting[first]}); err != nil {
			r.t.Fatal(err)
		}
		r.cancelled++
		if id := r.place(first+"-amended", remainder(r.sold[first], invoice)); id != "" {
			r.pay(id)
		}
		return
	}
	for _, l := range invoice {
		r.adjust(l, "return")
		r.returned++
	}
}

func (r *retailShop) adjust(l retailLine, reason string) {
	r.t.Helper()
	delta := l.quantity
	if reason == "return" {
		delta = -delta
	}
	r.count++
	r.book(r.s.client.AdjustStock(context.Background(), &oas.StockAdjustment{
		Delta: delta, Reason: reason, Reference: oas.NewOptString(l.invoice),
	}, oas.AdjustStockParams{Sku: oas.SKUCode(l.sku), IdempotencyKey: fmt.Sprintf("%s-%d", l.invoice, r.count)}))
}

// compare checks every balance.
func (r *retailShop) compare(want map[string]int64) {
	r.t.Helper()
	got := map[string]int64{}
	params := oas.ListStockParams{PageSize: oas.NewOptInt(500)}
	for {
		page, err := r.s.client.ListStock(context.Background(), params)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, l := range page.Levels {
			if l.Reserved != 0 {
				r.t.Errorf("%s has %d reserved", l.Sku, l.Reserved)
			}
			if !slices.Contains(services, l.Sku) {
				got[l.Sku] = l.OnHand
			}
		}
		if !page.NextPageToken.Set {
			break
		}
		params.PageToken = page.NextPageToken
	}
	for sku, units := range want {
		if got[sku] != units {
			r.t.Errorf("%s has %d on hand; the file gives %d", sku, got[sku], units)
		}
	}
	if len(got) > len(want) {
		r.t.Errorf("%d SKUs have stock, the file has %d", len(got), len(want))
	}
}
