package pgdb

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/penstockhq/penstock/internal/fault"
)

// SQLSTATE codes that mean something here; see appendix A of PostgreSQL's manual.
const (
	uniqueViolation      = "23505"
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	lockNotAvailable     = "55P03"
	readOnlyTransaction  = "25006"
	diskFull             = "53100"
	queryCanceled        = "57014"
	divisionByZero       = "22012" // raised by Expect
)

// ErrReadFirst is what Decide returns when what it took from memory does not suffice:
// the batch is decided again, having read.
var ErrReadFirst = errors.New("the batch must be decided on what is stored")

// Expect is the end of a statement that fails unless as many rows as in the parameter
// came out of "u"; the batch is then decided again, having read.
func Expect(parameter string) string {
	return " SELECT 1 / (count(*) = " + parameter + ")::int FROM u"
}

// code returns the SQLSTATE of err, "" where the server did not say.
func code(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// isConflict reports whether deciding the batch again may help: nothing was written.
func isConflict(err error) bool {
	switch code(err) {
	case uniqueViolation, serializationFailure, deadlockDetected, divisionByZero:
		return true
	default:
		return errors.Is(err, ErrReadFirst)
	}
}

// isOurs reports whether err tells of a mistake in this program or its schema, as
// against a database that cannot be used for a while.
func isOurs(err error) bool {
	c := code(err)
	if len(c) != 5 {
		return false
	}
	switch c[:2] {
	case "22", "23", "26", "34", "42", "0A":
		return true
	default:
		return false
	}
}

// Fault turns an error of the database into what a caller may see. An error that is
// none of the database's comes back as it is.
func (db *DB) Fault(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	retry := time.Second
	switch c := code(err); {
	case isConflict(err):
		return fault.Wrap(err, fault.Overloaded, "other processes changed the same rows again and again; nothing was changed").WithRetryAfter(retry)
	case isOurs(err):
		return err
	case c == diskFull:
		return fault.Wrap(err, fault.DiskFull, "the database's disk is full; nothing was changed").WithRetryAfter(5 * retry)
	case c == readOnlyTransaction:
		return fault.Wrap(err, fault.Unavailable, "the database is read-only at the moment, after a failover perhaps; nothing was changed").WithRetryAfter(retry)
	case c == lockNotAvailable, c == queryCanceled, errors.Is(err, context.DeadlineExceeded):
		return fault.Wrap(err, fault.Timeout, "the database took too long; nothing was changed").WithRetryAfter(retry)
	default:
		return fault.Wrap(err, fault.Unavailable, "the database cannot be reached").WithRetryAfter(retry)
	}
}

// unknown is what callers of a batch get whose commit may or may not have happened.
func unknown(err error) *fault.Error {
	return fault.Wrap(err, fault.Unavailable, "the connection to the database broke while this was being committed, so the outcome is unknown; "+
		"send the request again with the same idempotency key").WithRetryAfter(time.Second)
}
