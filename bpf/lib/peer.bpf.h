/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Where what becomes of connections is counted: under their owner, or, where that
 * is wanted, under their owner and their peer. What finds no room there is its
 * owner's without a peer, so that the sums are the same.
 */
#pragma once
#include "kernel.h"
#include "conn.bpf.h"
#include "maps.bpf.h"

const volatile u32 by_peer = 0;

/* A full map takes 112 B an entry and 248 B for each CPU. */
MAP(PERCPU_HASH, owners, struct owner, struct connections, 4096, ON_DEMAND);
/* 184 B an entry, which all CPUs share: connections begin and end seldom. */
MAP(HASH, peers, struct peer, struct lifecycle, 1, ON_DEMAND);
/* One cell of 264 B for each CPU. */
MAP(PERCPU_ARRAY, losses, u32, struct tcp_loss, 1, 0);

static __always_inline struct tcp_loss *loss(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&losses, &zero);
}

/* A task that counts may be interrupted by a packet that counts: each addition is one instruction. */
static __always_inline void bump(u64 *cell, u64 value)
{
	__sync_fetch_and_add(cell, value);
}

static __always_inline struct connections *connections_of(const struct conn *conn, u32 network)
{
	static const struct connections empty;
	struct owner owner = { conn->cgroup, network, 0 };
	struct connections *all = bpf_map_lookup_elem(&owners, &owner);
	struct tcp_loss *lost;

	if (all)
		return all;
	bpf_map_update_elem(&owners, &owner, &empty, BPF_NOEXIST);
	all = bpf_map_lookup_elem(&owners, &owner);
	if (all)
		return all;
	lost = loss();
	return lost ? &lost->connections : NULL;
}

static __always_inline void address_of(const struct sock_common *common, u8 to[16])
{
	u32 *words = (u32 *)to;

	if (common->skc_family == AF_INET6 && bpf_core_field_exists(common->skc_v6_daddr)) {
		words[0] = common->skc_v6_daddr.in6_u.u6_addr32[0];
		words[1] = common->skc_v6_daddr.in6_u.u6_addr32[1];
		words[2] = common->skc_v6_daddr.in6_u.u6_addr32[2];
		words[3] = common->skc_v6_daddr.in6_u.u6_addr32[3];
		return;
	}
	words[2] = bpf_htonl(0xffff);
	words[3] = common->skc_daddr;
}

/* Gives where to count what becomes of a connection whose other end is in `common`. */
static __always_inline struct lifecycle *lifecycle_of(const struct conn *conn, const struct sock_common *common,
						      u32 network)
{
	static const struct lifecycle empty;
	struct peer peer = { .cgroup = conn->cgroup, .network = network };
	struct connections *all;
	struct lifecycle *past;
	struct tcp_loss *lost;

	if (by_peer) {
		address_of(common, peer.address);
		if (!(conn->flags & CONN_INBOUND))
			peer.port = bpf_ntohs(common->skc_dport);
		past = bpf_map_lookup_elem(&peers, &peer);
		if (past)
			return past;
		bpf_map_update_elem(&peers, &peer, &empty, BPF_NOEXIST);
		past = bpf_map_lookup_elem(&peers, &peer);
		if (past)
			return past;
		lost = loss();
		if (lost)
			bump(&lost->strangers, 1);
	}
	all = connections_of(conn, network);
	return all ? &all->past : NULL;
}
