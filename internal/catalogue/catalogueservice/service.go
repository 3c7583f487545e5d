// Package catalogueservice has the use cases of the catalogue: putting, reading and
// listing SKUs, and importing many of them.
package catalogueservice

import (
	"cmp"
	"context"
	"fmt"

	"github.com/penstockhq/penstock/internal/catalogue"
	"github.com/penstockhq/penstock/internal/fault"
)

// Store keeps the catalogue. Every answer is durable.
type Store interface {
	// Put carries out each wish on its own; the i-th result answers the i-th wish.
	Put(ctx context.Context, puts []catalogue.Put) ([]PutResult, error)
	// Get returns the SKU; ok is false where there is none.
	Get(ctx context.Context, code string) (sku catalogue.SKU, ok bool, err error)
	// List returns up to limit SKUs whose code has the prefix and is after the given one, in order.
	List(ctx context.Context, prefix, after string, limit int) ([]catalogue.SKU, error)
}

// PutResult answers one catalogue.Put.
type PutResult struct {
	SKU catalogue.SKU
	Err error // the refusal, a *fault.Error
}

// Service is the catalogue.
type Service struct{ store Store }

// New returns a Service on store.
func New(store Store) *Service { return &Service{store} }

// Put creates or replaces a SKU.
func (s *Service) Put(ctx context.Context, put catalogue.Put) (catalogue.SKU, error) {
	put.SKU.Policy = cmp.Or(put.SKU.Policy, catalogue.Policies[0])
	if err := put.Validate(); err != nil {
		return catalogue.SKU{}, err
	}
	results, err := s.store.Put(ctx, []catalogue.Put{put})
	if err != nil {
		return catalogue.SKU{}, fmt.Errorf("put SKU: %w", err)
	}
	return results[0].SKU, results[0].Err
}

// Get returns a SKU or fault.SKUNotFound.
func (s *Service) Get(ctx context.Context, code string) (catalogue.SKU, error) {
	if err := catalogue.CheckCode(code); err != nil {
		return catalogue.SKU{}, err
	}
	sku, ok, err := s.store.Get(ctx, code)
	if err != nil {
		return catalogue.SKU{}, fmt.Errorf("read SKU: %w", err)
	}
	if !ok {
		return catalogue.SKU{}, fault.New(fault.SKUNotFound, "there is no SKU %s in the catalogue", code)
	}
	return sku, nil
}

// List lists SKUs in order of code.
func (s *Service) List(ctx context.Context, prefix, after string, limit int) ([]catalogue.SKU, error) {
	skus, err := s.store.List(ctx, prefix, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list SKUs: %w", err)
	}
	return skus, nil
}
