package pgdb_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/internal/pgdb"
	"github.com/penstockhq/penstock/internal/testkit"
)

// wide is a row with a column of every kind.
type wide struct {
	id    string
	kind  string // usually the same
	note  string // "" is NULL
	hash  []byte // nil is NULL
	parts []string
	sizes []int64
}

func (w wide) String() string {
	return fmt.Sprintf("%s %s %q %x %q %v", w.id, w.kind, w.note, w.hash, w.parts, w.sizes)
}

func quoted(values []string) string {
	return "{" + strings.Join(pgdb.Of(values, func(v string) string { return `"` + strings.ReplaceAll(v, `"`, `\"`) + `"` }), ",") + "}"
}

func numbers(values []int64) string {
	return "{" + strings.Join(pgdb.Of(values, func(v int64) string { return strconv.FormatInt(v, 10) }), ",") + "}"
}

func columns(rows []wide) []pgdb.Column {
	return []pgdb.Column{
		pgdb.Each("id", "text", pgdb.Of(rows, func(w wide) string { return w.id })),
		pgdb.Alike("kind", "text", pgdb.Of(rows, func(w wide) string { return w.kind })),
		pgdb.AlikeText("note", pgdb.Of(rows, func(w wide) string { return w.note })),
		pgdb.AlikeBytes("hash", pgdb.Of(rows, func(w wide) []byte { return w.hash })),
		pgdb.Lists("parts", "text", pgdb.Of(rows, func(w wide) []string { return w.parts }), quoted),
		pgdb.Lists("sizes", "bigint", pgdb.Of(rows, func(w wide) []int64 { return w.sizes }), numbers),
		pgdb.One("every", "integer", 7),
	}
}

func TestInsert_WhatIsReadIsWhatWasWrittenHoweverItWent(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	url := testkit.Database(t)
	db := testkit.Open(t, url)
	probed(t, url)
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(ctx) })
	_, err = conn.Exec(ctx, `INSERT INTO counters VALUES ('numbers', 5);
		CREATE TABLE wide (seq bigint, id text, kind text, note text, hash bytea, parts text[], sizes bigint[], every integer)`)
	if err != nil {
		t.Fatal(err)
	}
	numbered := int64(5)
	for name, rows := range map[string][]wide{
		"a lone row":                    {{"a", "k", "n", []byte{1}, []string{"x", `y"z`}, []int64{1, 2}}},
		"a lone row of nothing":         {{id: "a"}},
		"two that differ in all":        {{"a", "k", "", nil, []string{"x"}, []int64{1}}, {"b", "l", "n", []byte{1}, []string{"y", `z"`}, []int64{2, 3}}},
		"lists of one":                  {{"a", "k", "n", nil, []string{"x"}, []int64{1}}, {"b", "k", "n", nil, []string{"y"}, []int64{2}}},
		"what is alike":                 {{"a", "k", "n", []byte{9}, []string{"x", "y"}, []int64{1}}, {"b", "k", "n", []byte{9}, []string{"x", "y"}, []int64{1}}},
		"lists that are not everywhere": {{"a", "k", "n", nil, nil, []int64{1}}, {"b", "k", "n", nil, []string{"y"}, nil}},
		"the second half differs":       {{id: "a", kind: "k"}, {id: "b", kind: "k"}, {id: "c", kind: "l", note: "n"}},
	} {
		for _, withNumbers := range []bool{false, true} {
			err := run(db, &probe{also: func(w *pgdb.Writes) {
				w.Queue("TRUNCATE wide")
				if withNumbers {
					pgdb.InsertNumbered(w, "wide", "numbers", len(rows), columns(rows)...)
				} else {
					pgdb.Insert(w, "wide", columns(rows)...)
				}
			}})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			var want, got []string
			for i, w := range rows {
				seq := "-"
				if withNumbers {
					seq = strconv.FormatInt(numbered+int64(i)+1, 10)
				}
				want = append(want, seq+" "+w.String()+" 7")
			}
			found, err := conn.Query(ctx, `SELECT coalesce(seq::text, '-'), id, kind, coalesce(note, ''), hash, parts, sizes, every,
				note = '' OR hash = '' FROM wide ORDER BY id`)
			if err != nil {
				t.Fatal(err)
			}
			for found.Next() {
				var w wide
				var seq string
				var every int
				var empty *bool
				if err := found.Scan(&seq, &w.id, &w.kind, &w.note, &w.hash, &w.parts, &w.sizes, &every, &empty); err != nil {
					t.Fatal(err)
				}
				if empty != nil && *empty {
					t.Errorf("%s: row %s has something empty that should be NULL", name, w.id)
				}
				got = append(got, seq+" "+w.String()+" "+strconv.Itoa(every))
			}
			if err := found.Err(); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s:\n got %q\nwant %q", name, got, want)
			}
			if withNumbers {
				numbered += int64(len(rows))
			}
		}
	}
	var value int64
	if err := conn.QueryRow(ctx, "SELECT value FROM counters WHERE name = 'numbers'").Scan(&value); err != nil || value != numbered {
		t.Errorf("the counter is at %d (%v), want %d", value, err, numbered)
	}
}
