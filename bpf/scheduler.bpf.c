// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Time on CPU, switches and waits for a CPU per cgroup. The first two are the
 * kernel's per-task fields (lib/account.bpf.h); a wait is the kernel's own
 * run_delay, read when it ends. Hooks: sched_switch, task_newtask,
 * cgroup_attach_task, sched_process_free, and an iterator over all tasks.
 */
#include "lib/kernel.h"
#include "scheduler.h"
#define WORK_MAP ran
#include "lib/account.bpf.h"
#include "lib/histogram.bpf.h"
#include "lib/sample.bpf.h"

const volatile u32 delays_mask = 16383; /* entries of delays - 1 */

HISTOGRAM(waits, u64, 2048);
/* 128 KiB: each thread's run_delay when it last began to run, with its id, at a place chosen by the id. */
MAP(ARRAY, delays, u32, u64, 16384, 0);
/* One cell: what the monotonic clock is ahead of the scheduler's. */
MAP(ARRAY, ahead, u32, u64, 1, 0);

/*
 * The scheduler's clock stands still between two events of its CPU, for a tick at
 * most. User space has just made the kernel set the clock of this CPU; so what
 * is made of the difference is late by the microseconds since, and never early.
 */
static __always_inline void begin_walk(u64 number)
{
#ifndef LEGACY
	struct task_struct *task = bpf_get_current_task_btf();
	u32 zero = 0;
	u64 *cell = number ? NULL : bpf_map_lookup_elem(&ahead, &zero);

	if (cell)
		*cell = bpf_ktime_get_ns() - task->se.cfs_rq->rq->clock;
#endif
}

/*
 * The kernel adds to a running task's time at ticks and switches; what it ran
 * since is added here. The kernel writes clock, clock_task, exec_start and sum in
 * this order: read the other way round they never give too much.
 */
static __always_inline u64 runtime(struct task_struct *task, bool walking)
{
	u64 sum = task->se.sum_exec_runtime;
#ifndef LEGACY
	u32 zero = 0;
	u64 *cell = walking ? bpf_map_lookup_elem(&ahead, &zero) : NULL;
	struct rq *rq = task->se.cfs_rq->rq;
	u64 since, clock, now, again;

	if (!cell || rq->curr != task)
		return sum;
	barrier();
	since = task->se.exec_start;
	barrier();
	since = rq->clock_task - since;
	barrier();
	clock = rq->clock;
	now = bpf_ktime_get_ns() - *cell;
	if (now > clock)
		since += now - clock;
	again = task->se.sum_exec_runtime;
	if (again == sum && rq->curr == task)
		sum += since;
	else
		sum = again;
#endif
	return sum;
}

static __always_inline void read_work(struct task_struct *task, struct work *work, bool walking)
{
	work->runtime = runtime(task, walking);
	work->voluntary = task->nvcsw;
	work->involuntary = task->nivcsw;
}

/* The last switch of a task is what it does last. */
static __always_inline void end(struct task_struct *task)
{
	if (task->exit_state)
		settle_now(task);
}

/*
 * Here the next task still stands in the queue: last_queued is when it came to
 * this CPU's. A task that was moved between queues while it waited came to its
 * first one earlier; the kernel has added that part to run_delay, so run_delay
 * since the task last began to run is the whole wait. Where another thread has
 * taken its place in `delays`, the last part counts alone.
 */
static __always_inline void switched(struct task_struct *prev, struct task_struct *next)
{
	const u64 mask = (1ULL << DELAY_BITS) - 1;
	u64 queued = next->sched_info.last_queued;
	u64 pid, waited, total, owner, *cell;
	u32 index;

	end(prev);
	if (!queued) /* the idle task */
		return;
	waited = next->se.cfs_rq->rq->clock - queued;
	total = next->sched_info.run_delay + waited;
	pid = (u32)next->pid;
	/* Neighbours lie on different cache lines: they run on different CPUs. */
	index = ((pid << 3) | ((pid >> 11) & 7)) & delays_mask;
	cell = bpf_map_lookup_elem(&delays, &index);
	if (cell) {
		if (!next->sched_info.pcount)
			waited = total;
		else if (*cell >> DELAY_BITS == pid)
			waited = (total - *cell) & mask;
		*cell = pid << DELAY_BITS | (total & mask);
	}
	if (!is_timed())
		return;
	owner = owner_of_task(next);
	if (!is_filtered_in(next, owner))
		histogram_add_n(waits, &owner, waited, timed_every());
}

SEC("tp_btf/sched_switch")
int BPF_PROG(sched_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	MEASURED(switched(prev, next));
	return 0;
}

/* Where waits are not measured. */
SEC("tp_btf/sched_switch")
int BPF_PROG(sched_switch__end, bool preempt, struct task_struct *prev)
{
	MEASURED(end(prev));
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
