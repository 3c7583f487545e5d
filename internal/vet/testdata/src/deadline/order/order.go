package order

import (
	"context"
	"os"
	"os/signal"
	"time"

	"deadline/stock"
)

func place(ctx context.Context, s *stock.Service) error { // want place:`waits 0:gRPC's Reserve`
	return s.ReserveAll([]string{"22632"}, ctx)
}

func bad(s *stock.Service) {
	place(context.Background(), s)               // want `select: place waits for gRPC's Reserve for as long as this context lets it`
	stock.Price(context.TODO(), "http://prices") // want `http-body: Price waits for http.DefaultClient.Do`
	ctx := context.WithValue(context.Background(), "order", 1)
	s.Reserve(ctx, "22632") // want `select: Reserve waits for gRPC's Reserve`
}

func good(ctx context.Context, s *stock.Service) {
	limited, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	place(limited, s)
	until, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	place(until, s)
	s.ReserveSoon(context.Background(), "22632")
	s.Stored("22632")
	either := context.Background()
	if s.Stub == nil {
		either = limited
	}
	place(either, s)
}
