package catalogueservice

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/penstockhq/penstock/internal/catalogue"
	"github.com/penstockhq/penstock/internal/fault"
)

const (
	importChunk     = 2000    // SKUs in one call of the store
	maxImportErrors = 1000    // lines that are reported
	maxImportLine   = 1 << 16 // bytes of one line
)

// LineError is why a line of an import does not stand.
type LineError struct {
	Line   int64 // from 1; a header counts
	SKU    string
	Reason string
}

// Report tells what became of an import.
type Report struct {
	Imported, Failed int64
	Errors           []LineError // the first 1,000
}

// ImportCSV imports lines with the columns that the header names: sku, title, amount
// and currency, and optionally policy. Good lines stand, bad ones are in the report.
// An error means that the import as a whole stopped; the report says how far it came.
func (s *Service) ImportCSV(ctx context.Context, r io.Reader) (Report, error) {
	in := csv.NewReader(r)
	in.FieldsPerRecord = -1
	in.ReuseRecord = true
	header, err := in.Read()
	if err != nil {
		return Report{}, readError(err, "read the header of the CSV")
	}
	columns, err := parseHeader(header)
	if err != nil {
		return Report{}, err
	}
	return s.importAll(ctx, func() (catalogue.Put, int64, error) {
		record, err := in.Read()
		line, _ := in.FieldPos(0)
		if parse, ok := errors.AsType[*csv.ParseError](err); ok {
			return catalogue.Put{}, int64(parse.Line), lineError{parse.Err}
		}
		if err != nil {
			return catalogue.Put{}, 0, err
		}
		put, err := columns.parse(record)
		return put, int64(line), err
	})
}

// ImportNDJSON imports one object a line, as PUT /v1/skus/{sku} takes it, with sku.
func (s *Service) ImportNDJSON(ctx context.Context, r io.Reader) (Report, error) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, maxImportLine)
	line := int64(0)
	return s.importAll(ctx, func() (catalogue.Put, int64, error) {
		for in.Scan() {
			line++
			if len(bytes.TrimSpace(in.Bytes())) > 0 {
				put, err := parseObject(in.Bytes())
				return put, line, err
			}
		}
		if errors.Is(in.Err(), bufio.ErrTooLong) {
			return catalogue.Put{}, 0, fault.New(fault.InvalidRequest, "line %d is longer than %d bytes", line+1, maxImportLine)
		}
		return catalogue.Put{}, 0, cmp.Or(in.Err(), io.EOF)
	})
}

// lineError is a fault of one line, after which the import goes on.
type lineError struct{ error }

// importAll puts what next returns until io.EOF, in chunks.
func (s *Service) importAll(ctx context.Context, next func() (catalogue.Put, int64, error)) (Report, error) {
	imp := importer{service: s}
	for {
		put, line, err := next()
		if errors.Is(err, io.EOF) {
			return imp.report, imp.flush(ctx)
		}
		if bad, ok := errors.AsType[lineError](err); ok {
			imp.fail(line, put.SKU.Code, bad.error)
			continue
		}
		if err != nil {
			return imp.report, errors.Join(readError(err, "read the import"), imp.flush(ctx))
		}
		put.SKU.Policy = cmp.Or(put.SKU.Policy, catalogue.Policies[0])
		if err := put.Validate(); err != nil {
			imp.fail(line, put.SKU.Code, err)
			continue
		}
		imp.puts, imp.lines = append(imp.puts, put), append(imp.lines, line)
		if len(imp.puts) == importChunk {
			if err := imp.flush(ctx); err != nil {
				return imp.report, err
			}
		}
	}
}

type importer struct {
	service *Service
	puts    []catalogue.Put
	lines   []int64
	report  Report
}

func (i *importer) flush(ctx context.Context) error {
	if len(i.puts) == 0 {
		return nil
	}
	results, err := i.service.store.Put(ctx, i.puts)
	if err != nil {
		return fmt.Errorf("import up to line %d: %w", i.lines[0]-1, err)
	}
	for j, r := range results {
		if r.Err != nil {
			i.fail(i.lines[j], i.puts[j].SKU.Code, r.Err)
		} else {
			i.report.Imported++
		}
	}
	i.puts, i.lines = i.puts[:0], i.lines[:0]
	return nil
}

func (i *importer) fail(line int64, sku string, err error) {
	i.report.Failed++
	if len(i.report.Errors) == maxImportErrors {
		return
	}
	reason := err.Error()
	if f, ok := errors.AsType[*fault.Error](err); ok {
		reason = f.Detail
	}
	i.report.Errors = append(i.report.Errors, LineError{Line: line, SKU: sku, Reason: reason})
}

// readError turns a failed read into a fault: what the client sent cannot be read.
func readError(err error, doing string) error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	if errors.Is(err, io.EOF) {
		return fault.New(fault.InvalidRequest, "%s: it is empty", doing)
	}
	return fault.Wrap(err, fault.MalformedBody, "%s: %v", doing, err)
}

// columns holds the index of each column, -1 where there is none.
type columns struct{ sku, title, amount, currency, policy int }

func parseHeader(header []string) (columns, error) {
	find := func(name string) int {
		return slices.IndexFunc(header, func(h string) bool {
			return strings.TrimPrefix(strings.TrimSpace(h), "\ufeff") == name
		})
	}
	c := columns{find("sku"), find("title"), find("amount"), find("currency"), find("policy")}
	if min(c.sku, c.title, c.amount, c.currency) < 0 {
		return c, fault.New(fault.InvalidRequest,
			"the first line of the CSV must name the columns sku, title, amount (minor units) and currency, and may name policy; it is %q",
			strings.Join(header, ","))
	}
	return c, nil
}

func (c columns) parse(record []string) (catalogue.Put, error) {
	field := func(i int) string {
		if i < 0 || i >= len(record) {
			return ""
		}
		return strings.Clone(record[i])
	}
	put := catalogue.Put{SKU: catalogue.SKU{
		Code: field(c.sku), Title: field(c.title), Currency: field(c.currency), Policy: field(c.policy),
	}}
	if len(record) <= max(c.sku, c.title, c.amount, c.currency) {
		return put, lineError{fmt.Errorf("the line has %d fields, fewer than the header", len(record))}
	}
	amount, err := strconv.ParseInt(field(c.amount), 10, 64)
	if err != nil {
		return put, lineError{fmt.Errorf("amount %q is not a whole number of minor units", field(c.amount))}
	}
	put.SKU.Amount = amount
	return put, nil
}

func parseObject(line []byte) (catalogue.Put, error) {
	var o struct {
		SKU       string `json:"sku"`
		Title     string `json:"title"`
		Policy    string `json:"policy"`
		UnitPrice *struct {
			Amount   int64  `json:"amount"`
			Currency string `json:"currency"`
		} `json:"unit_price"`
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	err := d.Decode(&o)
	put := catalogue.Put{SKU: catalogue.SKU{Code: o.SKU, Title: o.Title, Policy: o.Policy}}
	switch {
	case err != nil:
		return put, lineError{fmt.Errorf("not the JSON of a SKU: %w", err)}
	case d.More():
		return put, lineError{errors.New("more than one value on the line")}
	case o.UnitPrice == nil:
		return put, lineError{errors.New("unit_price is missing")}
	}
	put.SKU.Amount, put.SKU.Currency = o.UnitPrice.Amount, o.UnitPrice.Currency
	return put, nil
}
