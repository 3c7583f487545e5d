package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/penstockhq/penstock/internal/fault"
	"github.com/penstockhq/penstock/internal/problem"
)

const (
	streamPage      = 256              // events read at once
	streamPoll      = time.Second      // how long a missed wake-up may go unnoticed
	streamKeepAlive = 15 * time.Second // between comment lines
)

// stream serves GET /v1/events/stream: the feed as server-sent events.
func (g *Gateway) stream(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		methodNotAllowed(w, r, http.MethodGet)
		return
	}
	if g.streams.Add(1) > int64(g.cfg.MaxStreams) {
		g.streams.Add(-1)
		problem.Write(w, fault.New(fault.TooManyRequests, "%d event streams are open, which is as many as this server takes",
			g.cfg.MaxStreams).WithRetryAfter(10*time.Second))
		return
	}
	defer g.streams.Add(-1)
	cursor := r.Header.Get("Last-Event-ID")
	if cursor == "" {
		cursor = r.URL.Query().Get("after")
	}
	// A bad cursor must be a 400, so the first page is read before the head is sent.
	if _, _, err := g.feed.Read(r.Context(), cursor, 1); err != nil {
		problem.Write(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	w.WriteHeader(http.StatusOK)
	s := streamer{gateway: g, w: w, conn: http.NewResponseController(w), cursor: cursor, spoke: time.Now()}
	if err := s.run(r); err != nil && r.Context().Err() == nil && g.closing.Err() == nil {
		g.cfg.Logger.Warn("http: an event stream was cut", "error", err)
	}
}

type streamer struct {
	gateway *Gateway
	w       http.ResponseWriter
	conn    *http.ResponseController
	cursor  string
	spoke   time.Time // when something was last sent
}

// run sends events until the client goes, stands still for too long, or the server stops.
func (s *streamer) run(r *http.Request) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.gateway.closing, cancel)() //nolint:contextcheck // the server's end, too, ends the stream
	if err := s.send(": penstock\n\n"); err != nil {
		return err
	}
	for {
		events, next, err := s.gateway.feed.Read(ctx, s.cursor, streamPage)
		if err != nil {
			return err
		}
		for i := range events {
			body, err := json.Marshal(events[i].Event)
			if err != nil {
				return fmt.Errorf("encode event: %w", err)
			}
			if _, err := fmt.Fprintf(s.w, "id: %s\nevent: %s\ndata: %s\n\n", events[i].Cursor, events[i].Type, body); err != nil {
				return fmt.Errorf("write event: %w", err)
			}
		}
		s.cursor = next
		if len(events) > 0 {
			if err := s.flush(); err != nil {
				return err
			}
			continue
		}
		if time.Since(s.spoke) >= streamKeepAlive {
			if err := s.send(": still here\n\n"); err != nil {
				return err
			}
		}
		if err := s.gateway.feed.Wait(ctx, streamPoll); err != nil {
			return err
		}
	}
}

func (s *streamer) send(text string) error {
	if _, err := fmt.Fprint(s.w, text); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return s.flush()
}

// flush sends what was written; a client that does not take it in time is cut.
func (s *streamer) flush() error {
	s.spoke = time.Now()
	// Refused only by writers that have no deadlines, as in tests.
	_ = s.conn.SetWriteDeadline(s.spoke.Add(s.gateway.cfg.IdleTimeout))
	if err := s.conn.Flush(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}
