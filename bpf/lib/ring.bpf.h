/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * How rare events leave the kernel. EVENTS declares the way, emit() sends, and
 * counts what found no room. Built with PERF the way is a perf event array, for
 * kernels without ring buffers and by configuration.
 */
#pragma once
#include "kernel.h"
#include "maps.bpf.h"

const volatile u32 sample_every = 1; /* one event in so many is taken, where they are sampled */

static __always_inline bool is_sampled(void)
{
	return sample_every <= 1 || bpf_get_prandom_u32() % sample_every == 0;
}

/* Events that found no room. */
MAP(PERCPU_ARRAY, drops, u32, u64, 1, 0);

#ifdef PERF
/* The loader makes an entry for each CPU; the buffers themselves belong to their readers. */
#define EVENTS(name, bytes)                                  \
	struct {                                             \
		__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY); \
		__uint(key_size, sizeof(u32));               \
		__uint(value_size, sizeof(u32));             \
	} name SEC(".maps")
#define SEND(context, map, event, size) bpf_perf_event_output(context, map, BPF_F_CURRENT_CPU, event, size)
#else
#define EVENTS(name, bytes) RING(name, bytes)
#define SEND(context, map, event, size) bpf_ringbuf_output(map, event, size, 0)
#endif

static __always_inline void count_drop(void)
{
	u32 zero = 0;
	u64 *dropped = bpf_map_lookup_elem(&drops, &zero);

	if (dropped)
		*dropped += 1;
}

#define emit(context, map, event, size)                   \
	do {                                              \
		if (SEND(context, map, event, size) != 0) \
			count_drop();                     \
	} while (0)
