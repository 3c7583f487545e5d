// Package cataloguetest is the conformance suite of catalogue stores: every promise
// that a store makes, as tests that each store runs. It is imported from tests alone.
package cataloguetest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/penstockhq/penstock/internal/catalogue"
	"github.com/penstockhq/penstock/internal/catalogue/catalogueservice"
	"github.com/penstockhq/penstock/internal/fault"
)

// Store is what the suite tests.
type Store = catalogueservice.Store

// Fixture is a store for one test.
type Fixture struct {
	Store Store
	// Reopen closes the store and opens it again on the same data.
	Reopen func() Store
}

// Run runs the suite. open returns a fresh fixture that the test's end closes.
func Run(t *testing.T, open func(t *testing.T) *Fixture) {
	t.Helper()
	for name, test := range map[string]func(t *testing.T, f *Fixture){
		"Put_CreatesThenReplacesAndSurvives":       put,
		"Put_HoldsPreconditionsAlsoWithinOneBatch": preconditions,
		"Put_OfTwoThatRaceOneWins":                 race,
		"List_InOrderByPrefixAndPage":              list,
		"Import_GoodLinesStandBadOnesAreReported":  importCSV,
		"Import_NDJSONLikewise":                    importNDJSON,
		"Import_RefusesWhatIsNotAnImport":          importRubbish,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func sku(code string, amount int64) catalogue.SKU {
	return catalogue.SKU{Code: code, Title: "Thing " + code, Amount: amount, Currency: "GBP", Policy: "reserve"}
}

func (f *Fixture) put(t testing.TB, puts ...catalogue.Put) []catalogueservice.PutResult {
	t.Helper()
	out, err := f.Store.Put(context.Background(), puts)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (f *Fixture) get(t testing.TB, code string) catalogue.SKU {
	t.Helper()
	got, ok, err := f.Store.Get(context.Background(), code)
	if err != nil || !ok {
		t.Fatalf("get %s: %v, %v", code, ok, err)
	}
	return got
}

func put(t *testing.T, f *Fixture) {
	made := f.put(t, catalogue.Put{SKU: sku("A", 185)})[0]
	if made.Err != nil || made.SKU.Version != 1 || made.SKU.UpdatedAt.IsZero() {
		t.Fatalf("got %+v", made)
	}
	next := sku("A", 200)
	next.Policy = "track"
	f.put(t, catalogue.Put{SKU: next})
	f.Store = f.Reopen()
	got := f.get(t, "A")
	if got.Version != 2 || got.Amount != 200 || got.Policy != "track" || got.Title != "Thing A" || got.Currency != "GBP" {
		t.Fatalf("got %+v", got)
	}
	if _, ok, err := f.Store.Get(context.Background(), "B"); ok || err != nil {
		t.Fatalf("a SKU that was never put: %v, %v", ok, err)
	}
}

func preconditions(t *testing.T, f *Fixture) {
	out := f.put(t,
		catalogue.Put{SKU: sku("A", 1), IfVersion: 1}, // there is none
		catalogue.Put{SKU: sku("A", 2), Create: true},
		catalogue.Put{SKU: sku("A", 3), Create: true}, // there is one
		catalogue.Put{SKU: sku("A", 4), IfVersion: 1},
		catalogue.Put{SKU: sku("A", 5), IfVersion: 1}, // it has version 2
	)
	for i, ok := range []bool{false, true, false, true, false} {
		if (out[i].Err == nil) != ok || !ok && !fault.Is(out[i].Err, fault.PreconditionFailed) {
			t.Errorf("put %d: got %v", i, out[i].Err)
		}
	}
	if got := f.get(t, "A"); got.Amount != 4 || got.Version != 2 {
		t.Fatalf("got %+v", got)
	}
}

func race(t *testing.T, f *Fixture) {
	f.put(t, catalogue.Put{SKU: sku("A", 0)})
	var all sync.WaitGroup
	won := make(chan int64, 16)
	for i := range int64(16) {
		all.Go(func() {
			if out := f.put(t, catalogue.Put{SKU: sku("A", i), IfVersion: 1}); out[0].Err == nil {
				won <- i
			}
		})
	}
	all.Wait()
	close(won)
	winner, more := <-won, 0
	for range won {
		more++
	}
	if got := f.get(t, "A"); more != 0 || got.Amount != winner || got.Version != 2 {
		t.Fatalf("%d more than one won; got %+v", more, got)
	}
}

func list(t *testing.T, f *Fixture) {
	for _, code := range []string{"B2", "A", "B1", "B10", "C"} {
		f.put(t, catalogue.Put{SKU: sku(code, 1)})
	}
	for prefix, want := range map[string]string{"": "[A B1 B10 B2 C]", "B": "[B1 B10 B2]", "B1": "[B1 B10]", "X": "[]"} {
		got := []string{}
		for after := ""; ; {
			page, err := f.Store.List(context.Background(), prefix, after, 2)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			for _, s := range page {
				got = append(got, s.Code)
			}
			after = page[len(page)-1].Code
		}
		if fmt.Sprint(got) != want {
			t.Errorf("prefix %q: got %v, want %s", prefix, got, want)
		}
	}
}

func importCSV(t *testing.T, f *Fixture) {
	file := "\ufeffsku,amount,title,currency,policy\n" +
		"A,185,\"Title, with comma\",GBP,\n" + // line 2
		"B,x,Bad amount,GBP,\n" + // 3
		"C,1\n" + // 4: too few
		"D,1,\"two\nlines\",EUR,track\n" + // 5 and 6
		"E,1,Bad currency,gbp,\n" + // 7
		"F,-1,Negative,GBP,\n" + // 8
		"G H,1,Space,GBP,\n" + // 9
		"I,1,Bad policy,GBP,never\n" // 10
	report, err := catalogueservice.New(f.Store).ImportCSV(context.Background(), strings.NewReader(file))
	if err != nil || report.Imported != 2 || report.Failed != 6 {
		t.Fatalf("got %+v, %v", report, err)
	}
	var lines []int64
	for _, e := range report.Errors {
		lines = append(lines, e.Line)
		if e.Reason == "" {
			t.Errorf("line %d has no reason", e.Line)
		}
	}
	if fmt.Sprint(lines) != "[3 4 7 8 9 10]" {
		t.Fatalf("failed lines %v", lines)
	}
	if got := f.get(t, "D"); got.Title != "two\nlines" || got.Policy != "track" || got.Currency != "EUR" {
		t.Fatalf("got %+v", got)
	}
}

func importNDJSON(t *testing.T, f *Fixture) {
	var file strings.Builder
	for i := range 4500 { // more than two chunks
		fmt.Fprintf(&file, `{"sku":"S%d","title":"t","unit_price":{"amount":%d,"currency":"GBP"}}`+"\n", i, i)
	}
	file.WriteString("\n{}\n" + `{"sku":"X","title":"t","price":1}` + "\n" + `{"sku":"Y"` + "\n")
	report, err := catalogueservice.New(f.Store).ImportNDJSON(context.Background(), strings.NewReader(file.String()))
	if err != nil || report.Imported != 4500 || report.Failed != 3 || report.Errors[0].Line != 4502 {
		t.Fatalf("got %+v, %v", report, err)
	}
	if got := f.get(t, "S4499"); got.Amount != 4499 {
		t.Fatalf("got %+v", got)
	}
}

func importRubbish(t *testing.T, f *Fixture) {
	svc := catalogueservice.New(f.Store)
	for name, file := range map[string]string{"empty": "", "no header": "1,2,3\n", "wrong header": "code,name\nA,B\n"} {
		if _, err := svc.ImportCSV(context.Background(), strings.NewReader(file)); !fault.Is(err, fault.InvalidRequest) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := svc.ImportNDJSON(context.Background(), strings.NewReader(strings.Repeat("x", 1<<17))); !fault.Is(err, fault.InvalidRequest) {
		t.Errorf("an endless line: got %v", err)
	}
}
