package main

import (
	"fmt"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Makes flows of every kind in turn.
type maker struct {
	node string
	made int
}

const (
	drop    = 1
	trace   = 4
	verdict = 5
	l7      = 129
)

func (m *maker) next() *flowpb.Flow {
	nth := m.made
	m.made++
	kind := []int32{trace, trace, drop, verdict, l7, l7, l7}[nth%7]
	client := &flowpb.Endpoint{ID: 7, Identity: 1001, Namespace: "shop", PodName: fmt.Sprintf("web-%d", nth%5), Labels: []string{"k8s:app=web"},
		Workloads: []*flowpb.Workload{{Name: "web", Kind: "Deployment"}}}
	server := &flowpb.Endpoint{ID: 8, Identity: 1002, Namespace: "data", PodName: "db-0", Labels: []string{"k8s:app=db"},
		Workloads: []*flowpb.Workload{{Name: "db", Kind: "StatefulSet"}}}
	flow := &flowpb.Flow{
		Time:        timestamppb.Now(),
		Uuid:        fmt.Sprintf("%s-%d", m.node, nth),
		NodeName:    m.node,
		Verdict:     flowpb.Verdict_FORWARDED,
		Type:        flowpb.FlowType_L3_L4,
		EventType:   &flowpb.CiliumEventType{Type: kind},
		IP:          &flowpb.IP{Source: "10.0.0.1", Destination: "10.0.1.1", IpVersion: flowpb.IPVersion_IPv4},
		Source:      client,
		Destination: server,
		IsReply:     wrapperspb.Bool(false),
	}
	tcp := &flowpb.TCP{SourcePort: uint32(1024 + nth%60000), DestinationPort: 5432, Flags: &flowpb.TCPFlags{SYN: true}}
	flow.L4 = &flowpb.Layer4{Protocol: &flowpb.Layer4_TCP{TCP: tcp}}
	switch nth % 7 {
	case 0:
		flow.TraceObservationPoint = flowpb.TraceObservationPoint_TO_ENDPOINT
	case 1:
		flow.L4 = &flowpb.Layer4{Protocol: &flowpb.Layer4_UDP{UDP: &flowpb.UDP{SourcePort: 1234, DestinationPort: 53}}}
		flow.TraceObservationPoint = flowpb.TraceObservationPoint_TO_OVERLAY
	case 2:
		flow.Verdict = flowpb.Verdict_DROPPED
		flow.DropReasonDesc = flowpb.DropReason_POLICY_DENIED
	case 3:
		flow.Verdict = flowpb.Verdict_AUDIT
		flow.TrafficDirection = flowpb.TrafficDirection_INGRESS
		flow.PolicyMatchType = 2
	case 4:
		m.request(flow, flowpb.L7FlowType_REQUEST, &flowpb.HTTP{Method: "GET", Url: "http://db/", Protocol: "HTTP/1.1"})
	case 5:
		flow.Source, flow.Destination = server, client
		m.request(flow, flowpb.L7FlowType_RESPONSE, &flowpb.HTTP{Code: 200, Method: "GET", Url: "http://db/", Protocol: "HTTP/1.1"})
		flow.L7.LatencyNs = 1_000_000
	case 6:
		flow.Type = flowpb.FlowType_L7
		flow.Verdict = flowpb.Verdict_REDIRECTED
		dns := &flowpb.DNS{Query: "db.data.svc.cluster.local.", Qtypes: []string{"A"}}
		flow.L7 = &flowpb.Layer7{Type: flowpb.L7FlowType_REQUEST, Record: &flowpb.Layer7_Dns{Dns: dns}}
	}
	return flow
}

func (m *maker) request(flow *flowpb.Flow, kind flowpb.L7FlowType, http *flowpb.HTTP) {
	flow.Type = flowpb.FlowType_L7
	flow.TrafficDirection = flowpb.TrafficDirection_INGRESS
	flow.L7 = &flowpb.Layer7{Type: kind, Record: &flowpb.Layer7_Http{Http: http}}
}
