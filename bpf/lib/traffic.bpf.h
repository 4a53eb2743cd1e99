/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Where traffic and drops are counted, and what does not fit. */
#pragma once
#include "kernel.h"
#include "maps.bpf.h"
#include "../network.h"

/* A full map takes 112 B an entry and 16 B for each CPU. */
MAP(PERCPU_HASH, flows, struct flow, struct traffic, 4096, ON_DEMAND);
/* 112 B an entry and 8 B for each CPU. */
MAP(PERCPU_HASH, drops, struct drop, u64, 2048, ON_DEMAND);
MAP(PERCPU_ARRAY, losses, u32, struct network_loss, 1, 0);

static __always_inline struct network_loss *loss(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&losses, &zero);
}

/* A socket whose owner could not be kept. */
static __always_inline void lose_owner(void)
{
	struct network_loss *lost = loss();

	if (lost)
		__sync_fetch_and_add(&lost->owners, 1);
}

/*
 * The cell is this CPU's, but a packet that a task sends is counted with soft
 * interrupts on, and their packets may count here meanwhile: so the cell is made
 * empty, and only ever added to.
 */
static __always_inline struct traffic *cell_of(struct flow *flow)
{
	static const struct traffic empty;
	struct traffic *cell = bpf_map_lookup_elem(&flows, flow);
	struct network_loss *lost;

	if (cell)
		return cell;
	bpf_map_update_elem(&flows, flow, &empty, BPF_NOEXIST);
	cell = bpf_map_lookup_elem(&flows, flow);
	if (cell)
		return cell;
	lost = loss();
	return lost ? &lost->traffic : NULL;
}
