/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Which tasks are counted. What is not configured the verifier removes. */
#pragma once
#include "kernel.h"
#include "../filter.h"
#include "maps.bpf.h"
#include "rules.bpf.h"
#include "task.bpf.h"

const volatile u32 own_tgid = 0;    /* the agent, unless it is to be counted, too */
const volatile u32 comm_filter = 0; /* COMM_INCLUDE: only those; COMM_EXCLUDE: all but those */

/* 24 KiB: names of processes, read only where a filter is configured. */
MAP(HASH, comms, u64[2], u32, 256, 0);

static __always_inline bool is_filtered_by_comm(struct task_struct *task)
{
	u64 comm[2];
	u32 *rule;

	process_comm(task, comm);
	rule = bpf_map_lookup_elem(&comms, comm);
	if (rule && *rule == COMM_EXCLUDE)
		return true;
	return comm_filter == COMM_INCLUDE && !rule;
}

static __always_inline bool is_filtered(struct task_struct *task)
{
	if (own_tgid && process_id(task) == own_tgid)
		return true;
	if (cgroup_filter && is_denied(task_cgroup(task)))
		return true;
	return comm_filter && is_filtered_by_comm(task);
}

/* The same of a task that is not the current one, in the cgroup that answers for it. */
static __always_inline bool is_filtered_in(struct task_struct *task, u64 cgroup)
{
	if (own_tgid && (u32)task->tgid == own_tgid)
		return true;
	if (cgroup_filter && is_denied(cgroup))
		return true;
	return comm_filter && is_filtered_by_comm(task);
}
