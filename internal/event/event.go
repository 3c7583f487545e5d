// Package event is the envelope of events and the feed that they are read from.
//
// Every store appends its events to a log of its own, in the commit that they tell of.
// A Feed shows several such logs as one: in order within each log, and by time between
// them. A cursor holds the position in each log, so nothing is missed or told twice,
// whatever the clocks say. It does not store anything.
package event

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/penstockhq/penstock/internal/cursor"
	"github.com/penstockhq/penstock/internal/fault"
)

// Event is a CloudEvents 1.0 event; its JSON is the structured form.
type Event struct {
	SpecVersion string          `json:"specversion"` // "1.0"
	ID          string          `json:"id"`
	Source      string          `json:"source"`
	Type        string          `json:"type"`
	Subject     string          `json:"subject"`
	Time        time.Time       `json:"time"`
	ContentType string          `json:"datacontenttype"` // "application/json"
	Data        json.RawMessage `json:"data"`
}

// New returns an event whose data is the JSON of data.
func New(id, source, kind, subject string, at time.Time, data any) (Event, error) {
	raw, err := json.Marshal(data)
	if err != nil {
		return Event{}, fmt.Errorf("encode event %s: %w", id, err)
	}
	return Event{
		SpecVersion: "1.0", ID: id, Source: source, Type: kind, Subject: subject,
		Time: at, ContentType: "application/json", Data: raw,
	}, nil
}

// Numbered is an event with its position in its log.
type Numbered struct {
	Seq   uint64
	Event Event
}

// Log is a numbered log of events.
type Log interface {
	// Read returns up to limit durable events after the given position, oldest first.
	Read(ctx context.Context, after uint64, limit int) ([]Numbered, error)
}

// Placed is an event with the cursor that reading on after it takes.
type Placed struct {
	Event
	Cursor string
}

// Feed shows logs as one. Make one with NewFeed.
type Feed struct {
	logs    []Log
	changed atomic.Pointer[chan struct{}] // closed and replaced by Notify
	waiting atomic.Int32
}

// scope marks the cursors of a feed.
const scope = "events"

// NewFeed returns a feed of logs. Cursors depend on their order.
func NewFeed(logs ...Log) *Feed {
	f := &Feed{logs: logs}
	f.changed.Store(new(make(chan struct{})))
	return f
}

// Read returns up to limit events after the cursor, "" for the beginning, and the
// cursor to go on with, which is always valid.
func (f *Feed) Read(ctx context.Context, after string, limit int) (events []Placed, next string, err error) {
	positions, err := f.positions(after)
	if err != nil {
		return nil, "", err
	}
	pages := make([][]Numbered, len(f.logs))
	for i, l := range f.logs {
		if pages[i], err = l.Read(ctx, positions[i], limit); err != nil {
			return nil, "", fmt.Errorf("read events: %w", err)
		}
	}
	for len(events) < limit {
		first := oldest(pages)
		if first < 0 {
			break
		}
		e := pages[first][0]
		pages[first] = pages[first][1:]
		positions[first] = e.Seq
		events = append(events, Placed{e.Event, encode(positions)})
	}
	return events, encode(positions), nil
}

// oldest returns the index of the page whose first event is the oldest, -1 if all are
// empty.
func oldest(pages [][]Numbered) int {
	first := -1
	for i, p := range pages {
		if len(p) > 0 && (first < 0 || p[0].Event.Time.Before(pages[first][0].Event.Time)) {
			first = i
		}
	}
	return first
}

// Wait returns when Notify is called, at the latest after the given time, or with
// ctx's error.
func (f *Feed) Wait(ctx context.Context, atMost time.Duration) error {
	f.waiting.Add(1)
	defer f.waiting.Add(-1)
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-*f.changed.Load():
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// Notify wakes those who Wait: there may be new events. It is cheap when nobody does.
func (f *Feed) Notify() {
	if f.waiting.Load() > 0 {
		close(*f.changed.Swap(new(make(chan struct{}))))
	}
}

func encode(positions []uint64) string {
	fields := make([]string, len(positions))
	for i, p := range positions {
		fields[i] = strconv.FormatUint(p, 36)
	}
	return cursor.Encode(scope, fields...)
}

func (f *Feed) positions(after string) ([]uint64, error) {
	positions := make([]uint64, len(f.logs))
	if after == "" {
		return positions, nil
	}
	fields, err := cursor.Decode("after", after, scope, len(f.logs))
	if err != nil {
		return nil, err
	}
	for i, field := range fields {
		if positions[i], err = strconv.ParseUint(field, 36, 63); err != nil {
			return nil, fault.New(fault.InvalidRequest, "after is damaged; start without it")
		}
	}
	return slices.Clip(positions), nil
}
