package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"

	"google.golang.org/grpc"

	"tykpy.test/gateway/internal/coprocess"
)

// relayedBytes is above every limit that a test sets.
const relayedBytes = 256 << 20

// relay stands between a real gateway and the broker, and remembers the calls as if they were this gateway's own.
type relay struct {
	coprocess.UnimplementedDispatcherServer
	gateway *Gateway
}

// relay listens on an ephemeral port and returns its host:port.
func (g *Gateway) relay() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(relayedBytes))
	coprocess.RegisterDispatcherServer(server, &relay{gateway: g})
	go func() {
		log.Fatal(fmt.Errorf("the relay ended: %w", server.Serve(listener)))
	}()
	return listener.Addr().String(), nil
}

// Dispatch passes a call on.
func (r *relay) Dispatch(ctx context.Context, object *coprocess.Object) (*coprocess.Object, error) {
	return r.gateway.dispatch(ctx, object)
}

// DispatchEvent passes an event on.
func (r *relay) DispatchEvent(ctx context.Context, event *coprocess.Event) (*coprocess.EventReply, error) {
	reply, err := r.gateway.client.DispatchEvent(ctx, event)
	var sent struct {
		Handler string `json:"handler_name"`
		Spec    struct{ APIID string }
	}
	if json.Unmarshal([]byte(event.Payload), &sent) == nil {
		r.gateway.events.add(sent.Spec.APIID, sent.Handler, err)
	}
	return reply, err
}
