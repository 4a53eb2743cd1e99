// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * System calls per cgroup: how many returned, which errors, how long they took.
 * Hooks: sys_exit, and sys_enter where calls are timed. Load sys_exit first, so
 * that every start finds its end. Not seen: exit and exit_group, which never
 * return, and what io_uring does without a call.
 */
#include "lib/kernel.h"
#include "lib/maps.bpf.h"
#include "lib/hist.bpf.h"
#include "lib/task.bpf.h"
#include "lib/numbers.bpf.h"
#include "syscalls.h"

#define TIME_NONE 0
#define TIME_EVERY 1
#define TIME_SAMPLE 2

#define STALE_NS (60ULL * 1000000000)

const volatile u32 timing = TIME_NONE;
const volatile u32 sample_mask = 15;    /* one call in mask + 1 */
const volatile u32 starts_mask = 16383; /* entries of starts - 1 */
const volatile u32 count_listed = 0;    /* count only what is listed */
const volatile u32 time_listed = 0;     /* time per system call what is listed */
const volatile u32 comm_filter = 0;     /* COMM_INCLUDE: only those; COMM_EXCLUDE: all but those */

/* 112 B an entry and 8 B for each CPU. */
MAP(PERCPU_HASH, calls, struct call, u64, 16384, ON_DEMAND);
MAP(PERCPU_HASH, errors, struct failure, u64, 8192, ON_DEMAND);
/* 160 B an entry for each CPU. */
MAP(PERCPU_HASH, latency, struct call, struct hist, 2048, ON_DEMAND);
MAP(PERCPU_ARRAY, losses, u32, struct loss, 1, 0);
/* 8 B a cell. */
MAP(ARRAY, listed, u32, u32, 3 * NR_LIMIT, 0);
MAP(HASH, comms, u64[2], u32, 256, 0);
/* Starts of sampled calls: 16 B a slot, chosen by the low bits of the thread's id. */
MAP(ARRAY, starts, u32, struct start, 16384, 0);
#ifdef LEGACY
/* Starts of all calls: one for each thread that is in a call. */
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

/*
 * Takes the slot of a thread. Two threads with the same low bits can write it at
 * once: then both ids, numbers and times mix, which the end notices or which puts
 * a start off by the nanoseconds between the two.
 */
static __always_inline void start_sampled(u32 pid, u32 nr)
{
	u32 index = pid & starts_mask;
	struct start *start = bpf_map_lookup_elem(&starts, &index);
	struct loss *lost;
	u64 now;

	if (!start)
		return;
	now = bpf_ktime_get_ns();
	if (start->pid && start->pid != pid) {
		bool stale = now - start->time > STALE_NS;

		lost = loss();
		if (lost && stale)
			lost->stale += 1;
		else if (lost)
			lost->busy += 1;
		if (!stale)
			return;
	}
	start->nr = nr;
	start->time = now;
	start->pid = pid;
}

static __always_inline u64 end_sampled(u32 pid, u32 nr)
{
	u32 index = pid & starts_mask;
	struct start *start = bpf_map_lookup_elem(&starts, &index);
	struct loss *lost;

	if (!start || start->pid != pid)
		return 0;
	start->pid = 0;
	if (start->nr == nr)
		return start->time;
	/* An older call of a reused id, or an exec that changed the table. */
	lost = loss();
	if (lost)
		lost->stale += 1;
	return 0;
}

static __always_inline void start_every(struct task_struct *task)
{
	struct loss *lost;
#ifdef LEGACY
	u32 pid = task_id(task);
	u64 now = bpf_ktime_get_ns();

	if (!bpf_map_update_elem(&inflight, &pid, &now, BPF_ANY))
		return;
#else
	u64 *start = bpf_task_storage_get(&inflight, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (start) {
		*start = bpf_ktime_get_ns();
		return;
	}
#endif
	lost = loss();
	if (lost)
		lost->busy += 1;
}

static __always_inline u64 end_every(struct task_struct *task)
{
#ifdef LEGACY
	u32 pid = task_id(task);
	u64 *start = bpf_map_lookup_elem(&inflight, &pid);
	u64 time = start ? *start : 0;

	if (start)
		bpf_map_delete_elem(&inflight, &pid);
#else
	u64 *start = bpf_task_storage_get(&inflight, task, 0, 0);
	u64 time = start ? *start : 0;

	if (start)
		*start = 0;
#endif
	return time;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(sys_enter, struct pt_regs *regs, long id)
{
	struct task_struct *task;
	u32 nr = id;

	if (timing == TIME_SAMPLE && (bpf_get_prandom_u32() & sample_mask))
		return 0;
	task = CURRENT();
	if (has_no_end(syscall_abi(task, regs, nr), nr))
		return 0;
	if (timing == TIME_SAMPLE)
		start_sampled(task_id(task), nr);
	else
		start_every(task);
	return 0;
}

static __always_inline u32 marks(u32 abi, u32 nr)
{
	u32 index = abi * NR_LIMIT + nr;
	u32 *cell = nr < NR_LIMIT ? bpf_map_lookup_elem(&listed, &index) : NULL;

	return cell ? *cell : 0;
}

static __always_inline bool is_filtered(struct task_struct *task)
{
	u64 comm[2];
	u32 *rule;

	process_comm(task, comm);
	rule = bpf_map_lookup_elem(&comms, comm);
	if (rule && *rule == COMM_EXCLUDE)
		return true;
	return comm_filter == COMM_INCLUDE && !rule;
}

static __always_inline void count_error(struct call *call, u32 number)
{
	struct failure error = { call->cgroup, call->nr, call->abi, number };
	struct loss *lost;

	/* ERESTARTSYS to ERESTART_RESTARTBLOCK: the kernel starts the call again. */
	if (number >= 512 && number <= 516)
		return;
	if (count(&errors, &error))
		return;
	lost = loss();
	if (lost)
		lost->errors += 1;
}

static __always_inline void add_latency(struct call *call, u64 took)
{
	static const struct hist empty;
	struct hist *hist = bpf_map_lookup_elem(&latency, call);
	struct loss *lost;

	if (!hist) {
		bpf_map_update_elem(&latency, call, &empty, BPF_ANY);
		hist = bpf_map_lookup_elem(&latency, call);
	}
	if (!hist) {
		lost = loss();
		if (!lost)
			return;
		hist = &lost->latency;
	}
	hist_add(hist, took);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit, struct pt_regs *regs, long ret)
{
	struct task_struct *task = CURRENT();
	u64 start = 0, took = 0;
	struct call call;
	struct loss *lost;
	u32 mark = 0;

	call.nr = syscall_number(regs);
	if (timing == TIME_SAMPLE)
		start = end_sampled(task_id(task), call.nr);
	else if (timing == TIME_EVERY)
		start = end_every(task);
	if (start)
		took = bpf_ktime_get_ns() - start;

	call.abi = syscall_abi(task, regs, call.nr);
	if (call.nr == (u32)-1) {
		/* What it "returns" is the register that the signal interrupted. */
		call.nr = sigreturn(call.abi);
		ret = 0;
	} else if (call.abi == ABI_X32) {
		call.nr &= ~X32_BIT;
	}
	if (ret == 0 && is_fork(call.abi, call.nr))
		return 0;
	if (call.nr >= NR_LIMIT)
		call.nr = NR_UNKNOWN;
	if (count_listed || time_listed)
		mark = marks(call.abi, call.nr);
	if (count_listed && !(mark & LISTED_COUNT))
		return 0;
	if (comm_filter && is_filtered(task))
		return 0;

	call.cgroup = task_cgroup(task);
	if (!count(&calls, &call)) {
		lost = loss();
		if (lost)
			lost->calls += 1;
	}
	if ((u64)ret > (u64)-4096)
		count_error(&call, -ret);
	if (!start)
		return 0;
	if (time_listed && (mark & LISTED_TIME))
		add_latency(&call, took);
	call.nr = NR_ALL;
	call.abi = ABI_NATIVE;
	add_latency(&call, took);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
