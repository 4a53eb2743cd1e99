// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Bytes that calls read from and wrote to regular files, files opened, and how
 * long the calls took, by cgroup and kind of file system.
 * Hooks: sys_exit, and sys_enter where calls are timed; both leave at once for
 * calls that are not about files. A descriptor is looked up when its call ends.
 * Not seen: mmap, io_uring, AIO; what another thread closes during a call.
 */
#include "lib/kernel.h"
#include "file_io.h"
#include "lib/filter.bpf.h"
#include "lib/gate.bpf.h"
#include "lib/maps.bpf.h"
#include "lib/histogram.bpf.h"
#include "lib/task.bpf.h"
#include "lib/numbers.bpf.h"
#include "lib/starts.bpf.h"
#include "lib/file_calls.bpf.h"
#include "lib/files.bpf.h"

/* A full map takes 112 B an entry and 8 B for each CPU. */
MAP(PERCPU_HASH, file_amounts, struct amount, u64, 4096, ON_DEMAND);
HISTOGRAM(file_latency, struct amount, 1024);
NEXT(next_sys_enter);
NEXT(next_sys_exit);

static __always_inline void entered(struct pt_regs *regs, u32 nr)
{
	u32 call = file_call(nr);
	struct task_struct *task;

	if (!call || !is_timed())
		return;
	task = CURRENT();
	call = is_compat(task, regs) ? call >> 4 : call & 15;
	if (call && call != FILE_OPEN && !is_filtered(task))
		start_call(task, nr);
}

SEC("tp_btf/sys_enter")
int BPF_PROG(sys_enter, struct pt_regs *regs, long id)
{
	MEASURED(entered(regs, id));
	HAND_OVER(next_sys_enter);
	return 0;
}

static __always_inline void add_amount(u64 cgroup, u32 magic, u32 kind, u64 n)
{
	struct amount key = { cgroup, magic, kind };
	struct loss *lost;

	if (add(&file_amounts, &key, n))
		return;
	lost = loss();
	if (!lost)
		return;
	lost->amounts += 1;
	if (kind == FILE_READ)
		lost->read += n;
	else if (kind == FILE_WRITE)
		lost->written += n;
	else
		lost->opens += n;
}

/* What a call did to the one or two files that its descriptors stand for; `how` is how they are found. */
static __always_inline void ended(struct pt_regs *regs, long ret, u32 how)
{
	u32 nr = syscall_number(regs), call = file_call(nr), source = NO_FILE, target = NO_FILE;
	u64 start = 0, took = 0, cgroup;
	struct task_struct *task;
	struct amount key;
	bool compat;

	if (!call)
		return;
	task = CURRENT();
	compat = is_compat(task, regs);
	call = compat ? call >> 4 : call & 15;
	if (is_filtered(task))
		return;
	if (timing != TIME_NONE && call != FILE_OPEN)
		start = end_call(task, nr);
	if (!call || (!start && ret < (call == FILE_OPEN ? 0 : 1)))
		return;
	if (start)
		took = bpf_ktime_get_ns() - start;

	if (call == FILE_READ || call == FILE_COPY)
		source = file_system(task, argument(regs, compat, 0), how);
	else if (call == FILE_OPEN)
		source = file_system(task, ret, how);
	else if (call == FILE_SEND)
		source = file_system(task, argument(regs, compat, 1), how);
	if (call == FILE_WRITE || call == FILE_SYNC || call == FILE_SEND)
		target = file_system(task, argument(regs, compat, 0), how);
	else if (call == FILE_COPY)
		target = file_system(task, argument(regs, compat, 2), how);
	if (source == NO_FILE && target == NO_FILE)
		return;

	cgroup = task_owner(task);
	if (call == FILE_OPEN)
		add_amount(cgroup, 0, FILE_OPEN, 1);
	else if (call != FILE_SYNC && ret > 0) {
		if (source != NO_FILE)
			add_amount(cgroup, source, FILE_READ, ret);
		if (target != NO_FILE)
			add_amount(cgroup, target, FILE_WRITE, ret);
	}
	if (start) {
		key = (struct amount){ cgroup, 0, call == FILE_SEND ? FILE_COPY : call };
		histogram_add_n(file_latency, &key, took, timed_weight(start));
	}
}

#ifndef LEGACY
SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit, struct pt_regs *regs, long ret)
{
	MEASURED(ended(regs, ret, FIND_DIRECT));
	HAND_OVER(next_sys_exit);
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit__near, struct pt_regs *regs, long ret)
{
	MEASURED(ended(regs, ret, FIND_NEAR));
	HAND_OVER(next_sys_exit);
	return 0;
}
#endif

SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit__probe, struct pt_regs *regs, long ret)
{
	MEASURED(ended(regs, ret, FIND_PROBE));
	HAND_OVER(next_sys_exit);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
