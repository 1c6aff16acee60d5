package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"tykpy.test/gateway/internal/coprocess"
)

// roundRobin has grpc-go make a connection to every address of a name, and take them in turns.
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

// dialTarget refuses what Tyk cannot parse (a bare host:port), and takes the tcp:// away, which grpc-go does not know.
func dialTarget(configured string) (string, error) {
	if configured == "" {
		return "", errors.New("no gRPC URL is set")
	}
	if _, err := url.Parse(configured); err != nil {
		return "", fmt.Errorf("coprocess_grpc_server: %w", err)
	}
	return strings.TrimPrefix(configured, "tcp://"), nil
}

// traced sends what OpenTelemetry's instrumentation would: a trace context that is different in every call.
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
