/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Accept queues that are full. The kernel drops a SYN, or the end of a handshake,
 * that finds one full without a hook (but for a drop's reason since 6.15), so the
 * segment is judged as tcp_conn_request() and tcp_v4_syn_recv_sock() are about to.
 */
#pragma once
#include "kernel.h"
#include "maps.bpf.h"
#include "owner.bpf.h"
#include "traffic.bpf.h"
#include "wire.bpf.h"

#ifndef LEGACY
#define TCP_FLAGS 13 /* their place in the header */
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* A full map takes 112 B an entry and 8 B for each CPU. */
MAP(PERCPU_HASH, overflows, u64, u64, 1024, ON_DEMAND);

/* A segment comes to a socket that listens. */
static __always_inline void judge_segment(struct __sk_buff *skb, struct bpf_sock *sk, u64 cgroup)
{
	bool ipv6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	u32 offset = ipv6 ? IPV6_HEADER : (byte_at(skb, 0) & 0xf) * 4;
	u32 flags = byte_at(skb, offset + TCP_FLAGS) & (TCP_SYN | TCP_ACK | TCP_RST);
	struct network_loss *lost;
	struct tcp_sock *tp;
	struct sock *full;

	if (flags != TCP_SYN && flags != TCP_ACK)
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	full = (struct sock *)tp;
	if (!tp || full->sk_ack_backlog <= full->sk_max_ack_backlog || count(&overflows, &cgroup))
		return;
	lost = loss();
	if (lost)
		lost->overflows += 1;
}
#endif
