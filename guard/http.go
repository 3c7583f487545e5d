package guard

import (
	"context"
	"net/http"
	"reflect"
)

// Handler watches the requests that next serves, by the pattern of http.ServeMux that
// matched them, or by their method where there is none. A path is no name for a route: it
// may be another one each time.
func (g *Guard) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		done := g.Watch(r.Context(), routeOf(r))
		if done != nil {
			defer done()
		}
		next.ServeHTTP(w, r)
	})
}

// HandlerFor is Handler for one route that has a name.
func (g *Guard) HandlerFor(route string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if done := g.Watch(r.Context(), route); done != nil {
			defer done()
		}
		next.ServeHTTP(w, r)
	})
}

func routeOf(r *http.Request) string {
	if r.Pattern != "" {
		return r.Pattern
	}
	return r.Method
}

// UnaryServer is an interceptor for gRPC's unary calls. The types are those of
// google.golang.org/grpc, which this package does not import:
//
//	grpc.UnaryInterceptor(guard.UnaryServer[grpc.UnaryServerInfo, grpc.UnaryHandler](g))
func UnaryServer[Info any, Handler ~func(context.Context, any) (any, error)](g *Guard) func(ctx context.Context, req any, info *Info, handler Handler) (any, error) {
	return func(ctx context.Context, req any, info *Info, handler Handler) (any, error) {
		if done := g.Watch(ctx, fullMethod(info)); done != nil {
			defer done()
		}
		return handler(ctx, req)
	}
}

// StreamServer is an interceptor for gRPC's streams:
//
//	grpc.StreamInterceptor(guard.StreamServer[grpc.ServerStream, grpc.StreamServerInfo, grpc.StreamHandler](g))
func StreamServer[Stream interface{ Context() context.Context }, Info any, Handler ~func(any, Stream) error](g *Guard) func(srv any, stream Stream, info *Info, handler Handler) error {
	return func(srv any, stream Stream, info *Info, handler Handler) error {
		if done := g.Watch(stream.Context(), fullMethod(info)); done != nil {
			defer done()
		}
		return handler(srv, stream)
	}
}

// fullMethod reads the field FullMethod, which both of gRPC's infos have.
func fullMethod(info any) string {
	v := reflect.Indirect(reflect.ValueOf(info))
	if v.Kind() == reflect.Struct {
		if f := v.FieldByName("FullMethod"); f.Kind() == reflect.String {
			return f.String()
		}
	}
	return "grpc"
}
