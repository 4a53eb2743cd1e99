/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What was asked and what was answered. A query is kept under its socket and id
 * until its answer comes, or until user space finds that it took too long.
 */
#pragma once
#include "kernel.h"
#include "../dns.h"
#include "histogram.bpf.h"
#include "maps.bpf.h"

const volatile u64 window = 5000000000ULL; /* later answers are none */
const volatile u64 known_types[TYPE_WORDS] = {};

/* A full map takes 112 B an entry and 8 B for each CPU. */
MAP(PERCPU_HASH, dns_queries, struct tally, u64, 4096, ON_DEMAND);
MAP(PERCPU_HASH, dns_responses, struct tally, u64, 4096, ON_DEMAND);
SHARED_HISTOGRAM(dns_latency, struct tally, 512);
/* 112 B an entry. */
MAP(HASH, dns_pending, struct asked, struct pending, 16384, ON_DEMAND);
MAP(PERCPU_ARRAY, losses, u32, struct loss, 1, 0);

static __always_inline struct loss *loss(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&losses, &zero);
}

#define LOSE(what)                                            \
	do {                                                  \
		struct loss *lost = loss();                   \
		if (lost)                                     \
			__sync_fetch_and_add(&lost->what, 1); \
	} while (0)

static __always_inline u32 bounded(u32 type)
{
	if (type >= TYPE_WORDS * 64)
		return TYPE_OTHER;
	return known_types[type >> 6] >> (type & 63) & 1 ? type : TYPE_OTHER;
}

/* Counts a query and awaits its answer. */
static __always_inline void ask(struct __sk_buff *skb, u64 cgroup, u16 id, u32 type)
{
	struct tally key = { cgroup, bounded(type), 0 };
	struct asked asked = { bpf_get_socket_cookie(skb), id, 0 };
	struct pending new = { bpf_ktime_get_ns(), cgroup, 0 };
	struct pending *old;

	if (!count_interrupted(&dns_queries, &key))
		LOSE(queries);
	old = bpf_map_lookup_elem(&dns_pending, &asked);
	if (old)
		new.before = old->before + (old->time != 0);
	if (bpf_map_update_elem(&dns_pending, &asked, &new, BPF_ANY))
		LOSE(pending);
}

/* Counts an answer, if somebody awaits it. */
static __always_inline void answer(struct __sk_buff *skb, u16 id, u32 code)
{
	struct asked asked = { bpf_get_socket_cookie(skb), id, 0 };
	struct pending *query = bpf_map_lookup_elem(&dns_pending, &asked);
	struct tally key = { 0, code, 0 };
	u64 took;

	if (!query || !query->time)
		return;
	took = bpf_ktime_get_ns() - query->time;
	if (took > window)
		return;
	key.cgroup = query->cgroup;
	if (query->before)
		query->time = 0;
	else if (bpf_map_delete_elem(&dns_pending, &asked))
		return; /* the same answer came twice */
	if (!count(&dns_responses, &key))
		LOSE(responses);
	key.code = 0;
	shared_histogram_add(dns_latency, &key, took);
}
