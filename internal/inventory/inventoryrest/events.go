package inventoryrest

import (
	"context"
	"fmt"

	"github.com/penstockhq/penstock/internal/event"
	"github.com/penstockhq/penstock/internal/id"
	"github.com/penstockhq/penstock/internal/inventory"
)

// Crossings is where the events of stock levels are read.
type Crossings interface {
	Crossings(ctx context.Context, after uint64, limit int) ([]inventory.Crossing, error)
}

// Events is the log of stock events as a feed shows it.
type Events struct{ Crossings Crossings }

// logNumber tells this log's event IDs from those of other logs.
const logNumber = 2

// Data is a stock event's data.
type Data struct {
	SKU       string `json:"sku"`
	Location  string `json:"location"`
	OnHand    int64  `json:"on_hand"`
	Reserved  int64  `json:"reserved"`
	Available int64  `json:"available"`
	Version   uint64 `json:"version"`
}

// Read returns events; see event.Log.
func (e Events) Read(ctx context.Context, after uint64, limit int) ([]event.Numbered, error) {
	crossings, err := e.Crossings.Crossings(ctx, after, limit)
	if err != nil {
		return nil, fmt.Errorf("read stock events: %w", err)
	}
	out := make([]event.Numbered, len(crossings))
	for i, c := range crossings {
		kind := "io.penstock.stock.available"
		if c.Depleted {
			kind = "io.penstock.stock.depleted"
		}
		l := c.Level
		made, err := event.New(id.Numbered(id.Event, c.Time, logNumber, c.Seq), "/v1/stock", kind, l.SKU, c.Time, Data{
			SKU: l.SKU, Location: l.Location, OnHand: l.OnHand, Reserved: l.Reserved, Available: l.Available(), Version: l.Version,
		})
		if err != nil {
			return nil, err
		}
		out[i] = event.Numbered{Seq: c.Seq, Event: made}
	}
	return out, nil
}
