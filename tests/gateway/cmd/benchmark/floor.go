package main

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
)

// unread is a codec that does not decode messages.
type unread struct{}

func (unread) Marshal(message any) (mem.BufferSlice, error) {
	return *message.(*mem.BufferSlice), nil
}

// Unmarshal keeps the buffers, which grpc-go would reuse otherwise; sending them frees them.
func (unread) Unmarshal(data mem.BufferSlice, message any) error {
	data.Ref()
	*message.(*mem.BufferSlice) = data
	return nil
}

func (unread) Name() string { return "proto" }

func dispatch(
	_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor,
) (any, error) {
	object := &mem.BufferSlice{}
	return object, decode(object)
}

// serveFloor answers every call of the Dispatcher with its own object: the least that a plugin server can do.
func serveFloor(socket string) error {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(unread{}))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "coprocess.Dispatcher",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Dispatch", Handler: dispatch}},
	}, nil)
	return server.Serve(listener)
}
