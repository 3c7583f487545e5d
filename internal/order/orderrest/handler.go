// Package orderrest serves orders over REST. It turns what the generated server
// decoded into calls of the order service, and back. It decides nothing.
package orderrest

import (
	"context"
	"time"

	"github.com/penstockhq/penstock/api/gen/oas"
	"github.com/penstockhq/penstock/internal/cursor"
	"github.com/penstockhq/penstock/internal/order"
	"github.com/penstockhq/penstock/internal/order/orderservice"
	"github.com/penstockhq/penstock/internal/problem"
)

// Service is what the handlers need of the order service.
type Service interface {
	Place(ctx context.Context, reqs []orderservice.PlaceRequest) []orderservice.PlaceResult
	Get(ctx context.Context, id string) (order.Order, error)
	List(ctx context.Context, q orderservice.ListQuery) ([]order.Order, error)
	Pay(ctx context.Context, id, reference string) (order.Order, error)
	Cancel(ctx context.Context, id string) (order.Order, error)
}

// Handler has the operations on orders of the generated server's Handler.
type Handler struct{ Service Service }

// PlaceOrder serves POST /v1/orders.
func (h Handler) PlaceOrder(ctx context.Context, req *oas.PlaceOrder, params oas.PlaceOrderParams) (*oas.OrderHeaders, error) {
	lines := make([]order.Line, len(req.Lines))
	for i, l := range req.Lines {
		lines[i] = order.Line{SKU: string(l.Sku), Location: string(l.Location.Value), Quantity: int64(l.Quantity)}
	}
	result := h.Service.Place(ctx, []orderservice.PlaceRequest{{
		Key: params.IdempotencyKey, CustomerID: req.CustomerID, Lines: lines, Hold: seconds(req.HoldSeconds.Value),
	}})[0]
	if result.Err != nil {
		return nil, result.Err
	}
	out := &oas.OrderHeaders{
		Response: toOrder(&result.Order),
		Location: oas.NewOptString("/v1/orders/" + result.Order.ID),
	}
	if result.Replayed {
		out.IdempotentReplayed = oas.NewOptBool(true)
	}
	return out, nil
}

// PlaceOrders serves POST /v1/orders/batch.
func (h Handler) PlaceOrders(ctx context.Context, req *oas.PlaceOrderBatch) (*oas.PlaceOrderResults, error) {
	reqs := make([]orderservice.PlaceRequest, len(req.Orders))
	for i := range req.Orders {
		o := &req.Orders[i]
		lines := make([]order.Line, len(o.Lines))
		for j, l := range o.Lines {
			lines[j] = order.Line{SKU: l.Sku, Location: l.Location.Value, Quantity: l.Quantity}
		}
		hold := seconds(o.HoldSeconds.Value)
		if hold == 0 {
			hold = -1 // said to be 0, which is refused; unsaid it is the default
		}
		reqs[i] = orderservice.PlaceRequest{Key: o.IdempotencyKey, CustomerID: o.CustomerID, Lines: lines, Hold: hold}
	}
	results := h.Service.Place(ctx, reqs)
	out := &oas.PlaceOrderResults{Results: make([]oas.PlaceOrderResult, len(results))}
	for i := range results {
		r, to := &results[i], &out.Results[i]
		if r.Err != nil {
			body := problem.Body(r.Err)
			to.Status, to.Problem = body.Status, oas.NewOptProblem(body)
			continue
		}
		to.Status, to.Order = 201, oas.NewOptOrder(toOrder(&r.Order))
		if r.Replayed {
			to.Replayed = oas.NewOptBool(true)
		}
	}
	return out, nil
}

// GetOrder serves GET /v1/orders/{id}.
func (h Handler) GetOrder(ctx context.Context, params oas.GetOrderParams) (*oas.Order, error) {
	return answer(h.Service.Get(ctx, params.ID))
}

// PayOrder serves POST /v1/orders/{id}/pay.
func (h Handler) PayOrder(ctx context.Context, req *oas.PayOrder, params oas.PayOrderParams) (*oas.Order, error) {
	return answer(h.Service.Pay(ctx, params.ID, req.Reference))
}

// CancelOrder serves POST /v1/orders/{id}/cancel.
func (h Handler) CancelOrder(ctx context.Context, params oas.CancelOrderParams) (*oas.Order, error) {
	return answer(h.Service.Cancel(ctx, params.ID))
}

// ListOrders serves GET /v1/orders.
func (h Handler) ListOrders(ctx context.Context, params oas.ListOrdersParams) (*oas.OrderPage, error) {
	q := orderservice.ListQuery{CustomerID: params.CustomerID.Value, Limit: params.PageSize.Value}
	for _, s := range order.Statuses {
		if params.Status.Set && s.String() == string(params.Status.Value) {
			q.Status = s
		}
	}
	scope := "orders\x00" + q.CustomerID + "\x00" + q.Status.String()
	if params.PageToken.Value != "" {
		fields, err := cursor.Decode("page_token", params.PageToken.Value, scope, 1)
		if err != nil {
			return nil, err
		}
		q.Before = fields[0]
	}
	limit := q.Limit
	q.Limit++ // one more tells whether there is another page
	found, err := h.Service.List(ctx, q)
	if err != nil {
		return nil, err
	}
	page := &oas.OrderPage{Orders: make([]oas.Order, 0, limit)}
	if len(found) > limit {
		found = found[:limit]
		page.NextPageToken = oas.NewOptString(cursor.Encode(scope, found[limit-1].ID))
	}
	for i := range found {
		page.Orders = append(page.Orders, toOrder(&found[i]))
	}
	return page, nil
}

func answer(o order.Order, err error) (*oas.Order, error) {
	if err != nil {
		return nil, err
	}
	return new(toOrder(&o)), nil
}

func seconds(n int64) time.Duration {
	// What is too large to be a duration is refused as too long a hold.
	return time.Duration(min(n, int64(order.MaxHold/time.Second)+1)) * time.Second
}

func toOrder(o *order.Order) oas.Order {
	out := oas.Order{
		ID: o.ID, Status: oas.OrderStatus(o.Status.String()), CustomerID: o.CustomerID,
		Lines: make([]oas.OrderLine, len(o.Lines)), Total: oas.Money(o.Total), ReservationID: o.ReservationID,
		HoldExpiresAt: o.HoldExpiresAt, CreatedAt: o.CreatedAt, UpdatedAt: o.UpdatedAt,
		Version: int64(o.Version),
	}
	if o.PaymentReference != "" {
		out.PaymentReference = oas.NewOptString(o.PaymentReference)
	}
	for i, l := range o.Lines {
		out.Lines[i] = oas.OrderLine{
			Sku: l.SKU, Quantity: l.Quantity,
			UnitPrice: oas.Money{Amount: l.UnitPrice, Currency: o.Total.Currency},
			Subtotal:  oas.Money{Amount: l.Subtotal(), Currency: o.Total.Currency},
		}
		if l.Location != order.DefaultLocation {
			out.Lines[i].Location = oas.NewOptString(l.Location)
		}
	}
	return out
}
