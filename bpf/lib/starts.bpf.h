/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * When system calls started: where the start of one that is timed waits for its
 * end. What cannot be timed is counted in `busy` and `stale` of a struct loss,
 * which the program defines before it includes this.
 */
#pragma once
#include "kernel.h"
#include "../starts.h"
#include "maps.bpf.h"
#include "sample.bpf.h"
#include "task.bpf.h"

#ifdef LEGACY
#define HAS_SLOTS (timing != TIME_EVERY)
#else
#define HAS_SLOTS true
#endif

#define STALE_NS (60ULL * 1000000000)

const volatile u32 starts_mask = 16383; /* entries of starts - 1 */

/* One cell of some 200 B for each CPU. */
MAP(PERCPU_ARRAY, losses, u32, struct loss, 1, 0);
/* 256 KiB: starts of calls, 16 B a slot, chosen by the thread's id. */
MAP(ARRAY, starts, u32, struct start, 16384, 0);
/* Starts of calls that find no slot where every call is timed: 8 B in the task, or 72 B in a hash. */
#ifdef LEGACY
MAP(HASH, inflight, u32, u64, 32768, 0);
#else
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, u64);
} inflight SEC(".maps");
#endif

static __always_inline struct loss *loss(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&losses, &zero);
}

static __always_inline void lose_start(bool stale)
{
	struct loss *lost = loss();

	if (!lost)
		return;
	if (stale)
		lost->stale += 1;
	else
		lost->busy += 1;
}

/* Neighbours lie on different cache lines: threads of one process run on different CPUs. */
static __always_inline struct start *start_slot(u32 pid)
{
	u32 index = ((pid << 2) | ((pid >> 12) & 3)) & starts_mask;

	return bpf_map_lookup_elem(&starts, &index);
}

/*
 * Takes a free slot. LEGACY kernels have no compare-and-exchange (5ffa25502b5a,
 * 5.12): there two threads can take a slot at once, and one sample is not found
 * again; where every call counts they use no slots.
 */
static __always_inline bool claim(struct start *start, u32 pid)
{
#ifdef LEGACY
	if (start->pid)
		return false;
	start->pid = pid;
	return true;
#else
	return __sync_val_compare_and_swap(&start->pid, 0, pid) == 0;
#endif
}

static __always_inline void release(struct start *start)
{
#if defined(LEGACY) || defined(__TARGET_ARCH_x86)
	barrier();
	start->pid = 0;
#else
	/* The next owner must not write the time before this one has read it. */
	__sync_lock_test_and_set(&start->pid, 0);
#endif
}

/* Keeps the start of a call beside the task, where its slot is not to be had. */
static __always_inline void start_aside(struct task_struct *task, u64 now)
{
#ifdef LEGACY
	u32 pid = task_id(task);

	if (!bpf_map_update_elem(&inflight, &pid, &now, BPF_ANY))
		return;
#else
	u64 *aside = bpf_task_storage_get(&inflight, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (aside) {
		*aside = now;
		return;
	}
#endif
	lose_start(false);
}

static __always_inline u64 end_aside(struct task_struct *task)
{
	u64 time = 0;
#ifdef LEGACY
	u32 pid = task_id(task);
	u64 *aside = bpf_map_lookup_elem(&inflight, &pid);

	if (aside) {
		time = *aside;
		bpf_map_delete_elem(&inflight, &pid);
	}
#else
	u64 *aside = bpf_task_storage_get(&inflight, task, 0, 0);

	if (aside) {
		time = *aside;
		*aside = 0;
	}
#endif
	return time;
}

static __always_inline void start_call(struct task_struct *task, u32 nr)
{
	u64 now = bpf_ktime_get_ns();
	u32 pid = task_id(task);
	struct start *start = HAS_SLOTS ? start_slot(pid) : NULL;

	if (!HAS_SLOTS)
		start_aside(task, now);
	if (!start)
		return;
	if (start->pid == pid || claim(start, pid)) {
		start->nr = nr;
		start->time = now;
		return;
	}
	if (timing == TIME_EVERY) {
		start_aside(task, now);
		return;
	}
	/* A thread that changed its id in exec never ends its call. */
	if (now - start->time < STALE_NS) {
		lose_start(false);
		return;
	}
	lose_start(true);
	start->nr = nr;
	start->time = now;
	start->pid = pid;
}

static __always_inline u64 end_call(struct task_struct *task, u32 nr)
{
	u32 pid = task_id(task);
	struct start *start = HAS_SLOTS ? start_slot(pid) : NULL;
	u64 time;

	if (!HAS_SLOTS)
		return end_aside(task);
	if (!start)
		return 0;
	if (start->pid != pid)
		return timing == TIME_EVERY ? end_aside(task) : 0;
	time = start->time;
	if (timing == TIME_SAMPLE && start->nr != nr) {
		/* An older call of a reused id, or an exec that changed the table. */
		lose_start(true);
		time = 0;
	}
	release(start);
	return time;
}
