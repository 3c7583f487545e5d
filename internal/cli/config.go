package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/goccy/go-yaml"
)

// loadYAML reads a configuration file: flags by name, all at the top level.
func loadYAML(r io.Reader) (kong.Resolver, error) {
	raw, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	values := map[string]any{}
	if err := yaml.Unmarshal(raw, &values); err != nil {
		return nil, fmt.Errorf("the configuration file is not YAML of \"flag: value\" lines: %w", err)
	}
	return configFile(values), nil
}

type configFile map[string]any

// Validate refuses what no flag reads: it is a typing mistake, not a wish.
func (c configFile) Validate(app *kong.Application) error {
	known := map[string]bool{}
	collect(app.Node, known)
	var unknown []string
	for name := range c {
		if !known[name] {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		return fmt.Errorf("the configuration file sets %s, which no command has as a flag", strings.Join(unknown, ", "))
	}
	return nil
}

func collect(n *kong.Node, known map[string]bool) {
	for _, f := range n.Flags {
		known[f.Name] = true
	}
	for _, child := range n.Children {
		collect(child, known)
	}
}

// Resolve gives kong the value of a flag that neither the command line nor the
// environment sets.
func (c configFile) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	v, ok := c[flag.Name]
	if !ok {
		return nil, nil //nolint:nilnil // kong's way of saying that there is none
	}
	switch v.(type) {
	case map[string]any, []any, nil:
		return nil, errors.New("the configuration file's " + flag.Name + " must be one value")
	}
	return fmt.Sprint(v), nil
}
