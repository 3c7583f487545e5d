// Package inventoryrest serves stock and reservations over REST. It turns what the
// generated server decoded into calls of the inventory service, and back. It decides
// nothing.
package inventoryrest

import (
	"context"
	"time"

	"github.com/penstockhq/penstock/api/gen/oas"
	"github.com/penstockhq/penstock/internal/cursor"
	"github.com/penstockhq/penstock/internal/inventory"
	"github.com/penstockhq/penstock/internal/inventory/inventoryservice"
)

// Service is what the handlers need of the inventory service.
type Service interface {
	Level(ctx context.Context, p inventory.Place) (inventory.Level, error)
	Levels(ctx context.Context, prefix string, after inventory.Place, limit int) ([]inventory.Level, error)
	Receive(ctx context.Context, key string, cmd *inventory.ReceiveCommand) (inventory.Outcome, error)
	Adjust(ctx context.Context, key string, cmd *inventory.AdjustCommand) (inventory.Outcome, error)
	Create(ctx context.Context, req inventoryservice.Request) (inventory.Outcome, error)
	Reservation(ctx context.Context, id string) (inventory.Reservation, error)
	Commit(ctx context.Context, cmd *inventory.CommitCommand) (inventory.Outcome, error)
	Release(ctx context.Context, cmd *inventory.ReleaseCommand) (inventory.Outcome, error)
	Extend(ctx context.Context, cmd *inventory.ExtendCommand) (inventory.Outcome, error)
}

// Handler has the operations on stock of the generated server's Handler.
type Handler struct{ Service Service }

// GetStock serves GET /v1/stock/{sku}.
func (h Handler) GetStock(ctx context.Context, params oas.GetStockParams) (*oas.StockLevel, error) {
	level, err := h.Service.Level(ctx, place(params.Sku, params.Location))
	if err != nil {
		return nil, err
	}
	return new(toLevel(level)), nil
}

// ListStock serves GET /v1/stock.
func (h Handler) ListStock(ctx context.Context, params oas.ListStockParams) (*oas.StockPage, error) {
	scope := "stock\x00" + params.Prefix.Value
	var after inventory.Place
	if params.PageToken.Value != "" {
		fields, err := cursor.Decode("page_token", params.PageToken.Value, scope, 2)
		if err != nil {
			return nil, err
		}
		after = inventory.Place{SKU: fields[0], Location: fields[1]}
	}
	limit := params.PageSize.Value
	levels, err := h.Service.Levels(ctx, params.Prefix.Value, after, limit+1)
	if err != nil {
		return nil, err
	}
	page := &oas.StockPage{Levels: make([]oas.StockLevel, 0, len(levels))}
	if len(levels) > limit {
		levels = levels[:limit]
		last := levels[limit-1]
		page.NextPageToken = oas.NewOptString(cursor.Encode(scope, last.SKU, last.Location))
	}
	for _, l := range levels {
		page.Levels = append(page.Levels, toLevel(l))
	}
	return page, nil
}

// ReceiveStock serves POST /v1/stock/{sku}/receipts.
func (h Handler) ReceiveStock(
	ctx context.Context, req *oas.StockReceipt, params oas.ReceiveStockParams,
) (*oas.StockLevelHeaders, error) {
	return booked(h.Service.Receive(ctx, params.IdempotencyKey, &inventory.ReceiveCommand{
		Place: place(params.Sku, req.Location), Quantity: req.Quantity, Reference: req.Reference.Value,
	}))
}

// AdjustStock serves POST /v1/stock/{sku}/adjustments.
func (h Handler) AdjustStock(
	ctx context.Context, req *oas.StockAdjustment, params oas.AdjustStockParams,
) (*oas.StockLevelHeaders, error) {
	return booked(h.Service.Adjust(ctx, params.IdempotencyKey, &inventory.AdjustCommand{
		Place: place(params.Sku, req.Location), Delta: req.Delta, Reason: req.Reason, Reference: req.Reference.Value,
	}))
}

// CreateReservation serves POST /v1/reservations.
func (h Handler) CreateReservation(
	ctx context.Context, req *oas.CreateReservation, params oas.CreateReservationParams,
) (*oas.ReservationHeaders, error) {
	out, err := h.Service.Create(ctx, inventoryservice.Request{
		Key: params.IdempotencyKey, Lines: lines(req.Lines), Reference: req.Reference.Value,
		TTL: time.Duration(req.TTLSeconds.Value) * time.Second,
	})
	if err != nil {
		return nil, err
	}
	res := &oas.ReservationHeaders{
		Response: toReservation(&out.Reservation), Location: oas.NewOptString("/v1/reservations/" + out.Reservation.ID),
	}
	if out.Replayed {
		res.IdempotentReplayed = oas.NewOptBool(true)
	}
	return res, nil
}

// GetReservation serves GET /v1/reservations/{id}.
func (h Handler) GetReservation(ctx context.Context, params oas.GetReservationParams) (*oas.Reservation, error) {
	r, err := h.Service.Reservation(ctx, params.ID)
	if err != nil {
		return nil, err
	}
	return new(toReservation(&r)), nil
}

// CommitReservation serves POST /v1/reservations/{id}/commit.
func (h Handler) CommitReservation(
	ctx context.Context, req oas.OptCommitReservation, params oas.CommitReservationParams,
) (*oas.Reservation, error) {
	return answer(h.Service.Commit(ctx, &inventory.CommitCommand{
		ID: params.ID, Lines: lines(req.Value.Lines), Reference: req.Value.Reference.Value,
	}))
}

// ReleaseReservation serves POST /v1/reservations/{id}/release.
func (h Handler) ReleaseReservation(ctx context.Context, params oas.ReleaseReservationParams) (*oas.Reservation, error) {
	return answer(h.Service.Release(ctx, &inventory.ReleaseCommand{ID: params.ID}))
}

// ExtendReservation serves POST /v1/reservations/{id}/extend.
func (h Handler) ExtendReservation(
	ctx context.Context, req *oas.ExtendReservation, params oas.ExtendReservationParams,
) (*oas.Reservation, error) {
	return answer(h.Service.Extend(ctx, &inventory.ExtendCommand{ID: params.ID, Until: req.ExpiresAt}))
}

func answer(out inventory.Outcome, err error) (*oas.Reservation, error) {
	if err != nil {
		return nil, err
	}
	return new(toReservation(&out.Reservation)), nil
}

func booked(out inventory.Outcome, err error) (*oas.StockLevelHeaders, error) {
	if err != nil {
		return nil, err
	}
	res := &oas.StockLevelHeaders{Response: toLevel(out.Level)}
	if out.Replayed {
		res.IdempotentReplayed = oas.NewOptBool(true)
	}
	return res, nil
}

func place(sku oas.SKUCode, location oas.OptLocation) inventory.Place {
	return inventory.Place{SKU: string(sku), Location: string(location.Or(inventory.DefaultLocation))}
}

func lines(reqs []oas.ReservationLineRequest) []inventory.Line {
	out := make([]inventory.Line, len(reqs))
	for i, l := range reqs {
		out[i] = inventory.Line{Place: place(l.Sku, l.Location), Quantity: int64(l.Quantity)}
	}
	return out
}

func toLevel(l inventory.Level) oas.StockLevel {
	return oas.StockLevel{
		Sku: l.SKU, Location: l.Location, OnHand: l.OnHand, Reserved: l.Reserved, Available: l.Available(),
		Version: int64(l.Version),
	}
}

func toReservation(r *inventory.Reservation) oas.Reservation {
	out := oas.Reservation{
		ID: r.ID, Status: oas.ReservationStatus(r.Status.String()), Lines: make([]oas.ReservationLine, len(r.Lines)),
		ExpiresAt: r.ExpiresAt, CreatedAt: r.CreatedAt, Version: int64(r.Version),
	}
	if r.Reference != "" {
		out.Reference = oas.NewOptString(r.Reference)
	}
	if r.OrderID != "" {
		out.OrderID = oas.NewOptString(r.OrderID)
	}
	if !r.ClosedAt.IsZero() {
		out.ClosedAt = oas.NewOptDateTime(r.ClosedAt)
	}
	for i, l := range r.Lines {
		out.Lines[i] = oas.ReservationLine{Sku: l.SKU, Location: l.Location, Quantity: l.Quantity}
		if r.Status == inventory.Committed {
			out.Lines[i].Committed = oas.NewOptInt64(l.Committed)
		}
	}
	return out
}
