/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Sums per cgroup of what the kernel itself counts per task, without a program
 * where it counts. Every task has an account of what is settled already. What it
 * did since goes to its cgroup when user space walks over all tasks, when it
 * moves to another cgroup, when it ends and when it is freed, so that each bit
 * counts once and no sum ever falls. The includer defines struct work, all u64,
 * the name of its map, and the two functions that are declared below; and it calls
 * settle_now() late in a task's life, since the event of a task that is freed on
 * the CPU of one that the kernel hides from tracing never comes.
 */
#pragma once
#include "kernel.h"
#include "filter.bpf.h"
#include "maps.bpf.h"
#include "task.bpf.h"
#include "../account.h"

const volatile u64 attached = 0; /* of the monotonic clock: tasks that begin later count from their beginning */

#define FIELDS (sizeof(struct work) / sizeof(u64))
#define TRIES 64

struct account {
	u64 owner; /* whose the task's work was when it was last settled */
	u32 busy;
	u32 padding;
	struct work done; /* settled */
};

/* 112 B an entry and sizeof(struct work) for each CPU. */
MAP(PERCPU_HASH, WORK_MAP, u64, struct work, 4096, ON_DEMAND);
/* One cell for each CPU. */
MAP(PERCPU_ARRAY, losses, u32, struct loss, 1, 0);
/* Some 200 B a thread, freed with it; by the task's address, 96 B an entry, where tasks have no storage. */
#ifdef LEGACY
MAP(HASH, accounts, u64, struct account, 32768, 0);
#else
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct account);
} accounts SEC(".maps");
#endif

/* What a task has done in its life, and what is to be done before the task with this number in a walk. */
static __always_inline void read_work(struct task_struct *task, struct work *work, bool walking);
static __always_inline void begin_walk(u64 number);

static __always_inline struct loss *loss(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&losses, &zero);
}

static __always_inline struct account *find_account(struct task_struct *task)
{
#ifdef LEGACY
	u64 key = (u64)task;

	return bpf_map_lookup_elem(&accounts, &key);
#else
	return bpf_task_storage_get(&accounts, task, 0, 0);
#endif
}

static __always_inline struct account *open_account(struct task_struct *task)
{
#ifdef LEGACY
	static const struct account empty;
	u64 key = (u64)task;

	bpf_map_update_elem(&accounts, &key, &empty, BPF_ANY);
	return bpf_map_lookup_elem(&accounts, &key);
#else
	return bpf_task_storage_get(&accounts, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
#endif
}

/* LEGACY kernels have no compare-and-exchange: there a move at the instant of a walk can count twice. */
static __always_inline bool hold(struct account *account)
{
#ifdef LEGACY
	if (account->busy)
		return false;
	account->busy = 1;
	return true;
#else
	return __sync_val_compare_and_swap(&account->busy, 0, 1) == 0;
#endif
}

static __always_inline void release(struct account *account)
{
#if defined(LEGACY) || defined(__TARGET_ARCH_x86)
	barrier();
	account->busy = 0;
#else
	__sync_lock_test_and_set(&account->busy, 0);
#endif
}

/* Atomic: a task that is freed in an interrupt may settle on the CPU where another is being settled. */
static __always_inline void accumulate(struct work *to, const struct work *work)
{
	const u64 *from = (const u64 *)work;
	u64 *cell = (u64 *)to;

	for (u32 i = 0; i < FIELDS; i++)
		if (from[i])
			__sync_fetch_and_add(&cell[i], from[i]);
}

static __always_inline void credit(u64 owner, const struct work *did)
{
	static const struct work empty;
	struct work *cell = bpf_map_lookup_elem(&WORK_MAP, &owner);
	struct loss *lost;

	if (!cell) {
		bpf_map_update_elem(&WORK_MAP, &owner, &empty, BPF_NOEXIST);
		cell = bpf_map_lookup_elem(&WORK_MAP, &owner);
	}
	if (cell) {
		accumulate(cell, did);
		return;
	}
	lost = loss();
	if (!lost)
		return;
	accumulate(&lost->work, did);
	__sync_fetch_and_add(&lost->works, 1);
}

/* Gives what the task did since it was last settled to whom it belonged then. The account is held. */
static __always_inline void settle(struct task_struct *task, struct account *account, bool walking)
{
	u64 *done = (u64 *)&account->done, owner;
	struct work did;
	u64 *now = (u64 *)&did;
	bool any = false;

	read_work(task, &did, walking);
	for (u32 i = 0; i < FIELDS; i++) {
		u64 before = done[i];

		if (now[i] <= before) {
			now[i] = 0;
			continue;
		}
		done[i] = now[i];
		now[i] -= before;
		any = true;
	}
	owner = account->owner;
	account->owner = owner_of_task(task);
	release(account);
	if (any && !is_filtered_in(task, owner))
		credit(owner, &did);
}

/* The task has not run yet, and it is in the cgroup where it begins. A walk may have seen it already. */
SEC("tp_btf/task_newtask")
int BPF_PROG(task_newtask, struct task_struct *task)
{
	struct account *account = open_account(task);
	static const struct work none;

	if (account) {
		account->done = none;
		account->owner = owner_of_task(task);
	}
	return 0;
}

static __always_inline void settle_now(struct task_struct *task)
{
	struct account *account = find_account(task);

	if (!account)
		return;
	/* A walk holds an account for less than a microsecond. */
	for (u32 i = 0; i < TRIES; i++) {
		if (hold(account)) {
			settle(task, account, false);
			return;
		}
	}
}

/* Fires after the move, once for a whole process: its other threads are settled at the next walk. */
SEC("tp_btf/cgroup_attach_task")
int BPF_PROG(cgroup_attach_task, struct cgroup *cgroup, const char *path, struct task_struct *task)
{
	if (task->sighand)
		settle_now(task);
	return 0;
}

/* Attached where executables are told apart: from here on the process has another name. */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(sched_process_exec, struct task_struct *task)
{
	settle_now(task);
	return 0;
}

/* Nobody else settles a task without sighand, and this runs a grace period after it was taken from the task. */
SEC("tp_btf/sched_process_free")
int BPF_PROG(sched_process_free, struct task_struct *task)
{
	struct account *account = find_account(task), fresh = {};

	if (!account && task->start_time < attached)
		return 0;
	if (!account) {
		fresh.owner = owner_of_task(task);
		account = &fresh;
	}
	settle(task, account, false);
#ifdef LEGACY
	u64 key = (u64)task;

	bpf_map_delete_elem(&accounts, &key);
#endif
	return 0;
}

/*
 * A task without an account is older than our hooks, and counts from now on; or
 * none could be made when it began, because a walk was held up in the middle of
 * reading another on that CPU: then all that it did counts.
 */
SEC("iter/task")
int walk(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct account *account;

	if (!task)
		return 0;
	begin_walk(ctx->meta->seq_num);
	if (!task->sighand)
		return 0;
	account = find_account(task);
	if (account) {
		if (hold(account))
			settle(task, account, true);
		return 0;
	}
	account = open_account(task);
	if (!account)
		return 0;
	account->owner = owner_of_task(task);
	if (task->start_time < attached)
		read_work(task, &account->done, false);
	return 0;
}
