/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Which processes are counted. Where nothing is configured the verifier removes all of it. */
#pragma once
#include "kernel.h"
#include "../filter.h"
#include "maps.bpf.h"
#include "task.bpf.h"

const volatile u32 comm_filter = 0; /* COMM_INCLUDE: only those; COMM_EXCLUDE: all but those */

/* 24 KiB: names of processes, read only where a filter is configured. */
MAP(HASH, comms, u64[2], u32, 256, 0);

static __always_inline bool is_filtered(struct task_struct *task)
{
	u64 comm[2];
	u32 *rule;

	if (!comm_filter)
		return false;
	process_comm(task, comm);
	rule = bpf_map_lookup_elem(&comms, comm);
	if (rule && *rule == COMM_EXCLUDE)
		return true;
	return comm_filter == COMM_INCLUDE && !rule;
}
