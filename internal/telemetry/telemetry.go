// Package telemetry is how operators see a process: its log, its metrics and its
// operational port. Nothing in it is global: registries and loggers are handed in.
package telemetry

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"regexp"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/penstockhq/penstock/internal/groupcommit"
)

// maxPending bounds the log lines that wait to be written, in bytes.
const maxPending = 4 << 20

// Writer hands lines to another writer from a goroutine of its own, so that a request
// never waits for a slow log. Past 4 MiB of waiting lines further ones are dropped and
// counted. Close writes everything that waits.
type Writer struct {
	to io.Writer

	mu      sync.Mutex
	pending bytes.Buffer
	dropped int
	closed  bool
	wake    chan struct{}
	done    chan struct{}
}

// NewWriter starts a Writer in front of to.
func NewWriter(to io.Writer) *Writer {
	w := &Writer{to: to, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go w.run()
	return w
}

// Write takes a line; it never fails.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	switch {
	case w.closed:
		w.mu.Unlock()
		_, err := w.to.Write(p)
		return len(p), err
	case w.pending.Len()+len(p) > maxPending:
		w.dropped++
	default:
		w.pending.Write(p)
	}
	w.mu.Unlock()
	w.poke()
	return len(p), nil
}

// Close writes what waits and ends the goroutine. Later lines are written directly.
func (w *Writer) Close() error {
	w.mu.Lock()
	already := w.closed
	w.closed = true
	w.mu.Unlock()
	if !already {
		w.poke()
	}
	<-w.done
	return nil
}

func (w *Writer) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *Writer) run() {
	defer close(w.done)
	var spare bytes.Buffer
	for {
		w.mu.Lock()
		spare, w.pending = w.pending, spare
		dropped, closed := w.dropped, w.closed
		w.dropped = 0
		w.mu.Unlock()
		if spare.Len() > 0 {
			_, _ = w.to.Write(spare.Bytes()) // there is nowhere to say that the log is broken
			spare.Reset()
		}
		if dropped > 0 {
			slog.New(slog.NewJSONHandler(w.to, nil)).Warn("log: lines were dropped because they came too fast", "lines", dropped)
		}
		if closed {
			return
		}
		<-w.wake
	}
}

// NewLogger returns a logger of JSON lines to w, from the given level on.
func NewLogger(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
}

// NewRegistry returns a registry with the metrics of the Go runtime and the process.
func NewRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(
			collectors.MetricsScheduler, // how long goroutines wait for a core
			collectors.GoRuntimeMetricsRule{Matcher: regexp.MustCompile(`^/(sync/mutex/wait/total:seconds|cpu/classes/(gc/)?total:cpu-seconds)$`)},
		)),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return r
}

// Batches returns a groupcommit.Config.OnBatch that measures the named store's batches.
func Batches(registry prometheus.Registerer, store string) func(groupcommit.BatchStats) {
	labels := prometheus.Labels{"store": store}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: name, Help: help, ConstLabels: labels, Buckets: buckets,
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100,
		})
		registry.MustRegister(h)
		return h
	}
	times := prometheus.ExponentialBuckets(0.0001, 2, 16)
	size := histogram("penstock_groupcommit_batch_requests", "Requests in one commit.", prometheus.ExponentialBuckets(1, 2, 14))
	wait := histogram("penstock_groupcommit_queue_wait_seconds", "Longest wait in the queue of each batch.", times)
	apply := histogram("penstock_groupcommit_apply_seconds", "Time to decide and encode a batch.", times)
	commit := histogram("penstock_groupcommit_commit_seconds", "Time until a decided batch was durable.", times)
	return func(s groupcommit.BatchStats) {
		size.Observe(float64(s.Requests))
		wait.Observe(s.QueueWait.Seconds())
		apply.Observe(s.Apply.Seconds())
		commit.Observe(s.Commit.Seconds())
	}
}

// Gauge registers a gauge whose value is asked for when metrics are read.
func Gauge(registry prometheus.Registerer, name, help string, labels prometheus.Labels, value func() float64) {
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, value))
}

// Ops returns the handler of the operational port. ready returns why the process
// should get no requests, nil when it should.
func Ops(registry *prometheus.Registry, ready func() error) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			answer(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		answer(w, http.StatusOK, "ready")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{Registry: registry}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n") // the client is gone if this fails
}
