// Package grpc has the types by which gRPC's generated clients are known.
package grpc

type CallOption interface{ after() }

type ClientStream interface{ RecvMsg(m any) error }
