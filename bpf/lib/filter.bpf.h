/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Which tasks are counted. What is not configured the verifier removes. */
#pragma once
#include "kernel.h"
#include "../filter.h"
#include "executables.bpf.h"
#include "maps.bpf.h"
#include "rules.bpf.h"
#include "task.bpf.h"

const volatile u32 own_tgid = 0;    /* the agent, unless it is to be counted, too */
const volatile u32 comm_filter = 0; /* COMM_INCLUDE: only those; COMM_EXCLUDE: all but those */

const volatile u64 comm_seed = 0;  /* with which no two names share a slot */
const volatile u32 comm_mask = 63; /* slots of comms - 1 */

/* 24 B a slot: names of processes, read only where a filter is configured. An array's look-up is inlined. */
MAP(ARRAY, comms, u32, struct comm_rule, 64, 0);

/* As comm_slot() in crates/bpf/src/abi/filter.rs. */
static __always_inline u32 comm_slot(const u64 comm[2])
{
	u64 hash = (comm[0] ^ comm_seed) * 0x9e3779b97f4a7c15ULL;

	hash = (hash ^ hash >> 32 ^ comm[1]) * 0xd6e8feb86659fd93ULL;
	return hash >> 32 & comm_mask;
}

static __always_inline bool is_filtered_by_comm(struct task_struct *task)
{
	struct comm_rule *found;
	u64 comm[2];
	u32 slot;

	process_comm(task, comm);
	slot = comm_slot(comm);
	found = bpf_map_lookup_elem(&comms, &slot);
	if (!found || !found->rule || found->comm[0] != comm[0] || found->comm[1] != comm[1])
		return comm_filter == COMM_INCLUDE;
	return found->rule == COMM_EXCLUDE;
}

static __always_inline bool is_filtered(struct task_struct *task)
{
	if (own_tgid && process_id(task) == own_tgid)
		return true;
	if (cgroup_filter && is_denied(task_cgroup(task)))
		return true;
	return comm_filter && is_filtered_by_comm(task);
}

/* The same of a task that is not the current one, by the owner that answers for it. */
static __always_inline bool is_filtered_in(struct task_struct *task, u64 owner)
{
	if (own_tgid && (u32)task->tgid == own_tgid)
		return true;
	if (cgroup_filter && is_denied(cgroup_behind(owner)))
		return true;
	return comm_filter && is_filtered_by_comm(task);
}

/* The same of the current task, in the hooks of packets: older kernels have no helper for its ids there. */
static __always_inline bool is_filtered_sender(struct task_struct *task, u64 owner)
{
#ifdef LEGACY
	if (own_tgid && (u32)BPF_CORE_READ(task, tgid) == own_tgid)
		return true;
	if (cgroup_filter && is_denied(cgroup_behind(owner)))
		return true;
	return comm_filter && is_filtered_by_comm(task);
#else
	return is_filtered_in(task, owner);
#endif
}
