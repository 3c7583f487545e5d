package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/valyala/fasthttp"
)

// client is the load generator, the same for every server that is measured.
type client struct {
	http fasthttp.HostClient
	url  string
}

func newClient(url string, connections int) *client {
	return &client{url: url, http: fasthttp.HostClient{
		Addr: url[len("http://"):], MaxConns: connections, ReadBufferSize: 16 << 10, MaxIdleConnDuration: time.Minute,
	}}
}

// do sends one request and returns the status and how many bytes of "needle" marks the
// answer has.
func (c *client) do(method, path, key string, body []byte, seen func(status int, body []byte)) error {
	req, res := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(res)
	req.SetRequestURI(c.url + path)
	req.Header.SetMethod(method)
	req.Header.SetContentType("application/json")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	req.SetBodyRaw(body)
	if err := c.http.Do(req, res); err != nil {
		return err
	}
	seen(res.StatusCode(), res.Body())
	return nil
}

// must sends a request that has to succeed.
func (c *client) must(method, path, key string, body any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	var failure error
	err = c.do(method, path, key, raw, func(status int, answer []byte) {
		if status >= 300 {
			failure = fmt.Errorf("%s %s: %d %s", method, path, status, answer)
		}
	})
	if err != nil {
		return err
	}
	return failure
}

// result of a load.
type result struct {
	accepted, refused int64
	rate              float64 // accepted a second
	latency           *hdrhistogram.Histogram
	refusedLatency    *hdrhistogram.Histogram
}

var keys atomic.Int64

// orders places single orders over the given number of connections until took is over.
// body makes the body of the n-th order. pause, where it is not nil, is called before
// each with the worker's number and returns when it should be sent.
func (c *client) orders(ctx context.Context, workers int, took time.Duration, body func(n int64) []byte, pause func(context.Context) error) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, took)
	defer cancel()
	var all result
	all.latency, all.refusedLatency = histogram(), histogram()
	var mu sync.Mutex
	var failure error
	var running sync.WaitGroup
	begin := time.Now()
	for range workers {
		running.Go(func() {
			mine := result{latency: histogram(), refusedLatency: histogram()}
			for ctx.Err() == nil {
				if pause != nil && pause(ctx) != nil {
					break
				}
				n := keys.Add(1)
				sent := time.Now()
				err := c.do("POST", "/v1/orders", "bench-"+strconv.FormatInt(n, 36)+"-"+strconv.FormatInt(begin.UnixNano(), 36), body(n),
					func(status int, answer []byte) {
						us := time.Since(sent).Microseconds()
						switch status {
						case 201:
							mine.accepted++
							_ = mine.latency.RecordValue(us) // beyond a minute does not happen
						case 429, 503, 409:
							mine.refused++
							_ = mine.refusedLatency.RecordValue(us)
						default:
							mu.Lock()
							failure = fmt.Errorf("order: %d %s", status, answer)
							mu.Unlock()
							cancel()
						}
					})
				if err != nil && ctx.Err() == nil {
					mu.Lock()
					failure = err
					mu.Unlock()
					cancel()
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all.accepted += mine.accepted
			all.refused += mine.refused
			all.latency.Merge(mine.latency)
			all.refusedLatency.Merge(mine.refusedLatency)
		})
	}
	running.Wait()
	all.rate = float64(all.accepted) / time.Since(begin).Seconds()
	return all, failure
}

func histogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, 60_000_000, 3) }

// ms formats a percentile in milliseconds.
func ms(h *hdrhistogram.Histogram, percentile float64) string {
	return fmt.Sprintf("%.1f", float64(h.ValueAtPercentile(percentile))/1000)
}

// stock puts SKUs into the server, each with plenty.
func (c *client) stock(skus ...string) error {
	for _, sku := range skus {
		err := c.must("PUT", "/v1/skus/"+sku, "", map[string]any{
			"title": "Bench " + sku, "unit_price": map[string]any{"amount": 185, "currency": "GBP"},
		})
		if err != nil {
			return err
		}
		if err := c.must("POST", "/v1/stock/"+sku+"/receipts", "receipt-"+sku, map[string]any{"quantity": 1_000_000_000}); err != nil {
			return err
		}
	}
	return nil
}

// hotOrder is one unit of the hot SKU for one of 100,000 customers.
func hotOrder(n int64) []byte {
	return fmt.Appendf(nil, `{"customer_id":"c-%d","lines":[{"sku":"HOT","quantity":1}],"hold_seconds":900}`, n%100_000)
}
