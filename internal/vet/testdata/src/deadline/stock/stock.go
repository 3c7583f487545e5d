package stock

import (
	"context"
	"net/http"
	"time"

	"google.golang.org/grpc"
)

type Client interface {
	Reserve(ctx context.Context, sku string, opts ...grpc.CallOption) (string, error)
	Watch(ctx context.Context, sku string, opts ...grpc.CallOption) (grpc.ClientStream, error)
}

type Service struct {
	Stub Client
	ctx  context.Context
}

func (s *Service) Reserve(ctx context.Context, sku string) error { // want Reserve:`waits 0:gRPC's Reserve`
	ctx = context.WithValue(ctx, "sku", sku)
	_, err := s.Stub.Reserve(ctx, sku)
	return err
}

func (s *Service) ReserveAll(skus []string, ctx context.Context) error { // want ReserveAll:`waits 1:gRPC's Reserve`
	done := make(chan error)
	for _, sku := range skus {
		go func() { done <- s.Reserve(ctx, sku) }()
	}
	return <-done
}

func (s *Service) ReserveSoon(ctx context.Context, sku string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return s.Reserve(ctx, sku)
}

func (s *Service) ReserveSooner(ctx context.Context, sku string, limit time.Duration) error {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	return s.Reserve(ctx, sku)
}

func (s *Service) Stored(sku string) error { return s.Reserve(s.ctx, sku) }

func Price(ctx context.Context, url string) error { // want Price:`waits 0:http.DefaultClient.Do`
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	_, err = http.DefaultClient.Do(req)
	return err
}

func PriceForEver(url string) {
	req, _ := http.NewRequest(http.MethodGet, url, nil)
	http.DefaultClient.Do(req) // want `http-body: this call of http.DefaultClient.Do has no time limit`
}

func PriceWithin(url string) error {
	req, _ := http.NewRequest(http.MethodGet, url, nil)
	client := &http.Client{Timeout: time.Second}
	_, err := client.Do(req)
	return err
}

func (s *Service) within(ctx context.Context, sku string, opts ...grpc.CallOption) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	s.Stub.Reserve(ctx, sku, opts...)
}

func (s *Service) Later(sku string) { s.within(context.Background(), sku) }

func (s *Service) Now(sku string) {
	ctx := context.Background()
	s.Stub.Reserve(ctx, sku) // want `select: this call of gRPC's Reserve has no time limit`
	s.Stub.Watch(ctx, sku)   // meant to last
}
