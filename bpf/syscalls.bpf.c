// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * System calls per cgroup: how many returned, which errors, how long they took.
 * Hooks: sys_exit, and sys_enter where calls are timed. Load sys_exit first, so
 * that every start finds its end. Not seen: exit and exit_group, which never
 * return, and what io_uring does without a call.
 */
#include "lib/kernel.h"
#include "syscalls.h"
#include "lib/filter.bpf.h"
#include "lib/gate.bpf.h"
#include "lib/maps.bpf.h"
#include "lib/histogram.bpf.h"
#include "lib/task.bpf.h"
#include "lib/numbers.bpf.h"
#include "lib/starts.bpf.h"

const volatile u32 count_listed = 0; /* count only what is listed */
const volatile u32 time_listed = 0;  /* time per system call what is listed */

/* A full map takes 112 B an entry and 8 B for each CPU. */
MAP(PERCPU_HASH, calls, struct call, u64, 16384, ON_DEMAND);
MAP(PERCPU_HASH, errors, struct failure, u64, 8192, ON_DEMAND);
HISTOGRAM(latency, struct call, 2048);
NEXT(next_sys_enter);
NEXT(next_sys_exit);
/* 24 KiB: marks by table and number, read only where a list is configured. */
MAP(ARRAY, listed, u32, u32, 3 * NR_LIMIT, 0);

static __always_inline void entered(struct pt_regs *regs, u32 nr)
{
	struct task_struct *task;

	if (!is_timed())
		return;
	task = CURRENT();
	if (!is_filtered(task) && !has_no_end(syscall_abi(task, regs, nr), nr))
		start_call(task, nr);
}

SEC("tp_btf/sys_enter")
int BPF_PROG(sys_enter, struct pt_regs *regs, long id)
{
	MEASURED(entered(regs, id));
	HAND_OVER(next_sys_enter);
	return 0;
}

static __always_inline u32 marks(u32 abi, u32 nr)
{
	u32 index = abi * NR_LIMIT + nr;
	u32 *cell = nr < NR_LIMIT ? bpf_map_lookup_elem(&listed, &index) : NULL;

	return cell ? *cell : 0;
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

static __always_inline void ended(struct pt_regs *regs, long ret)
{
	struct task_struct *task = CURRENT();
	u64 start = 0, took = 0;
	struct call call;
	struct loss *lost;
	u32 mark = 0;

	if (is_filtered(task))
		return;
	call.nr = syscall_number(regs);
	if (timing != TIME_NONE)
		start = end_call(task, call.nr);
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
		return;
	if (call.nr >= NR_LIMIT)
		call.nr = NR_UNKNOWN;
	if (count_listed || time_listed)
		mark = marks(call.abi, call.nr);
	if (count_listed && !(mark & LISTED_COUNT))
		return;

	call.cgroup = task_owner(task);
	if (!count(&calls, &call)) {
		lost = loss();
		if (lost)
			lost->calls += 1;
	}
	if ((u64)ret > (u64)-4096)
		count_error(&call, -ret);
	if (!start)
		return;
	/* Each call is in one histogram, so that their sum is right. */
	if (!time_listed || !(mark & LISTED_TIME)) {
		call.nr = NR_ALL;
		call.abi = ABI_NATIVE;
	}
	histogram_add_n(latency, &call, took, timed_weight(start));
}

SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit, struct pt_regs *regs, long ret)
{
	MEASURED(ended(regs, ret));
	HAND_OVER(next_sys_exit);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
