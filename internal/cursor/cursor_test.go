package cursor_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstockhq/penstock/internal/cursor"
	"github.com/penstockhq/penstock/internal/fault"
)

func TestDecode_ReturnsWhatWasEncodedForTheSameQueryOnly(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		scope := rapid.String().Draw(t, "scope")
		fields := rapid.SliceOfN(rapid.String(), 1, 4).Draw(t, "fields")
		token := cursor.Encode(scope, fields...)
		got, err := cursor.Decode("page_token", token, scope, len(fields))
		if err != nil || !slices.Equal(got, fields) {
			t.Fatalf("got %q, %v", got, err)
		}
		if _, err := cursor.Decode("page_token", token, scope+"x", len(fields)); !fault.Is(err, fault.InvalidRequest) {
			t.Fatalf("a token of another query was taken: %v", err)
		}
		if _, err := cursor.Decode("page_token", token, scope, len(fields)+1); !fault.Is(err, fault.InvalidRequest) {
			t.Fatalf("a token with too few fields was taken: %v", err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add(cursor.Encode("orders", "ord_1"))
	f.Add("")
	f.Add("AAAA")
	f.Fuzz(func(t *testing.T, token string) {
		fields, err := cursor.Decode("page_token", token, "orders", 1)
		if err != nil {
			if !fault.Is(err, fault.InvalidRequest) {
				t.Fatalf("%q: %v", token, err)
			}
			return
		}
		// The checksum is short enough for a fuzzer to hit; what passes must be sound.
		if len(fields) != 1 {
			t.Fatalf("%q: %d fields", token, len(fields))
		}
	})
}
