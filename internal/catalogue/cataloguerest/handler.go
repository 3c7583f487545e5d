// Package cataloguerest serves the catalogue over REST. It turns what the generated
// server decoded into calls of the catalogue service, and back. It decides nothing.
package cataloguerest

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/penstockhq/penstock/api/gen/oas"
	"github.com/penstockhq/penstock/internal/catalogue"
	"github.com/penstockhq/penstock/internal/catalogue/catalogueservice"
	"github.com/penstockhq/penstock/internal/cursor"
	"github.com/penstockhq/penstock/internal/fault"
)

// Service is what the handlers need of the catalogue service.
type Service interface {
	Put(ctx context.Context, put catalogue.Put) (catalogue.SKU, error)
	Get(ctx context.Context, code string) (catalogue.SKU, error)
	List(ctx context.Context, prefix, after string, limit int) ([]catalogue.SKU, error)
	ImportCSV(ctx context.Context, r io.Reader) (catalogueservice.Report, error)
	ImportNDJSON(ctx context.Context, r io.Reader) (catalogueservice.Report, error)
}

// Handler has the operations on SKUs of the generated server's Handler.
type Handler struct{ Service Service }

// GetSKU serves GET /v1/skus/{sku}.
func (h Handler) GetSKU(ctx context.Context, params oas.GetSKUParams) (*oas.SKUHeaders, error) {
	return answer(h.Service.Get(ctx, string(params.Sku)))
}

// PutSKU serves PUT /v1/skus/{sku}.
func (h Handler) PutSKU(ctx context.Context, req *oas.PutSKU, params oas.PutSKUParams) (*oas.SKUHeaders, error) {
	put := catalogue.Put{SKU: catalogue.SKU{
		Code: string(params.Sku), Title: req.Title, Policy: string(req.Policy.Value),
		Amount: req.UnitPrice.Amount, Currency: req.UnitPrice.Currency,
	}}
	if params.IfMatch.Set {
		version, err := parseETag(params.IfMatch.Value)
		if err != nil {
			return nil, err
		}
		put.IfVersion = version
	}
	if params.IfNoneMatch.Set {
		if params.IfNoneMatch.Value != "*" {
			return nil, fault.New(fault.InvalidRequest, "If-None-Match may only be *, not %q", params.IfNoneMatch.Value)
		}
		put.Create = true
	}
	return answer(h.Service.Put(ctx, put))
}

// ListSKUs serves GET /v1/skus.
func (h Handler) ListSKUs(ctx context.Context, params oas.ListSKUsParams) (*oas.SKUPage, error) {
	scope, after := "skus\x00"+params.Prefix.Value, ""
	if params.PageToken.Value != "" {
		fields, err := cursor.Decode("page_token", params.PageToken.Value, scope, 1)
		if err != nil {
			return nil, err
		}
		after = fields[0]
	}
	limit := params.PageSize.Value
	found, err := h.Service.List(ctx, params.Prefix.Value, after, limit+1)
	if err != nil {
		return nil, err
	}
	page := &oas.SKUPage{Skus: make([]oas.SKU, 0, len(found))}
	if len(found) > limit {
		found = found[:limit]
		page.NextPageToken = oas.NewOptString(cursor.Encode(scope, found[limit-1].Code))
	}
	for i := range found {
		page.Skus = append(page.Skus, toSKU(&found[i]))
	}
	return page, nil
}

// ImportSKUs serves POST /v1/skus/import.
func (h Handler) ImportSKUs(ctx context.Context, req oas.ImportSKUsReq) (*oas.ImportReport, error) {
	var report catalogueservice.Report
	var err error
	switch body := req.(type) {
	case *oas.ImportSKUsReqTextCsv:
		report, err = h.Service.ImportCSV(ctx, body)
	case *oas.ImportSKUsReqApplicationXNdjson:
		report, err = h.Service.ImportNDJSON(ctx, body)
	default:
		err = fmt.Errorf("unknown import %T", req)
	}
	if err != nil {
		f := *fault.From(err)
		if report.Imported > 0 {
			f.Detail += fmt.Sprintf(" (%d SKUs were imported before that, and stand)", report.Imported)
		}
		return nil, &f
	}
	out := &oas.ImportReport{Imported: report.Imported, Failed: report.Failed, Errors: make([]oas.ImportError, len(report.Errors))}
	for i, e := range report.Errors {
		out.Errors[i] = oas.ImportError{Line: e.Line, Reason: e.Reason}
		if e.SKU != "" {
			out.Errors[i].Sku = oas.NewOptString(e.SKU)
		}
	}
	return out, nil
}

func answer(sku catalogue.SKU, err error) (*oas.SKUHeaders, error) {
	if err != nil {
		return nil, err
	}
	return &oas.SKUHeaders{
		ETag: oas.NewOptString(`"` + strconv.FormatUint(sku.Version, 10) + `"`), Response: toSKU(&sku),
	}, nil
}

// parseETag reads the version out of an ETag that this server gave.
func parseETag(tag string) (uint64, error) {
	version, err := strconv.ParseUint(strings.Trim(tag, `"`), 10, 63)
	if err != nil || version == 0 {
		return 0, fault.New(fault.PreconditionFailed, "If-Match %s is not an ETag that this server gave", tag)
	}
	return version, nil
}

func toSKU(s *catalogue.SKU) oas.SKU {
	return oas.SKU{
		Sku: s.Code, Title: s.Title, Policy: oas.StockPolicy(s.Policy), UpdatedAt: s.UpdatedAt,
		UnitPrice: oas.Money{Amount: s.Amount, Currency: s.Currency},
		Version:   int64(s.Version),
	}
}
