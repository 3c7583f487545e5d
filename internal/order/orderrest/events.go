package orderrest

import (
	"context"
	"fmt"

	"github.com/penstockhq/penstock/internal/event"
	"github.com/penstockhq/penstock/internal/id"
	"github.com/penstockhq/penstock/internal/order"
)

// Changes is where the events of orders are read.
type Changes interface {
	Events(ctx context.Context, after uint64, limit int) ([]order.Event, error)
	Order(ctx context.Context, id string) (order.Order, error)
}

// Events is the log of orders' events as a feed shows it.
type Events struct{ Changes Changes }

// logNumber tells this log's event IDs from those of other logs.
const logNumber = 1

// Data is an order event's data.
type Data struct {
	OrderID          string     `json:"order_id"`
	Status           string     `json:"status"` // after the change
	Version          uint64     `json:"version"`
	CustomerID       string     `json:"customer_id"`
	Lines            []DataLine `json:"lines"`
	Total            DataMoney  `json:"total"`
	PaymentReference string     `json:"payment_reference,omitempty"`
}

// DataLine is a line of an order in an event.
type DataLine struct {
	SKU       string    `json:"sku"`
	Location  string    `json:"location"`
	Quantity  int64     `json:"quantity"`
	UnitPrice DataMoney `json:"unit_price"`
}

// DataMoney is an amount in an event.
type DataMoney struct {
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
}

// Read returns events; see event.Log.
func (e Events) Read(ctx context.Context, after uint64, limit int) ([]event.Numbered, error) {
	changes, err := e.Changes.Events(ctx, after, limit)
	if err != nil {
		return nil, fmt.Errorf("read order events: %w", err)
	}
	out := make([]event.Numbered, len(changes))
	for i, c := range changes {
		o, err := e.Changes.Order(ctx, c.OrderID)
		if err != nil {
			return nil, fmt.Errorf("read the order of event %d: %w", c.Seq, err)
		}
		made, err := event.New(id.Numbered(id.Event, c.Time, logNumber, c.Seq), "/v1/orders",
			"io.penstock.order."+c.Status.String(), c.OrderID, c.Time, data(&o, c))
		if err != nil {
			return nil, err
		}
		out[i] = event.Numbered{Seq: c.Seq, Event: made}
	}
	return out, nil
}

func data(o *order.Order, c order.Event) Data {
	d := Data{
		OrderID: o.ID, Status: c.Status.String(), Version: c.Version, CustomerID: o.CustomerID, Total: DataMoney(o.Total),
	}
	if c.Status == order.Paid {
		d.PaymentReference = o.PaymentReference
	}
	for _, l := range o.Lines {
		d.Lines = append(d.Lines, DataLine{
			SKU: l.SKU, Location: l.Location, Quantity: l.Quantity,
			UnitPrice: DataMoney{Amount: l.UnitPrice, Currency: o.Total.Currency},
		})
	}
	return d
}
