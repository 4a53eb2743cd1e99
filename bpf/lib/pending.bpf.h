/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What was asked and what was answered. A query is kept under its socket and id
 * until its answer comes, or until user space finds that it took too long. On a
 * server's one socket many ask, so there it is also kept under who does.
 */
#pragma once
#include "kernel.h"
#include "../dns.h"
#include "histogram.bpf.h"
#include "maps.bpf.h"
#include "message.bpf.h"
#include "report.bpf.h"

const volatile u64 window = 5000000000ULL; /* later answers are none */
const volatile u64 known_types[TYPE_WORDS] = {};

SHARED_HISTOGRAM(dns_latency, struct tally, 512);
/* 144 B an entry. */
MAP(HASH, dns_pending, struct asked, struct pending, 16384, ON_DEMAND);
/* 136 B an entry: what user space has found to be unanswered, where it outlives the agent. */
MAP(HASH, dns_timeouts, struct tally, u64, 1, ON_DEMAND);

#define NOBODY 0xffffffffffffffffULL /* no cgroup */

static __always_inline u32 bounded(u32 type)
{
	if (type >= TYPE_WORDS * 64)
		return TYPE_OTHER;
	return known_types[type >> 6] >> (type & 63) & 1 ? type : TYPE_OTHER;
}

/* Says who has asked a server by a datagram; a connection's socket is the client's alone. */
static __always_inline void read_peer(struct __sk_buff *skb, struct asked *asked, u32 port, u32 what)
{
	u8 version = 0;

	if (!port)
		return;
	asked->port = port;
	bpf_skb_load_bytes(skb, 0, &version, 1);
	/* The source of a query is the destination of its answer. */
	if (version >> 4 == 4)
		bpf_skb_load_bytes(skb, what == QUERY ? 12 : 16, asked->peer, 4);
	else
		bpf_skb_load_bytes(skb, what == QUERY ? 8 : 24, asked->peer, 16);
}

/* Awaits the answer of a query. `what` has its id and its role. */
__noinline int await_answer(struct __sk_buff *skb, u64 cgroup, u32 what, u32 port)
{
	struct asked asked = { .socket = bpf_get_socket_cookie(skb), .id = what, .role = what >> 16 };
	struct pending new = { .time = bpf_ktime_get_ns(), .cgroup = cgroup };
	struct pending *old;

	read_peer(skb, &asked, port, QUERY);
	if (asked.role == ROLE_CLIENT)
		sign(skb, &new);
	old = bpf_map_lookup_elem(&dns_pending, &asked);
	if (old)
		new.before = old->before + (old->time != 0);
	if (bpf_map_update_elem(&dns_pending, &asked, &new, BPF_ANY))
		LOSE(pending);
	return 0;
}

/* Counts and awaits. */
static __always_inline void ask(struct __sk_buff *skb, u64 cgroup, u32 role, struct question *q, u32 port)
{
	count_message(skb, cgroup, MESSAGE(bounded(q->code), role, QUERY), q->at, q->end);
	await_answer(skb, cgroup, q->id | role << 16, port);
}

/* Gives whose query is answered, or nobody where nobody awaits it. */
__noinline u64 take_answer(struct __sk_buff *skb, u32 what, u32 port)
{
	struct asked asked = { .socket = bpf_get_socket_cookie(skb), .id = what, .role = what >> 16 };
	struct tally key = { .role = what >> 16 };
	struct pending *query;
	u64 took;

	read_peer(skb, &asked, port, RESPONSE);
	query = bpf_map_lookup_elem(&dns_pending, &asked);
	if (!query || !query->time)
		return NOBODY;
	took = bpf_ktime_get_ns() - query->time;
	if (took > window)
		return NOBODY;
	key.cgroup = query->cgroup;
	if (asked.role == ROLE_CLIENT)
		note_answer(query, took);
	if (query->before)
		query->time = 0;
	else if (bpf_map_delete_elem(&dns_pending, &asked))
		return NOBODY; /* the same answer came twice */
	shared_histogram_add(dns_latency, &key, took);
	return key.cgroup;
}

/* Counts an answer, if somebody awaits it. */
static __always_inline void answer(struct __sk_buff *skb, u32 role, struct question *q, u32 port)
{
	u64 cgroup = take_answer(skb, q->id | role << 16, port);

	if (cgroup == NOBODY)
		return;
	count_message(skb, cgroup, MESSAGE(q->code, role, RESPONSE), q->at, q->end);
	if (role == ROLE_CLIENT)
		report(skb, q->code, q->at, q->end);
}
