//go:build v1_14

package main

import (
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"github.com/cilium/cilium/pkg/crypto/certloader"
	v1 "github.com/cilium/cilium/pkg/hubble/api/v1"
	"github.com/cilium/cilium/pkg/hubble/container"
	"github.com/cilium/cilium/pkg/hubble/observer"
	"github.com/cilium/cilium/pkg/hubble/observer/observeroption"
	relayserver "github.com/cilium/cilium/pkg/hubble/relay/server"
	"github.com/cilium/cilium/pkg/hubble/server"
	"github.com/cilium/cilium/pkg/hubble/server/serveroption"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
)

// This release makes flows of packets only: synthetic ones go where its parser would put them.
func newObserver(capacity container.Capacity) (*observer.LocalObserverServer, func(*flowpb.Flow), error) {
	local, err := observer.NewLocalServer(nil, observer.NewNamespaceManager(), logrus.StandardLogger(), observeroption.WithMaxFlows(capacity))
	if err != nil {
		return nil, nil, err
	}
	ring := local.GetRingBuffer()
	return local, func(flow *flowpb.Flow) { ring.Write(&v1.Event{Timestamp: flow.GetTime(), Event: flow}) }, nil
}

func newServer(settings []serveroption.Option) (*server.Server, error) {
	return server.NewServer(logrus.StandardLogger(), settings...)
}

func serverTLS(dir string) (certloader.ServerConfigBuilder, error) {
	return certloader.NewWatchedServerConfig(logrus.StandardLogger(), []string{dir + "/ca.pem"}, dir+"/server.pem", dir+"/server.key")
}

func newRelay(o options, target string, watch grpc.StreamServerInterceptor) (*relayserver.Server, error) {
	settings := []relayserver.Option{
		relayserver.WithListenAddress(o.listen),
		relayserver.WithPeerTarget(target),
		relayserver.WithRetryTimeout(time.Second),
		relayserver.WithSortBufferDrainTimeout(100 * time.Millisecond),
		relayserver.WithLogger(logrus.StandardLogger()),
		relayserver.WithGRPCStreamInterceptor(watch),
	}
	if !o.tls {
		return relayserver.New(append(settings, relayserver.WithInsecureServer(), relayserver.WithInsecureClient())...)
	}
	ours, err := serverTLS(o.dir)
	if err != nil {
		return nil, err
	}
	theirs, err := certloader.NewWatchedClientConfig(logrus.StandardLogger(), []string{o.dir + "/ca.pem"}, o.dir+"/client.pem", o.dir+"/client.key")
	if err != nil {
		return nil, err
	}
	return relayserver.New(append(settings, relayserver.WithServerTLS(ours), relayserver.WithClientTLS(theirs))...)
}
