// Package gateway is the HTTP edge: it puts the services' REST operations behind
// limits and gives every failure the same face. It knows no business.
//
// A request passes, in this order: request ID and recovery from panics; a look
// whether the server is full or the cores are (shedder.go); reading the body, so that a slow client holds a
// connection but no place among the working requests; taking such a place, or 429;
// the generated router. What a reader would get wrong: reading the body happens here,
// not in the generated code, which finds it in memory; and there is no deadline here:
// the only thing that a request waits for is a group commit, which has one of its own
// (groupcommit.Config.StallAfter).
package gateway

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/penstockhq/penstock/api/gen/oas"
	"github.com/penstockhq/penstock/guard"
	"github.com/penstockhq/penstock/internal/event"
	"github.com/penstockhq/penstock/internal/fault"
	"github.com/penstockhq/penstock/internal/id"
	"github.com/penstockhq/penstock/internal/problem"
)

// Config of a Gateway. The zero value is ready for use.
type Config struct {
	// MaxInFlight is how many requests are worked on at once; the next is refused
	// with 429. Defaults to 128 for each core: more would wait longer for the cores
	// than the work takes.
	MaxInFlight int
	// MaxWait is how long requests may wait before they are looked at; beyond it a share
	// of new work is refused with 429. Negative never refuses for it. Defaults to 8 ms.
	MaxWait time.Duration
	// MaxBody is the largest body, in bytes. Defaults to 1 MiB.
	MaxBody int64
	// MaxBatchBody is the largest body of a batch of orders. Defaults to 32 MiB.
	MaxBatchBody int64
	// MaxImportBody is the largest import. Defaults to 1 GiB.
	MaxImportBody int64
	// MaxStreams is how many event streams may be open. Defaults to 256.
	MaxStreams int
	// IdleTimeout is how long an import or an event stream may stand still before it
	// is cut. Defaults to 30 s.
	IdleTimeout time.Duration
	// Logger gets failures. Defaults to none.
	Logger *slog.Logger
	// Registry gets the gateway's metrics. Defaults to none.
	Registry prometheus.Registerer
	// Guard watches a share of the requests for goroutines that they leave behind.
	// Defaults to none.
	Guard *guard.Guard
	// OpenAPI is the contract, in YAML, for /openapi.yaml and /docs.
	OpenAPI []byte
}

func (c Config) withDefaults() Config {
	c.MaxInFlight = cmp.Or(c.MaxInFlight, 128*runtime.GOMAXPROCS(0))
	c.MaxWait = cmp.Or(c.MaxWait, 8*time.Millisecond)
	c.MaxBody = cmp.Or(c.MaxBody, 1<<20)
	c.MaxBatchBody = cmp.Or(c.MaxBatchBody, 32<<20)
	c.MaxImportBody = cmp.Or(c.MaxImportBody, 1<<30)
	c.MaxStreams = cmp.Or(c.MaxStreams, 256)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, 30*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Gateway is an http.Handler.
type Gateway struct {
	cfg      Config
	feed     *event.Feed
	api      *oas.Server
	mux      *http.ServeMux
	metrics  *metrics
	shed     *shedder // nil for none
	labels   sync.Map // route → context with its pprof labels
	refusals *rate.Limiter
	inFlight atomic.Int64
	// manyInFlight is from how many requests on shedding helps: the wait that a few
	// heavy ones make is their own.
	manyInFlight int64
	streams      atomic.Int64
	buffers      sync.Pool
	closing      context.Context //nolint:containedctx // ends the event streams, which outlive any one call
	close        context.CancelFunc
}

const (
	refusalsPerSecond = 2000 // for each core: some 5 % of its time
	maxRefusalWait    = time.Second

	pathBatch  = "/v1/orders/batch"
	pathImport = "/v1/skus/import"
	pathStream = "/v1/events/stream"
)

// New returns a Gateway that serves ops and feed.
func New(cfg Config, ops oas.Handler, feed *event.Feed) (*Gateway, error) {
	g := &Gateway{cfg: cfg.withDefaults(), feed: feed, mux: http.NewServeMux()}
	g.buffers.New = func() any { return new(bytes.Buffer) }
	g.metrics = newMetrics(g.cfg.Registry)
	if g.cfg.MaxWait > 0 {
		var err error
		if g.shed, err = startShedder(g.cfg.MaxWait); err != nil {
			return nil, err
		}
	}
	g.refusals = rate.NewLimiter(rate.Limit(refusalsPerSecond*runtime.GOMAXPROCS(0)), refusalsPerSecond/10)
	g.manyInFlight = int64(min(8*runtime.GOMAXPROCS(0), g.cfg.MaxInFlight/4))
	g.closing, g.close = context.WithCancel(context.Background())
	var err error
	g.api, err = oas.NewServer(ops,
		oas.WithErrorHandler(g.decodingFailed),
		oas.WithNotFound(notFound),
		oas.WithMethodNotAllowed(methodNotAllowed),
	)
	if err != nil {
		g.Close()
		return nil, err
	}
	g.mux.HandleFunc(pathStream, g.stream)
	g.addPages()
	return g, nil
}

// Close ends the gateway's goroutines and the event streams, whose clients come back to
// another process, or to this one later, and go on where they were. Other requests are
// served as before. Closing twice is fine.
func (g *Gateway) Close() {
	g.close()
	if g.shed != nil {
		g.shed.close()
	}
}

// InFlight returns how many requests are being worked on.
func (g *Gateway) InFlight() int64 { return g.inFlight.Load() }

// Wait returns how long requests wait, at the moment, before they are looked at; 0 where
// that is not measured.
func (g *Gateway) Wait() time.Duration {
	if g.shed == nil {
		return 0
	}
	return g.shed.newest()
}

// ServeHTTP serves everything on the public port.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	begin := time.Now()
	rec := &recorder{ResponseWriter: w}
	rec.requestID = r.Header.Get("X-Request-ID")
	if !usable(rec.requestID) {
		rec.requestID = id.New("req_", begin)
	}
	w.Header().Set("X-Request-ID", rec.requestID)
	route := routeOf(r.URL.Path)
	defer func() {
		if p := recover(); p != nil {
			g.panicked(rec, r, p)
		}
		g.metrics.observe(route, r.Method, rec.status, time.Since(begin))
	}()
	if strings.HasPrefix(r.URL.Path, "/v1/") && r.URL.Path != pathStream {
		// Saves the mux its search: nearly every request comes here.
		if g.shed != nil && isNewWork(route) && g.inFlight.Load() >= g.manyInFlight && g.shed.refuses() {
			g.refuse(rec, "requests wait more than %v before they are looked at, so a part of the new ones is refused", g.cfg.MaxWait)
			return
		}
		g.serveAPI(rec, r, route) //nolint:contextcheck // the context made on the way only carries labels
		return
	}
	g.mux.ServeHTTP(rec, r)
}

// isNewWork reports whether a request begins something. The later steps of what was
// accepted (/v1/orders/{id}/pay and its like) are never shed.
func isNewWork(route string) bool { return strings.Count(route, "/") < 4 }

// usable reports whether a client's request ID can go into logs as it is.
func usable(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func (g *Gateway) panicked(rec *recorder, r *http.Request, p any) {
	if p == http.ErrAbortHandler { //nolint:errorlint // the very value is the signal
		panic(p)
	}
	g.cfg.Logger.Error("http: a handler panicked", "request_id", rec.requestID, "method", r.Method,
		"path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
	if rec.status == 0 {
		problem.Write(rec, fault.New(fault.Internal, "an error inside the server; its log has the cause under this request's ID"))
	}
}

// serveAPI is the way of every request to an operation.
func (g *Gateway) serveAPI(w http.ResponseWriter, r *http.Request, route string) {
	if r.URL.Path == pathImport {
		g.serveImport(w, r, route)
		return
	}
	if g.inFlight.Load() >= int64(g.cfg.MaxInFlight) {
		g.refuseFull(w)
		return
	}
	limit := g.cfg.MaxBody
	if r.URL.Path == pathBatch {
		limit = g.cfg.MaxBatchBody
	}
	if r.ContentLength != 0 && r.Body != nil {
		buf := g.buffers.Get().(*bytes.Buffer) //nolint:forcetypeassert // New makes them
		defer g.recycle(buf)
		if err := readBody(w, r, buf, limit); err != nil {
			problem.Write(w, err)
			return
		}
		r.Body = io.NopCloser(buf)
		r.ContentLength = int64(buf.Len())
	}
	if g.inFlight.Add(1) > int64(g.cfg.MaxInFlight) {
		g.inFlight.Add(-1)
		g.refuseFull(w)
		return
	}
	defer g.inFlight.Add(-1)
	g.serveLabelled(w, r, route)
}

// serveLabelled runs the generated router with the goroutine labelled, so that a
// profile says whose time it is.
func (g *Gateway) serveLabelled(w http.ResponseWriter, r *http.Request, route string) {
	labelled, ok := g.labels.Load(route)
	if !ok {
		labelled = pprof.WithLabels(context.Background(), pprof.Labels("service", "gateway", "route", route))
		g.labels.Store(route, labelled)
	}
	ctx := labelled.(context.Context) //nolint:forcetypeassert // stored above
	if done := g.cfg.Guard.Watch(ctx, r.Method+" "+route); done != nil {
		defer done()
	} else {
		pprof.SetGoroutineLabels(ctx)
	}
	g.api.ServeHTTP(w, r)
}

func (g *Gateway) refuseFull(w http.ResponseWriter) {
	g.refuse(w, "%d requests are being handled, which is as many as this server takes at once", g.cfg.MaxInFlight)
}

// refuse answers 429. Reading a request and writing any answer is most of what a
// request costs, so clients that come back at once could take all cores with being
// refused: beyond refusalsPerSecond their answers wait for their turn.
func (g *Gateway) refuse(w http.ResponseWriter, detail string, args ...any) {
	g.metrics.refused.Inc()
	turn := g.refusals.Reserve()
	if wait := turn.Delay(); wait > maxRefusalWait {
		turn.Cancel()
	} else if wait > 0 {
		select {
		case <-time.After(wait):
		case <-g.closing.Done():
		}
	}
	problem.Write(w, fault.New(fault.TooManyRequests, detail, args...).WithRetryAfter(time.Second))
}

// serveImport lets a large body stream through, as long as it keeps moving.
func (g *Gateway) serveImport(w http.ResponseWriter, r *http.Request, route string) {
	if g.inFlight.Add(1) > int64(g.cfg.MaxInFlight) {
		g.inFlight.Add(-1)
		g.refuseFull(w)
		return
	}
	defer g.inFlight.Add(-1)
	conn := http.NewResponseController(w)
	r.Body = &moving{
		body: http.MaxBytesReader(w, r.Body, g.cfg.MaxImportBody), conn: conn, idle: g.cfg.IdleTimeout,
	}
	g.serveLabelled(w, r, route)
}

// moving is a body whose deadline moves on with every read.
type moving struct {
	body io.ReadCloser
	conn *http.ResponseController
	idle time.Duration
}

func (m *moving) Read(p []byte) (int, error) {
	deadline := time.Now().Add(m.idle)
	// Both are refused only by writers that have no deadlines, as in tests.
	_ = m.conn.SetReadDeadline(deadline)
	_ = m.conn.SetWriteDeadline(deadline.Add(m.idle))
	return m.body.Read(p)
}

func (m *moving) Close() error { return m.body.Close() }

// readBody reads the whole body into buf.
func readBody(w http.ResponseWriter, r *http.Request, buf *bytes.Buffer, limit int64) error {
	buf.Reset()
	if r.ContentLength > limit {
		return fault.New(fault.BodyTooLarge, "the body has %d bytes; this operation takes up to %d", r.ContentLength, limit)
	}
	_, err := buf.ReadFrom(http.MaxBytesReader(w, r.Body, limit))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fault.Wrap(err, fault.Timeout, "the body did not arrive in time; nothing was done")
	default:
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return problem.Decoding(err)
		}
		return fault.Wrap(err, fault.MalformedBody, "the body broke off; nothing was done")
	}
}

// recycle keeps small buffers for reuse; large ones would hold memory for ever.
func (g *Gateway) recycle(buf *bytes.Buffer) {
	if buf.Cap() <= 1<<20 {
		g.buffers.Put(buf)
	}
}

// decodingFailed answers requests that the generated code could not decode.
func (g *Gateway) decodingFailed(_ context.Context, w http.ResponseWriter, r *http.Request, err error) {
	f := problem.Decoding(err)
	if f.Code == fault.Internal {
		g.cfg.Logger.Error("http: request failed", "method", r.Method, "path", r.URL.Path,
			"request_id", w.Header().Get("X-Request-ID"), "error", err)
	}
	problem.Write(w, f)
}

// LogFailure writes down the cause of a failure that the outside only sees as internal.
func LogFailure(log *slog.Logger, err error) {
	f := fault.From(err)
	if f.Code == fault.Internal {
		log.Error("http: an operation failed", "error", err)
	}
}

func notFound(w http.ResponseWriter, r *http.Request) {
	problem.Write(w, fault.New(fault.RouteNotFound, "there is nothing at %s; /docs lists every path", clip(r.URL.Path)))
}

func methodNotAllowed(w http.ResponseWriter, r *http.Request, allowed string) {
	w.Header().Set("Allow", allowed)
	problem.Write(w, fault.New(fault.MethodNotAllowed, "%s does not take %s; it takes %s", clip(r.URL.Path), clip(r.Method), allowed))
}

func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}

// otherRoute stands for every path that is no operation's.
const otherRoute = "other"

// routeOf names the operation's path without the parts that vary, for metrics and
// profiles: their number must stay small whatever clients ask for.
func routeOf(path string) string {
	parts := strings.SplitN(strings.TrimPrefix(path, "/"), "/", 5)
	if parts[0] != "v1" || len(parts) < 2 {
		return otherRoute
	}
	switch parts[1] {
	case "orders", "stock", "reservations", "skus", "events":
	default:
		return otherRoute
	}
	switch {
	case len(parts) == 2:
		return "/v1/" + parts[1]
	case path == pathBatch, path == pathImport, path == pathStream:
		return path
	case len(parts) == 3:
		return "/v1/" + parts[1] + "/{id}"
	}
	switch parts[3] {
	case "pay", "cancel", "receipts", "adjustments", "commit", "release", "extend":
		return "/v1/" + parts[1] + "/{id}/" + parts[3]
	default:
		return otherRoute
	}
}

// recorder notes the status of an answer.
type recorder struct {
	http.ResponseWriter

	status    int
	requestID string
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController through.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
