// Package fault is the one error type that crosses Penstock's package borders.
//
// A fault has a Code, which decides the HTTP status and the problem type, a
// detail that may be shown to anyone, and a cause that may not. It does not log
// and does not write responses; transports do. What a reader would get wrong:
// any error that is not a fault is Internal to the outside, and its text never
// leaves the process.
package fault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Error is a failure with a public face. Make one with New or Wrap.
type Error struct {
	// Code says what kind of failure it is.
	Code Code
	// Detail is for the caller: what was wrong, where, and what to do.
	Detail string
	// Lines tells for each failed line of an order or reservation why it failed.
	Lines []Line
	// RetryAfter is how long a caller should wait before it tries again; 0 is unsaid.
	RetryAfter time.Duration

	cause error
}

// Line is the failure of one line of an order or reservation.
type Line struct {
	SKU       string
	Location  string // empty where it does not matter
	Requested int64  // units
	Available int64  // units; meaningful with InsufficientStock
	Reason    string // empty where the code says it all
}

// New returns a fault whose detail is formatted from format and args.
func New(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// Wrap returns a fault that keeps cause for the log and for errors.Is.
func Wrap(cause error, code Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...), cause: cause}
}

// WithLines sets e's failed lines and returns e.
func (e *Error) WithLines(lines []Line) *Error {
	e.Lines = lines
	return e
}

// WithRetryAfter sets how long to wait before another try and returns e.
func (e *Error) WithRetryAfter(d time.Duration) *Error {
	e.RetryAfter = d
	return e
}

// Error is for logs: it includes the cause.
func (e *Error) Error() string {
	if e.cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Detail, e.cause)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Detail)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// From returns err's fault. The end of a context becomes Timeout, anything else
// Internal with err as its cause. From(nil) is nil.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return Wrap(err, Timeout, "the request ended before it was answered; "+
			"its outcome may be unknown: send it again with the same idempotency key").WithRetryAfter(time.Second)
	}
	return Wrap(err, Internal, "an error inside the server; its log has the cause under this request's ID")
}

// Is reports whether err's fault has the given code.
func Is(err error, code Code) bool {
	return err != nil && From(err).Code == code
}

// Code is a kind of failure. Its String is the last part of the problem type's path.
type Code uint8

// The kinds of failure. Each has an entry in the table below; a test checks that.
const (
	Internal Code = iota
	InvalidRequest
	MalformedBody
	BodyTooLarge
	UnsupportedMediaType
	RouteNotFound
	MethodNotAllowed
	OrderNotFound
	ReservationNotFound
	SKUNotFound
	UnknownSKU
	MixedCurrency
	InsufficientStock
	StockHeld
	IllegalTransition
	PaymentConflict
	ReservationClosed
	ReservationOwned
	KeyReused
	RequestInFlight
	PreconditionFailed
	EventsRemoved
	TooManyRequests
	Overloaded
	Unavailable
	DiskFull
	Timeout
	codes // how many there are
)

// Kind describes a Code to the outside.
type Kind struct {
	Slug        string
	Title       string
	Status      int    // HTTP
	Explanation string // one paragraph, for the problem type's page
}

// Codes returns every Code, in order.
func Codes() []Code {
	all := make([]Code, codes)
	for i := range all {
		all[i] = Code(i)
	}
	return all
}

// String returns the slug.
func (c Code) String() string { return c.Kind().Slug }

// Status returns the HTTP status.
func (c Code) Status() int { return c.Kind().Status }

// Path returns the problem type: a path that the server itself answers.
func (c Code) Path() string { return "/problems/" + c.Kind().Slug }

// Kind returns what the outside is told about c.
func (c Code) Kind() Kind {
	if c >= codes {
		c = Internal
	}
	return kinds[c]
}

//nolint:gochecknoglobals // a constant table
var kinds = [codes]Kind{
	Internal: {
		"internal", "Internal error", http.StatusInternalServerError,
		"Something failed inside the server that should not. The cause is in the server's log under the request's ID. A retry with the same Idempotency-Key is safe.",
	},
	InvalidRequest: {
		"invalid-request", "Invalid request", http.StatusBadRequest,
		"A parameter, header or field is missing, out of range or unknown. The detail names it. Sending the same request again will fail again.",
	},
	MalformedBody: {
		"malformed-body", "Malformed body", http.StatusBadRequest,
		"The body is not the JSON that the operation takes: a syntax error, an unknown field, a missing field or a wrong type. The detail says where.",
	},
	BodyTooLarge: {
		"body-too-large", "Body too large", http.StatusRequestEntityTooLarge,
		"The body is larger than the operation takes. Split the work: order batches hold up to 1,000 orders, imports may be sent in several files.",
	},
	UnsupportedMediaType: {
		"unsupported-media-type", "Unsupported media type", http.StatusUnsupportedMediaType,
		"The Content-Type is not one that the operation takes; most take application/json.",
	},
	RouteNotFound: {
		"route-not-found", "No such path", http.StatusNotFound,
		"The server has nothing at this path. The reference at /docs lists every path.",
	},
	MethodNotAllowed: {
		"method-not-allowed", "Method not allowed", http.StatusMethodNotAllowed,
		"The path exists but does not take this method; the Allow header names those that it takes.",
	},
	OrderNotFound: {
		"order-not-found", "No such order", http.StatusNotFound,
		"There is no order with this ID.",
	},
	ReservationNotFound: {
		"reservation-not-found", "No such reservation", http.StatusNotFound,
		"There is no reservation with this ID.",
	},
	SKUNotFound: {
		"sku-not-found", "No such SKU", http.StatusNotFound,
		"The SKU of the path is not in the catalogue. Create it with PUT /v1/skus/{sku} first.",
	},
	UnknownSKU: {
		"unknown-sku", "Unknown SKU", http.StatusUnprocessableEntity,
		"Some lines name a SKU that is not in the catalogue; the field lines lists them. Nothing was reserved.",
	},
	MixedCurrency: {
		"mixed-currency", "Mixed currencies", http.StatusUnprocessableEntity,
		"The lines are priced in more than one currency. Place one order for each currency.",
	},
	InsufficientStock: {
		"insufficient-stock", "Insufficient stock", http.StatusConflict,
		"At least one line asks for more than is available; the field lines says for each how much was asked and how much there is. Nothing was reserved, and the refusal is not remembered: a retry is judged anew.",
	},
	StockHeld: {
		"stock-held", "Stock is held", http.StatusConflict,
		"The adjustment would take units that active reservations hold, or more than are on hand. Release reservations first, or adjust by less.",
	},
	IllegalTransition: {
		"illegal-transition", "Not possible in this status", http.StatusConflict,
		"The order's status does not allow this step; the documentation of the order's state machine shows which steps are open in which status.",
	},
	PaymentConflict: {
		"payment-conflict", "Already paid with another reference", http.StatusConflict,
		"The order is paid, under another payment reference. If money was taken twice, refund the second payment.",
	},
	ReservationClosed: {
		"reservation-closed", "Reservation is closed", http.StatusConflict,
		"The reservation is committed, released or expired, so it cannot be changed in this way. Make a new one.",
	},
	ReservationOwned: {
		"reservation-owned", "Reservation belongs to an order", http.StatusConflict,
		"The reservation was made for an order and changes with it. Use the order's own operations: pay or cancel.",
	},
	KeyReused: {
		"idempotency-key-reused", "Idempotency key used for another request", http.StatusUnprocessableEntity,
		"This Idempotency-Key came before with another body. Use one key for each thing to create, and the same key only to repeat the same request.",
	},
	RequestInFlight: {
		"request-in-flight", "The same request is being handled", http.StatusConflict,
		"A request with this Idempotency-Key is being handled right now. Wait for its answer, or try again shortly.",
	},
	PreconditionFailed: {
		"precondition-failed", "Precondition failed", http.StatusPreconditionFailed,
		"If-Match or If-None-Match does not hold: somebody changed the resource in between. Read it again and decide anew.",
	},
	EventsRemoved: {
		"events-removed", "Events were removed", http.StatusGone,
		"Events after this cursor are older than the server keeps its history (--keep-history), so reading on from it would miss some. Read what you need from orders and stock themselves, then read the feed from its beginning, without after.",
	},
	TooManyRequests: {
		"too-many-requests", "Too many requests", http.StatusTooManyRequests,
		"The server handles as many requests as it can at once. Nothing was done; wait as long as Retry-After says, then try again.",
	},
	Overloaded: {
		"overloaded", "Overloaded", http.StatusServiceUnavailable,
		"The queue in front of the store is full. Nothing was done; wait as long as Retry-After says, then try again with the same Idempotency-Key.",
	},
	Unavailable: {
		"unavailable", "Unavailable", http.StatusServiceUnavailable,
		"The server is starting, stopping, or has stopped its store after a failure. Try again with the same Idempotency-Key: a request that was done is not done twice.",
	},
	DiskFull: {
		"disk-full", "Disk is full", http.StatusServiceUnavailable,
		"The data folder's disk is nearly full, so the server takes no new work; reading goes on. Its operators must free space.",
	},
	Timeout: {
		"timeout", "Timed out", http.StatusServiceUnavailable,
		"The request's time was up before it was answered. Its outcome may be unknown; send it again with the same Idempotency-Key.",
	},
}
