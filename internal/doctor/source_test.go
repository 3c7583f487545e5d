package doctor

import (
	"os"
	"path/filepath"
	"testing"
)

func TestSources_KnowWhatALineMakesRoomFor(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "a.go")
	code := `package a
func put(m map[string][]byte, k string) { m[k] = make([]byte, 9) }
func grow(l []*int) []*int { return append(l, new(int)) }
func set(v [5]int, w []int) *int {
	x := make([]int, 3)
	x[0], v[1], w[2] = 1, 2, 3
	return new(int)
}
func keep(c *cache, k string) {
	e := &entry{}
	c.m[k] = e
}
`
	if err := os.WriteFile(file, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[int]struct {
		what  string
		fills bool
	}{2: {"map", true}, 3: {"slice", false}, 7: {"", false}, 10: {"", true}} {
		what, fills := newSources("").allocatesFor(Frame{Func: "a.f", File: file, Line: line})
		if what != want.what || fills != want.fills {
			t.Errorf("line %d: %q, fills a map: %t", line, what, fills)
		}
	}
}
