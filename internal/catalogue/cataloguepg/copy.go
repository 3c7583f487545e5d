package cataloguepg

import (
	"context"

	"github.com/penstockhq/penstock/internal/catalogue"
	"github.com/penstockhq/penstock/internal/pgdb"
)

// CopyFrom copies a catalogue into the database; each calls fn for every SKU, in the same
// order every time. told is called as it goes on.
func CopyFrom(ctx context.Context, c *pgdb.Copy, each func(fn func(catalogue.SKU) error) error, told func(table string, rows int64)) error {
	columns := []string{"sku", "title", "amount", "currency", "policy", "version", "updated_at", "changed"}
	return c.Part(ctx, "skus", columns, pgdb.Numbers{}, func(add func([]any) error) error {
		return each(func(s catalogue.SKU) error {
			return add([]any{s.Code, s.Title, s.Amount, s.Currency, s.Policy, s.Version, s.UpdatedAt, 1})
		})
	}, told)
}
