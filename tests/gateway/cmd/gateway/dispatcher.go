package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/url"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"tykpy.test/gateway/internal/coprocess"
)

// roundRobin makes grpc-go connect to every address of a name, and alternate between them.
const roundRobin = `{"loadBalancingConfig": [{"round_robin":{}}]}`

// dial makes the one connection for all calls, as Tyk does: plaintext, lazily, limits only where they are configured.
func dial(config *Config) (*grpc.ClientConn, error) {
	target, err := dialTarget(config.GrpcServer)
	if err != nil {
		return nil, err
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	if config.RecvMaxSize > 0 {
		options = append(options, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(config.RecvMaxSize)))
	}
	if config.SendMaxSize > 0 {
		options = append(options, grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(config.SendMaxSize)))
	}
	if config.RoundRobin {
		options = append(options, grpc.WithDefaultServiceConfig(roundRobin))
	}
	if config.Authority != "" {
		options = append(options, grpc.WithAuthority(config.Authority))
	}
	if !config.NoTracing {
		options = append(options, grpc.WithUnaryInterceptor(traced))
	}
	return grpc.NewClient(target, options...)
}

// dialTarget refuses what Tyk cannot parse (a bare host:port), and removes tcp://, which grpc-go does not know.
func dialTarget(configured string) (string, error) {
	if configured == "" {
		return "", errors.New("no gRPC URL is set")
	}
	if _, err := url.Parse(configured); err != nil {
		return "", fmt.Errorf("coprocess_grpc_server: %w", err)
	}
	return strings.TrimPrefix(configured, "tcp://"), nil
}

// traced sends what OpenTelemetry's instrumentation would: a new trace context with every call.
func traced(
	ctx context.Context, method string, request, reply any,
	conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	var random [24]byte
	_, _ = rand.Read(random[:])
	id := hex.EncodeToString(random[:])
	ctx = metadata.AppendToOutgoingContext(
		ctx, "traceparent", fmt.Sprintf("00-%s-%s-01", id[:32], id[32:]), "tracestate", "test="+id[:8],
	)
	return invoke(ctx, method, request, reply, conn, options...)
}

// dispatch sends an object. The context is the HTTP client's: when it hangs up, the call is cancelled.
func (g *Gateway) dispatch(ctx context.Context, object *coprocess.Object) (*coprocess.Object, error) {
	var probe *unknownProbe
	if g.config.ProbeUnknown {
		probe = addUnknownFields(object)
	}
	if !g.config.NoLog {
		g.dispatches.add(object)
	}
	returned, err := g.client.Dispatch(ctx, object)
	if err == nil && probe != nil {
		err = probe.check(returned)
	}
	return returned, err
}

// relayedBytes is above every size limit that a test sets.
const relayedBytes = 256 << 20

// relay forwards the calls of a real gateway to the broker, and records them as if they were this gateway's own.
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

// unknownFieldNumber is far above what Tyk's messages use today.
const unknownFieldNumber = 4000

// unknownProbe adds a field that no present version knows to the messages of an object, as a newer gateway would.
type unknownProbe struct {
	field []byte
	names map[protoreflect.FullName]bool
}

func addUnknownFields(object *coprocess.Object) *unknownProbe {
	field := protowire.AppendTag(nil, unknownFieldNumber, protowire.BytesType)
	probe := &unknownProbe{protowire.AppendString(field, "from a newer gateway"), map[protoreflect.FullName]bool{}}
	for _, message := range messages(object) {
		message.SetUnknown(probe.field)
		probe.names[message.Descriptor().FullName()] = true
	}
	return probe
}

// check returns an error unless every message that was sent with the field came back with it.
func (p *unknownProbe) check(object *coprocess.Object) error {
	for _, message := range messages(object) {
		if bytes.Equal(message.GetUnknown(), p.field) {
			delete(p.names, message.Descriptor().FullName())
		}
	}
	if len(p.names) > 0 {
		return fmt.Errorf("the unknown fields of these messages are gone: %v", p.names)
	}
	return nil
}

func messages(object *coprocess.Object) []protoreflect.Message {
	all := []protoreflect.Message{object.ProtoReflect()}
	if object.Request != nil {
		all = append(all, object.Request.ProtoReflect())
	}
	if object.Session != nil {
		all = append(all, object.Session.ProtoReflect())
	}
	if object.Response != nil {
		all = append(all, object.Response.ProtoReflect())
	}
	return all
}
