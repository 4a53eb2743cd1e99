//go:build !v1_14

package main

import (
	"fmt"
	"log/slog"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"github.com/cilium/cilium/pkg/crypto/certloader"
	v1 "github.com/cilium/cilium/pkg/hubble/api/v1"
	"github.com/cilium/cilium/pkg/hubble/container"
	"github.com/cilium/cilium/pkg/hubble/observer"
	"github.com/cilium/cilium/pkg/hubble/observer/namespace"
	"github.com/cilium/cilium/pkg/hubble/observer/observeroption"
	"github.com/cilium/cilium/pkg/hubble/observer/types"
	relayserver "github.com/cilium/cilium/pkg/hubble/relay/server"
	"github.com/cilium/cilium/pkg/hubble/server"
	"github.com/cilium/cilium/pkg/hubble/server/serveroption"
	"google.golang.org/grpc"
)

// Stands where a packet becomes a flow.
type decoder struct{}

func (decoder) Decode(event *types.MonitorEvent) (*v1.Event, error) {
	flow, ok := event.Payload.(*flowpb.Flow)
	if !ok {
		return nil, fmt.Errorf("not a flow: %T", event.Payload)
	}
	return &v1.Event{Timestamp: flow.GetTime(), Event: flow}, nil
}

func newObserver(capacity container.Capacity) (*observer.LocalObserverServer, func(*flowpb.Flow), error) {
	local, err := observer.NewLocalServer(decoder{}, namespace.NewManager(), slog.Default(), observeroption.WithMaxFlows(capacity))
	if err != nil {
		return nil, nil, err
	}
	events := local.GetEventsChannel()
	return local, func(flow *flowpb.Flow) { events <- &types.MonitorEvent{Timestamp: time.Now(), Payload: flow} }, nil
}

func newServer(settings []serveroption.Option) (*server.Server, error) {
	return server.NewServer(slog.Default(), settings...)
}

func serverTLS(dir string) (certloader.ServerConfigBuilder, error) {
	return certloader.NewWatchedServerConfig(slog.Default(), []string{dir + "/ca.pem"}, dir+"/server.pem", dir+"/server.key")
}

func newRelay(o options, target string, watch grpc.StreamServerInterceptor) (*relayserver.Server, error) {
	settings := []relayserver.Option{
		relayserver.WithListenAddress(o.listen),
		relayserver.WithHealthListenAddress(o.health),
		relayserver.WithPeerTarget(target),
		relayserver.WithRetryTimeout(time.Second),
		relayserver.WithSortBufferDrainTimeout(100 * time.Millisecond),
		relayserver.WithLogger(slog.Default()),
		relayserver.WithGRPCStreamInterceptor(watch),
	}
	if !o.tls {
		return relayserver.New(append(settings, relayserver.WithInsecureServer(), relayserver.WithInsecureClient())...)
	}
	ours, err := serverTLS(o.dir)
	if err != nil {
		return nil, err
	}
	theirs, err := certloader.NewWatchedClientConfig(slog.Default(), []string{o.dir + "/ca.pem"}, o.dir+"/client.pem", o.dir+"/client.key")
	if err != nil {
		return nil, err
	}
	return relayserver.New(append(settings, relayserver.WithServerTLS(ours), relayserver.WithClientTLS(theirs))...)
}
