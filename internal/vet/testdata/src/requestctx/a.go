package requestctx

import (
	"context"
	"net/http"
	"sync"
)

func save(ctx context.Context, who string) {}

func forgets(w http.ResponseWriter, r *http.Request) {
	go save(r.Context(), "x") // want `request: this goroutine outlives the handler and uses r`
}

func copies(w http.ResponseWriter, r *http.Request) {
	who := r.Host
	ctx := context.WithoutCancel(r.Context())
	go save(ctx, who)
	go save(context.WithoutCancel(r.Context()), who)
}

func waitsForIt(w http.ResponseWriter, r *http.Request) {
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		save(r.Context(), "x")
	}()
	wg.Wait()
}

func endsWithTheRequest(w http.ResponseWriter, r *http.Request) {
	go follow(r.Context())
	go func() {
		<-r.Context().Done()
	}()
	go func() { // reads more of it
		<-r.Context().Done() // want `request: this goroutine outlives`
		save(nil, r.Host)
	}()
}

func follow(ctx context.Context) { <-ctx.Done() }
