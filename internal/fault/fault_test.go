package fault_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/penstockhq/penstock/internal/fault"
)

func TestCodes_EachHasItsOwnSlugAndFullExplanation(t *testing.T) {
	t.Parallel()
	seen := map[string]fault.Code{}
	for _, code := range fault.Codes() {
		kind := code.Kind()
		if other, dup := seen[kind.Slug]; dup {
			t.Errorf("codes %d and %d share the slug %q", other, code, kind.Slug)
		}
		seen[kind.Slug] = code
		if kind.Slug == "" || kind.Title == "" || len(kind.Explanation) < 30 {
			t.Errorf("code %d is not fully described: %+v", code, kind)
		}
		if kind.Status < 400 || kind.Status > 599 {
			t.Errorf("%s has status %d", kind.Slug, kind.Status)
		}
		if code.Path() != "/problems/"+kind.Slug {
			t.Errorf("%s has path %s", kind.Slug, code.Path())
		}
	}
}

func TestFrom_UnknownErrorsAreInternalAndKeepTheirTextInside(t *testing.T) {
	t.Parallel()
	got := fault.From(fmt.Errorf("read row: %w", io.ErrUnexpectedEOF))
	if got.Code != fault.Internal || !errors.Is(got, io.ErrUnexpectedEOF) {
		t.Fatalf("got %v", got)
	}
	if strings.Contains(got.Detail, "EOF") {
		t.Fatalf("the cause leaks into the public detail: %q", got.Detail)
	}
}

func TestFrom_FindsAWrappedFaultAndKnowsContextEnds(t *testing.T) {
	t.Parallel()
	wrapped := fmt.Errorf("place: %w", fault.New(fault.KeyReused, "key %q", "k"))
	if !fault.Is(wrapped, fault.KeyReused) || fault.Is(nil, fault.Internal) {
		t.Fatal("a wrapped fault must be found, and nil is none")
	}
	if !fault.Is(context.DeadlineExceeded, fault.Timeout) || !fault.Is(context.Canceled, fault.Timeout) {
		t.Fatal("the end of a context is a Timeout")
	}
}
