package app

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/penstockhq/penstock/api/gen/oas"
	"github.com/penstockhq/penstock/internal/gateway"
)

func headers(pairs ...string) http.Header {
	h := http.Header{"Content-Type": {"application/json"}}
	for i := 0; i < len(pairs); i += 2 {
		h[pairs[i]] = []string{pairs[i+1]}
	}
	return h
}

func TestEdge_EveryFailureIsAProblemWhoseTypeTheServerExplains(t *testing.T) {
	t.Parallel()
	r := start(t, vfs.NewMem(), nil)
	r.shop(map[string]int64{"A": 1})
	order := `{"customer_id":"c","lines":[{"sku":"A","quantity":1}]}`
	withKey := headers("Idempotency-Key", "k")
	for name, tc := range map[string]struct {
		method, path string
		header       http.Header
		body         string
		status       int
		slug         string
	}{
		"no such path":         {"GET", "/v2/x", nil, "", 404, "route-not-found"},
		"no such operation":    {"GET", "/v1/orders/a/b", nil, "", 404, "route-not-found"},
		"no such method":       {"DELETE", "/v1/orders", nil, "", 405, "method-not-allowed"},
		"method on a page":     {"POST", "/docs/", nil, "", 405, "method-not-allowed"},
		"broken JSON":          {"POST", "/v1/orders", withKey, `{"customer_id":`, 400, "malformed-body"},
		"not an object":        {"POST", "/v1/orders", withKey, `[]`, 400, "malformed-body"},
		"unknown field":        {"POST", "/v1/orders", withKey, `{"customer_id":"c","lines":[{"sku":"A","quantity":1}],"coupon":"x"}`, 400, "malformed-body"},
		"price from a client":  {"POST", "/v1/orders", withKey, `{"customer_id":"c","lines":[{"sku":"A","quantity":1,"unit_price":1}]}`, 400, "malformed-body"},
		"missing field":        {"POST", "/v1/orders", withKey, `{"customer_id":"c"}`, 400, "invalid-request"},
		"out of range":         {"POST", "/v1/orders", withKey, `{"customer_id":"c","lines":[{"sku":"A","quantity":1000001}]}`, 400, "invalid-request"},
		"fraction":             {"POST", "/v1/orders", withKey, `{"customer_id":"c","lines":[{"sku":"A","quantity":1.5}]}`, 400, "malformed-body"},
		"no lines":             {"POST", "/v1/orders", withKey, `{"customer_id":"c","lines":[]}`, 400, "invalid-request"},
		"control character":    {"POST", "/v1/orders", withKey, `{"customer_id":"a\u0000b","lines":[{"sku":"A","quantity":1}]}`, 400, "invalid-request"},
		"no key":               {"POST", "/v1/orders", headers(), order, 400, "invalid-request"},
		"long key":             {"POST", "/v1/orders", headers("Idempotency-Key", strings.Repeat("k", 256)), order, 400, "invalid-request"},
		"strange key":          {"POST", "/v1/orders", headers("Idempotency-Key", "naïve"), order, 400, "invalid-request"},
		"wrong media type":     {"POST", "/v1/orders", http.Header{"Content-Type": {"text/plain"}, "Idempotency-Key": {"k"}}, order, 415, "unsupported-media-type"},
		"large body":           {"POST", "/v1/orders", withKey, `{"customer_id":"` + strings.Repeat("c", 2<<20), 413, "body-too-large"},
		"unknown SKU in order": {"POST", "/v1/orders", withKey, `{"customer_id":"c","lines":[{"sku":"B","quantity":1}]}`, 422, "unknown-sku"},
		"no such order":        {"GET", "/v1/orders/ord_x", nil, "", 404, "order-not-found"},
		"pay no such order":    {"POST", "/v1/orders/ord_x/pay", headers(), `{"reference":"p"}`, 404, "order-not-found"},
		"no such reservation":  {"GET", "/v1/reservations/rsv_x", nil, "", 404, "reservation-not-found"},
		"no such SKU":          {"GET", "/v1/skus/B", nil, "", 404, "sku-not-found"},
		"stock of no SKU":      {"GET", "/v1/stock/B", nil, "", 404, "sku-not-found"},
		"receipt for no SKU":   {"POST", "/v1/stock/B/receipts", withKey, `{"quantity":1}`, 404, "sku-not-found"},
		"page size":            {"GET", "/v1/orders?page_size=1001", nil, "", 400, "invalid-request"},
		"page token":           {"GET", "/v1/orders?page_token=zzz", nil, "", 400, "invalid-request"},
		"unknown status":       {"GET", "/v1/orders?status=lost", nil, "", 400, "invalid-request"},
		"feed cursor":          {"GET", "/v1/events?after=zzz", nil, "", 400, "invalid-request"},
		"stream cursor":        {"GET", "/v1/events/stream", headers("Last-Event-Id", "zzz"), "", 400, "invalid-request"},
		"stale ETag":           {"PUT", "/v1/skus/A", headers("If-Match", `"7"`), `{"title":"t","unit_price":{"amount":1,"currency":"GBP"}}`, 412, "precondition-failed"},
		"exists already":       {"PUT", "/v1/skus/A", headers("If-None-Match", `*`), `{"title":"t","unit_price":{"amount":1,"currency":"GBP"}}`, 412, "precondition-failed"},
		"currency":             {"PUT", "/v1/skus/A", headers(), `{"title":"t","unit_price":{"amount":1,"currency":"gbp"}}`, 400, "invalid-request"},
		"negative price":       {"PUT", "/v1/skus/A", headers(), `{"title":"t","unit_price":{"amount":-1,"currency":"GBP"}}`, 400, "invalid-request"},
		"adjusted below zero":  {"POST", "/v1/stock/A/adjustments", withKey, `{"delta":-2,"reason":"x"}`, 409, "stock-held"},
		"adjusted by nothing":  {"POST", "/v1/stock/A/adjustments", withKey, `{"delta":0,"reason":"x"}`, 400, "invalid-request"},
		"no such problem":      {"GET", "/problems/nope", nil, "", 404, "route-not-found"},
		"import of rubbish":    {"POST", "/v1/skus/import", http.Header{"Content-Type": {"text/csv"}}, "a,b\n1,2\n", 400, "invalid-request"},
	} {
		status, media, body := r.get(tc.method, tc.path, tc.header, tc.body)
		var p oas.Problem
		if err := json.Unmarshal([]byte(body), &p); err != nil || media != "application/problem+json" {
			t.Errorf("%s: %d %s %s: %v", name, status, media, body, err)
			continue
		}
		if status != tc.status || p.Status != tc.status || p.Type != "/problems/"+tc.slug || p.Detail.Value == "" || p.Title == "" {
			t.Errorf("%s: got %d %+v, want %d %s", name, status, p, tc.status, tc.slug)
		}
		if status, media, page := r.get("GET", p.Type, http.Header{"Accept": {"text/html"}}, ""); status != 200 ||
			!strings.HasPrefix(media, "text/html") || !strings.Contains(page, p.Title) {
			t.Errorf("%s: %s is answered with %d %s", name, p.Type, status, media)
		}
	}
}

func TestEdge_PagesWorkWithoutANetwork(t *testing.T) {
	t.Parallel()
	r := start(t, vfs.NewMem(), nil)
	_, _, page := r.get("GET", "/docs/", nil, "")
	for _, asset := range []string{"swagger-ui.css", "swagger-ui-bundle.js"} {
		if status, _, body := r.get("GET", "/docs/"+asset, nil, ""); status != 200 || len(body) < 1000 {
			t.Errorf("%s: %d", asset, status)
		}
	}
	if strings.Contains(page, `="https://`) || strings.Contains(page, `="http://`) || !strings.Contains(page, "/openapi.yaml") {
		t.Error("the reference loads something from elsewhere, or not the contract")
	}
	if status, _, body := r.get("GET", "/openapi.yaml", nil, ""); status != 200 || !strings.Contains(body, "/v1/orders/batch") {
		t.Errorf("the contract: %d", status)
	}
	if status, _, body := r.get("GET", "/problems/", nil, ""); status != 200 || !strings.Contains(body, "insufficient-stock") {
		t.Errorf("the problems: %d", status)
	}
}

func TestEdge_RequestIDsComeBackAndStrangeOnesAreReplaced(t *testing.T) {
	t.Parallel()
	r := start(t, vfs.NewMem(), nil)
	for given, keeps := range map[string]bool{"abc-1": true, "": false, "has space": false, strings.Repeat("x", 65): false} {
		req := httptest.NewRequest(http.MethodGet, "/v1/orders", nil)
		req.Header.Set("X-Request-ID", given)
		res := httptest.NewRecorder()
		r.gateway.ServeHTTP(res, req)
		if got := res.Header().Get("X-Request-ID"); got == "" || (got == given) != keeps {
			t.Errorf("given %q, got %q", given, got)
		}
	}
}

func TestEdge_PastItsLimitTheServerRefusesAtOnceAndTellsWhenToComeBack(t *testing.T) {
	t.Parallel()
	d := newDisk()
	r := start(t, d.fs, func(c *Config) { c.Gateway = gateway.Config{MaxInFlight: 3} })
	r.shop(map[string]int64{"A": 100})
	release := d.stall(t)
	answers := make(chan error, 3)
	for n := range 3 {
		go func() { _, err := r.place(key(n), want("A", 1)); answers <- err }()
	}
	until(t, "three requests being worked on", func() bool { return r.gateway.InFlight() == 3 })
	_, err := r.place("one more", want("A", 1))
	if p := refused(t, err, 429, "too-many-requests"); p.RetryAfter.Value < 1 {
		t.Errorf("Retry-After is %+v", p.RetryAfter)
	}
	release()
	for range 3 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	if o := r.mustPlace("one more", want("A", 1)); o.Status != oas.OrderStatusReserved {
		t.Fatalf("got %+v", o)
	}
}

func TestEdge_SlowAndHalfOpenClientsAreCutAndHoldNobodyUp(t *testing.T) {
	t.Parallel()
	r := start(t, vfs.NewMem(), func(c *Config) {
		c.ReadTimeout = 200 * time.Millisecond
		c.Gateway = gateway.Config{MaxInFlight: 1}
	})
	r.shop(map[string]int64{"A": 100})
	var slow []net.Conn
	for _, begin := range []string{
		"", // says nothing
		"POST /v1/orders HT",
		"POST /v1/orders HTTP/1.1\r\nHost: x\r\nX-Slow: ",
		"POST /v1/orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nIdempotency-Key: slow\r\nContent-Length: 100\r\n\r\n{\"cust",
	} {
		c, err := net.Dial("tcp", r.HTTPAddr())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, begin); err != nil {
			t.Fatal(err)
		}
		slow = append(slow, c)
	}
	r.mustPlace("k", want("A", 1)) // there is only one place to work, and no slow client has it
	for i, c := range slow {
		// The server's deadline ends it; a server without one would keep this test for ever.
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("client %d: %v", i, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestEdge_HugeHeadersAreRefused(t *testing.T) {
	t.Parallel()
	r := start(t, vfs.NewMem(), nil)
	c, err := net.Dial("tcp", r.HTTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	// Without the end of the head: the server must not read on for ever.
	if _, err := io.WriteString(c, "GET /v1/orders HTTP/1.1\r\nHost: x\r\nX-Huge: "+strings.Repeat("x", 21<<10)); err != nil {
		t.Fatal(err)
	}
	answer, err := bufio.NewReader(c).ReadString('\n')
	if !strings.Contains(answer, "431") {
		t.Fatalf("got %q, %v", answer, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestEdge_AClientThatGoesAwayLeavesAWholeOrderOrNone(t *testing.T) {
	t.Parallel()
	d := newDisk()
	r := start(t, d.fs, nil)
	r.shop(map[string]int64{"A": 10})
	release := d.stall(t)
	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan error, 1)
	go func() {
		_, err := r.client.PlaceOrder(ctx, want("A", 1), oas.PlaceOrderParams{IdempotencyKey: "k"})
		gone <- err
	}()
	until(t, "the request being decided", func() bool { return r.active() == 1 })
	cancel()
	<-gone
	release()
	until(t, "the abandoned request's end", func() bool { return r.gateway.InFlight() == 0 })
	o := r.mustPlace("k", want("A", 1))
	if l := r.level("A"); l.Reserved != 1 || o.Status != oas.OrderStatusReserved {
		t.Fatalf("got %+v, %+v", l, o)
	}
	r.verified()
}

func TestEvents_TheStreamGoesOnWhereItBrokeOffAndEndsWithTheServer(t *testing.T) {
	t.Parallel()
	r := start(t, vfs.NewMem(), nil)
	r.shop(map[string]int64{"A": 1})
	o := r.mustPlace("k", want("A", 1))
	if _, err := r.pay(o.ID, "p"); err != nil {
		t.Fatal(err)
	}
	next := r.stream("")
	want := []string{"io.penstock.stock.available", "io.penstock.stock.depleted", "io.penstock.order.reserved", "io.penstock.order.paid"}
	seen := map[string]bool{}
	cursor := ""
	for range want {
		id, kind := next()
		seen[kind] = true
		if cursor == "" {
			cursor = id
		}
	}
	for _, kind := range want {
		if !seen[kind] {
			t.Errorf("no %s among %v", kind, seen)
		}
	}
	resumed := r.stream(cursor)
	for range len(want) - 1 {
		resumed()
	}
	r.mustPlaceLater()
	if _, kind := resumed(); kind != "io.penstock.stock.available" {
		t.Fatalf("got %s", kind)
	}
	r.stop() // must not wait for the streams for ever
	if id, kind := next(); id != "" && kind == "" {
		t.Fatal("the stream did not end")
	}
}

// mustPlaceLater makes one more event.
func (r *run) mustPlaceLater() {
	r.t.Helper()
	_, err := r.client.ReceiveStock(context.Background(), &oas.StockReceipt{Quantity: 1}, oas.ReceiveStockParams{Sku: "A", IdempotencyKey: "later"})
	if err != nil {
		r.t.Fatal(err)
	}
}

// stream opens the event stream and returns a function that returns the next event's
// cursor and type, both empty when it has ended.
func (r *run) stream(last string) func() (id, kind string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+r.HTTPAddr()+"/v1/events/stream", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	res, err := r.http.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = res.Body.Close() })
	lines := bufio.NewScanner(res.Body)
	return func() (id, kind string) {
		for lines.Scan() {
			switch line := lines.Text(); {
			case strings.HasPrefix(line, "id: "):
				id = line[4:]
			case strings.HasPrefix(line, "event: "):
				kind = line[7:]
			case strings.HasPrefix(line, "data: "):
				var e struct {
					SpecVersion string `json:"specversion"`
					ID          string `json:"id"`
					Type        string `json:"type"`
				}
				if err := json.Unmarshal([]byte(line[6:]), &e); err != nil || e.SpecVersion != "1.0" || e.Type != kind || e.ID == "" {
					r.t.Errorf("%s: %+v, %v", line, e, err)
				}
			case line == "" && kind != "":
				return id, kind
			}
		}
		return "", ""
	}
}

func FuzzPlaceOrder(f *testing.F) {
	r := start(f, vfs.NewMem(), nil)
	r.shop(map[string]int64{"A": 1000})
	f.Add("k", `{"customer_id":"c","lines":[{"sku":"A","quantity":1}],"hold_seconds":1}`)
	f.Add("", `{}`)
	f.Add("k\x00", `{"customer_id":"\ud800","lines":[{"sku":"","quantity":1e99}]}`)
	f.Add("z", `{"orders":[{"idempotency_key":"","customer_id":"","lines":[{"sku":"A","quantity":-1}],"hold_seconds":-9223372036854775808}]}`)
	f.Fuzz(func(t *testing.T, key, body string) {
		for _, path := range []string{"/v1/orders", "/v1/orders/batch"} {
			req := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
			req.Header["Content-Type"] = []string{"application/json"}
			req.Header["Idempotency-Key"] = []string{key}
			res := httptest.NewRecorder()
			r.gateway.ServeHTTP(res, req)
			if res.Code >= 500 || !json.Valid(res.Body.Bytes()) {
				t.Fatalf("%s: %d %s", path, res.Code, res.Body)
			}
		}
	})
}
