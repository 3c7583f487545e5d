// Package problem shows faults to HTTP clients as RFC 9457 problems, in the shape that
// the OpenAPI contract gives them.
package problem

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"regexp"
	"strconv"
	"time"

	ht "github.com/ogen-go/ogen/http"
	"github.com/ogen-go/ogen/ogenerrors"
	"github.com/ogen-go/ogen/validate"

	"github.com/penstockhq/penstock/api/gen/oas"
	"github.com/penstockhq/penstock/internal/fault"
)

// Of returns the answer of an operation that failed with err.
func Of(err error) *oas.ProblemStatusCodeWithHeaders {
	f := fault.From(err)
	out := &oas.ProblemStatusCodeWithHeaders{StatusCode: f.Code.Status(), Response: Body(f)}
	if f.RetryAfter > 0 {
		out.RetryAfter = oas.NewOptInt(seconds(f.RetryAfter))
	}
	return out
}

// Body returns the problem that shows err.
func Body(err error) oas.Problem {
	f := fault.From(err)
	kind := f.Code.Kind()
	p := oas.Problem{Type: f.Code.Path(), Title: kind.Title, Status: kind.Status}
	if f.Detail != "" {
		p.Detail = oas.NewOptString(f.Detail)
	}
	for _, l := range f.Lines {
		line := oas.ProblemLine{Sku: l.SKU}
		if l.Location != "" {
			line.Location = oas.NewOptString(l.Location)
		}
		if f.Code == fault.InsufficientStock {
			line.Requested, line.Available = oas.NewOptInt64(l.Requested), oas.NewOptInt64(l.Available)
		}
		if l.Reason != "" {
			line.Reason = oas.NewOptString(l.Reason)
		}
		p.Lines = append(p.Lines, line)
	}
	return p
}

// Write answers with the problem that shows err.
func Write(w http.ResponseWriter, err error) {
	f := fault.From(err)
	body, encodeErr := json.Marshal(new(Body(f)))
	if encodeErr != nil {
		http.Error(w, f.Code.Kind().Title, f.Code.Status())
		return
	}
	if f.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(seconds(f.RetryAfter)))
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(f.Code.Status())
	_, _ = w.Write(append(body, '\n')) // the client is gone if this fails
}

// Decoding returns the fault of a request that could not be decoded: what ogen's error
// handler is given.
func Decoding(err error) *fault.Error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return fault.Wrap(err, fault.BodyTooLarge, "the body has more than the %d bytes that this operation takes", tooLarge.Limit)
	}
	if media, ok := errors.AsType[*validate.InvalidContentTypeError](err); ok {
		return fault.Wrap(err, fault.UnsupportedMediaType, "the Content-Type %q is not one that this operation takes", media.ContentType)
	}
	if errors.Is(err, ht.ErrNotImplemented) {
		return fault.Wrap(err, fault.RouteNotFound, "the operation is not served")
	}
	if invalid, ok := errors.AsType[*validate.Error](err); ok {
		return fault.Wrap(err, fault.InvalidRequest, "%s", invalid.Error())
	}
	if params, ok := errors.AsType[*ogenerrors.DecodeParamsError](err); ok {
		return fault.Wrap(err, fault.InvalidRequest, "%s", cause(params.Err))
	}
	if body, ok := errors.AsType[*ogenerrors.DecodeRequestError](err); ok {
		return fault.Wrap(err, fault.MalformedBody, "%s", cause(body.Err))
	}
	return fault.From(err)
}

// cause drops what only a reader of the generated code understands.
func cause(err error) string {
	if err == nil {
		return "the request cannot be decoded"
	}
	return decoderNoise.ReplaceAllString(err.Error(), "")
}

var decoderNoise = regexp.MustCompile(`(decode \w+: |callback: |^decode application/json: )`)

func seconds(d time.Duration) int { return max(int(math.Ceil(d.Seconds())), 1) }
