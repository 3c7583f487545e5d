package pgdb

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
)

// This file writes rows by the batch. An array for each column, unnested, costs the server
// a copy of each value for each column; a value that is the same in all rows costs nothing
// when it goes once. So what is sent depends on what there is: a lone row goes as plain
// values, and what is alike in many rows goes as one.

// Column is a column of rows that are inserted together.
type Column struct {
	name, typ string
	value     any    // of all rows, or an array with one for each
	array     bool   // whether it is that
	as        string // what becomes of an array's value, "" for itself; see Lists
}

// One is a column with one value for all rows. typ is its type in SQL.
func One(name, typ string, value any) Column { return Column{name: name, typ: typ, value: value} }

// Each is a column with a value for each row.
func Each[T any](name, typ string, values []T) Column {
	if len(values) == 1 {
		return One(name, typ, values[0])
	}
	return Column{name: name, typ: typ, value: values, array: true}
}

// Alike is a column whose values are often the same in all rows of a batch: what is being
// sold while everyone wants the same. Each set of columns that turn out alike is a
// statement of its own, which every connection plans once; there must not be many.
func Alike[T comparable](name, typ string, values []T) Column {
	return alike(name, typ, values, func(a, b T) bool { return a == b })
}

// AlikeBytes is Alike for bytes.
func AlikeBytes(name string, values [][]byte) Column {
	return alike(name, "bytea", values, bytes.Equal)
}

// AlikeText is Alike for texts of which the empty one is NULL.
func AlikeText(name string, values []string) Column {
	c := Alike(name, "text", values)
	if c.array {
		c.value = Of(values, Optional)
	} else {
		c.value = Optional(values[0])
	}
	return c
}

func alike[T any](name, typ string, values []T, equal func(a, b T) bool) Column {
	for _, v := range values {
		if !equal(v, values[0]) {
			return Each(name, typ, values)
		}
	}
	return One(name, typ, values[0])
}

// Of returns what get returns for each row.
func Of[R, T any](rows []R, get func(R) T) []T {
	values := make([]T, len(rows))
	for i, r := range rows {
		values[i] = get(r)
	}
	return values
}

// Lists is a column of arrays; typ is the type of their elements, and nil is NULL. literal
// writes one in PostgreSQL's syntax: unnest would flatten arrays of arrays, so those of
// several elements go as text.
func Lists[T comparable](name, typ string, values [][]T, literal func([]T) string) Column {
	c := alike(name, typ+"[]", values, slices.Equal[[]T])
	if !c.array {
		return c
	}
	if !slices.ContainsFunc(values, func(v []T) bool { return len(v) != 1 }) {
		elements := make([]T, len(values))
		for i, v := range values {
			elements[i] = v[0]
		}
		return Column{name: name, typ: typ, value: elements, array: true, as: "ARRAY[?]"}
	}
	texts := Of(values, func(v []T) *string {
		if v == nil {
			return nil
		}
		text := literal(v)
		return &text
	})
	return Column{name: name, typ: "text", value: texts, array: true, as: "?::" + typ + "[]"}
}

// Insert queues the insertion of rows, in the order of the values.
func Insert(w *Writes, table string, columns ...Column) {
	s := newInsertion(columns)
	s.sql.WriteString("INSERT INTO ")
	s.sql.WriteString(table)
	s.names("")
	s.values("", "")
	w.Queue(s.sql.String(), s.args...)
}

// InsertNumbered queues the insertion of n rows with numbers, in column seq, that it takes
// from a counter. The counter's row is locked from there on.
func InsertNumbered(w *Writes, table, counter string, n int, columns ...Column) {
	s := newInsertion(columns)
	count, name := s.arg(int64(n)), s.arg(counter)
	s.sql.WriteString("WITH c AS (UPDATE counters SET value = value + " + count + " WHERE name = " + name +
		" RETURNING value - " + count + " AS base) INSERT INTO ")
	s.sql.WriteString(table)
	s.names("seq, ")
	s.values("c.base + n, ", "c")
	w.Queue(s.sql.String(), s.args...)
}

// insertion is a statement that is being put together.
type insertion struct {
	columns []Column
	sql     strings.Builder
	args    []any
}

func newInsertion(columns []Column) *insertion {
	s := &insertion{columns: columns, args: make([]any, 0, len(columns)+2)}
	s.sql.Grow(80 * (len(columns) + 2))
	return s
}

// arg adds an argument and returns its name.
func (s *insertion) arg(value any) string {
	s.args = append(s.args, value)
	return "$" + strconv.Itoa(len(s.args))
}

func (s *insertion) names(first string) {
	s.sql.WriteString(" (" + first)
	for i := range s.columns {
		s.separate(i)
		s.sql.WriteString(s.columns[i].name)
	}
	s.sql.WriteString(")")
}

// values selects the values from the arrays and, where it is named, another source; n is
// the number of the row.
func (s *insertion) values(first, source string) {
	arrays := false
	s.sql.WriteString(" SELECT " + first)
	for i, c := range s.columns {
		s.separate(i)
		switch {
		case !c.array:
			s.sql.WriteString(s.arg(c.value) + "::" + c.typ)
		case c.as != "":
			s.sql.WriteString(strings.Replace(c.as, "?", "u."+c.name, 1))
		default:
			s.sql.WriteString("u." + c.name)
		}
		arrays = arrays || c.array
	}
	if !arrays && source == "" {
		return
	}
	s.sql.WriteString(" FROM ")
	if source != "" {
		s.sql.WriteString(source + ", ")
	}
	if !arrays {
		s.sql.WriteString("(VALUES (1)) u(n)")
		return
	}
	s.sql.WriteString("unnest(")
	s.arrays(func(c Column) string { return s.arg(c.value) + "::" + c.typ + "[]" })
	s.sql.WriteString(")")
	if source != "" {
		s.sql.WriteString(" WITH ORDINALITY")
	}
	s.sql.WriteString(" u(")
	s.arrays(func(c Column) string { return c.name })
	if source != "" {
		s.sql.WriteString(", n")
	}
	s.sql.WriteString(")")
}

// arrays writes something for each array.
func (s *insertion) arrays(text func(Column) string) {
	n := 0
	for _, c := range s.columns {
		if c.array {
			s.separate(n)
			s.sql.WriteString(text(c))
			n++
		}
	}
}

func (s *insertion) separate(i int) {
	if i > 0 {
		s.sql.WriteString(", ")
	}
}
