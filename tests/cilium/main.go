// Cilium's own Hubble with synthetic flows, for `cargo xtask e2e hubble`: `node` is the server of one node with its
// observer, `relay` is Hubble Relay. Both say over HTTP, on a port of their own, what they have served.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	peerpb "github.com/cilium/cilium/api/v1/peer"
	"github.com/cilium/cilium/pkg/hubble/container"
	"github.com/cilium/cilium/pkg/hubble/server/serveroption"
	"google.golang.org/grpc"
)

// What a program is told on its command line.
type options struct {
	name, listen, control, dir, peers, health string
	tls                                       bool
	ring                                      int
}

func main() {
	if len(os.Args) < 2 {
		log.Fatal("usage: hubble node|relay [flags]")
	}
	var o options
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	flags.StringVar(&o.name, "name", "", "the name of the node")
	flags.StringVar(&o.listen, "listen", "127.0.0.1:0", "where to serve")
	flags.StringVar(&o.control, "control", "127.0.0.1:0", "where to say what was served")
	flags.StringVar(&o.health, "health", "127.0.0.1:0", "where a relay says how it is")
	flags.StringVar(&o.dir, "dir", ".", "where the certificates are: ca.pem, server.pem, server.key, client.pem, client.key")
	flags.StringVar(&o.peers, "peers", "", "the nodes of a relay: NAME=ADDRESS,...")
	flags.BoolVar(&o.tls, "tls", false, "whether everybody has to show a certificate")
	flags.IntVar(&o.ring, "ring", 65535, "the flows that are kept: a power of two, less one")
	if err := flags.Parse(os.Args[2:]); err != nil {
		log.Fatal(err)
	}
	switch os.Args[1] {
	case "node":
		log.Fatal(node(o))
	case "relay":
		log.Fatal(relay(o))
	default:
		log.Fatalf("%s: neither node nor relay", os.Args[1])
	}
}

func node(o options) error {
	capacity, err := container.NewCapacity(o.ring)
	if err != nil {
		return err
	}
	observer, write, err := newObserver(capacity)
	if err != nil {
		return err
	}
	go observer.Start()
	told := &ledger{By: map[string]uint64{}}
	settings := []serveroption.Option{
		serveroption.WithTCPListener(o.listen),
		serveroption.WithHealthService(),
		serveroption.WithObserverService(observer),
		serveroption.WithGRPCStreamInterceptor(told.watch),
	}
	if o.tls {
		config, err := serverTLS(o.dir)
		if err != nil {
			return err
		}
		settings = append(settings, serveroption.WithServerTLS(config))
	} else {
		settings = append(settings, serveroption.WithInsecure())
	}
	srv, err := newServer(settings)
	if err != nil {
		return err
	}
	flows := maker{node: o.name}
	// Whoever follows an empty ring begins before its beginning, and waits for ever.
	for range 16 {
		write(flows.next())
	}
	var emitting sync.Mutex
	http.HandleFunc("/emit", func(w http.ResponseWriter, r *http.Request) {
		count, err := strconv.Atoi(r.FormValue("flows"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		emitting.Lock()
		defer emitting.Unlock()
		for range count {
			write(flows.next())
		}
		fmt.Fprintln(w, count)
	})
	if err := told.serve(o.control); err != nil {
		return err
	}
	return srv.Serve()
}

// What was served.
type ledger struct {
	mutex sync.Mutex
	// Streams that are open.
	Streams int `json:"streams"`
	// Flows by VERDICT/TYPE, the enumerators' numbers, and by node.
	By map[string]uint64 `json:"by"`
	// Events that were said to be lost.
	Lost uint64 `json:"lost"`
}

func (l *ledger) serve(address string) error {
	http.HandleFunc("/served", func(w http.ResponseWriter, _ *http.Request) {
		l.mutex.Lock()
		defer l.mutex.Unlock()
		if err := json.NewEncoder(w).Encode(l); err != nil {
			log.Print(err)
		}
	})
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	go func() { log.Fatal(http.Serve(listener, nil)) }()
	return nil
}

// Counts what is sent; a message counts once it is with the transport.
func (l *ledger) watch(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if !strings.HasSuffix(info.FullMethod, "/GetFlows") {
		return handler(srv, stream)
	}
	l.open(1)
	defer l.open(-1)
	return handler(srv, &watched{stream, l})
}

func (l *ledger) open(by int) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.Streams += by
}

type watched struct {
	grpc.ServerStream
	told *ledger
}

func (w *watched) SendMsg(message any) error {
	// The message may be used again once it is sent.
	key, lost := "", uint64(0)
	if response, ok := message.(*observerpb.GetFlowsResponse); ok {
		if flow := response.GetFlow(); flow != nil {
			key = fmt.Sprintf("%d/%d/%s", flow.GetVerdict(), flow.GetEventType().GetType(), response.GetNodeName())
		}
		lost = response.GetLostEvents().GetNumEventsLost()
	}
	err := w.ServerStream.SendMsg(message)
	if err == nil {
		w.told.mutex.Lock()
		defer w.told.mutex.Unlock()
		w.told.Lost += lost
		if key != "" {
			w.told.By[key]++
		}
	}
	return err
}

// Names the nodes of a relay.
type peers string

func (p peers) Notify(_ *peerpb.NotifyRequest, stream peerpb.Peer_NotifyServer) error {
	for _, peer := range strings.Split(string(p), ",") {
		name, rest, _ := strings.Cut(peer, "=")
		address, secured := strings.CutSuffix(rest, "+tls")
		change := &peerpb.ChangeNotification{Name: name, Address: address, Type: peerpb.ChangeNotificationType_PEER_ADDED}
		if secured {
			change.Tls = &peerpb.TLS{ServerName: "localhost"}
		}
		if err := stream.Send(change); err != nil {
			return err
		}
	}
	<-stream.Context().Done()
	return nil
}

func relay(o options) error {
	socket := o.dir + "/peers-" + strconv.Itoa(os.Getpid()) + ".sock"
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	named := o.peers
	if o.tls {
		named = strings.ReplaceAll(named, ",", "+tls,") + "+tls"
	}
	service := grpc.NewServer()
	peerpb.RegisterPeerServer(service, peers(named))
	go func() { log.Fatal(service.Serve(listener)) }()
	told := &ledger{By: map[string]uint64{}}
	srv, err := newRelay(o, "unix://"+socket, told.watch)
	if err != nil {
		return err
	}
	if err := told.serve(o.control); err != nil {
		return err
	}
	return srv.Serve()
}
