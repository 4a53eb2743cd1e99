/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Whose something is: the cgroup's, or with `granularity: process` that of an
 * executable within it, under an id that programs use in place of the cgroup's.
 * The id is a hash, so nobody hands out numbers; what it stands for user space
 * finds in a map that all objects share. It lives as long as its cgroup.
 */
#pragma once
#include "kernel.h"
#include "../executable.h"
#include "maps.bpf.h"
#include "task.bpf.h"

/* Where user space says which cgroups, programs need not look at `hierarchy`, too. */
const volatile u32 owners_by = OWNERS_CGROUPS;
const volatile u64 executable_seed = 0;       /* so that nobody can choose two names with one hash */
const volatile u32 executable_cache_mask = 0; /* slots of executable_cache - 1 */

/* The shared map takes 104 B an entry, all of it when it is made: page allocations make entries, too. */
MAP(HASH, executables, u64, struct executable, 1, 0);
/* Ids that are known to be in the map; the shared one takes 32 KiB. Whoever removes an id empties its slot. */
MAP(ARRAY, executable_cache, u32, u64, 1, 0);
/* One cell: how often there was no room. */
MAP(ARRAY, executables_lost, u32, u64, 1, 0);

/* Of a million executables two have one id with a probability of one in ten million. */
static __always_inline u64 executable_id(const struct executable *executable)
{
	u64 hash = (executable->comm[0] ^ executable_seed) * 0x9e3779b97f4a7c15ULL;

	hash = (hash ^ hash >> 32 ^ executable->comm[1]) * 0xd6e8feb86659fd93ULL;
	hash = (hash ^ hash >> 32 ^ executable->cgroup) * 0x9e3779b97f4a7c15ULL;
	return (hash ^ hash >> 32) | EXECUTABLE;
}

static __always_inline bool is_kernel_thread(struct task_struct *task)
{
#ifdef LEGACY
	return BPF_CORE_READ(task, flags) & PF_KTHREAD;
#else
	return task->flags & PF_KTHREAD;
#endif
}

/*
 * Whose the work of a task in a cgroup is. Kernel threads run no executable; what
 * finds no room is the cgroup's own. A function of its own: it must not make the
 * frame of its callers larger (see in_interrupt() of memory.bpf.c).
 */
static __noinline u64 executable_in(struct task_struct *task, u64 cgroup)
{
	struct executable executable = { .cgroup = cgroup };
	u64 id, *cached, *lost;
	u32 slot, zero = 0;

	if (is_kernel_thread(task))
		return cgroup;
	process_comm(task, (u64 *)executable.comm);
	id = executable_id(&executable);
	slot = id & executable_cache_mask;
	cached = bpf_map_lookup_elem(&executable_cache, &slot);
	if (cached && *(volatile u64 *)cached == id)
		return id;
	if (!bpf_map_lookup_elem(&executables, &id)) {
		/* Another CPU may have just made it. */
		bpf_map_update_elem(&executables, &id, &executable, BPF_NOEXIST);
		if (!bpf_map_lookup_elem(&executables, &id)) {
			lost = bpf_map_lookup_elem(&executables_lost, &zero);
			if (lost)
				__sync_fetch_and_add(lost, 1);
			return cgroup;
		}
	}
	if (cached)
		*(volatile u64 *)cached = id;
	return id;
}

/* Whose a task's work is. */
static __always_inline u64 owner_of_task(struct task_struct *task)
{
	u32 by = owners_by;
	u64 cgroup;

	if (by == OWNERS_UNIFIED)
		return unified_cgroup(task);
	if (by == OWNERS_MEMORY)
		return memory_cgroup(task);
	cgroup = cgroup_of(task);
	return by == OWNERS_EXECUTABLES ? executable_in(task, cgroup) : cgroup;
}

/* The same of the current task. */
static __always_inline u64 task_owner(struct task_struct *task)
{
	u32 by = owners_by;
	u64 cgroup;

	if (by == OWNERS_UNIFIED)
		return TASK_UNIFIED(task);
	if (by == OWNERS_MEMORY)
		return TASK_MEMORY(task);
	cgroup = task_cgroup(task);
	return by == OWNERS_EXECUTABLES ? executable_in(task, cgroup) : cgroup;
}

/* The same in the hooks of packets. */
static __always_inline u64 sender_owner(struct task_struct *task)
{
	u64 cgroup = sender_cgroup(task);

	return owners_by == OWNERS_EXECUTABLES ? executable_in(task, cgroup) : cgroup;
}

/* The cgroup of an owner. */
static __always_inline u64 cgroup_behind(u64 owner)
{
	struct executable *executable;

	if (!(owner & EXECUTABLE))
		return owner;
	executable = bpf_map_lookup_elem(&executables, &owner);
	return executable ? executable->cgroup : owner;
}
