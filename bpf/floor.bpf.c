// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * What the bench compares with: nothing at all on both sides of a system call,
 * the least that any program can cost; and one step of our programs each.
 */
#include "lib/kernel.h"
#include "lib/maps.bpf.h"
#include "lib/task.bpf.h"
#include "syscalls.h"

/* 24 KiB: as `calls` of syscalls.bpf.c, for one call. */
MAP(PERCPU_HASH, floor_calls, struct call, u64, 1024, ON_DEMAND);

SEC("tp_btf/sys_enter")
int BPF_PROG(sys_enter)
{
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit)
{
	return 0;
}

/* Finds the owner. */
SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit__owner, struct pt_regs *regs, long ret)
{
	return task_cgroup(CURRENT()) == 0;
}

/* Finds the owner and counts. */
SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit__count, struct pt_regs *regs, long ret)
{
	struct call call = { .cgroup = task_cgroup(CURRENT()), .nr = syscall_number(regs) };

	count(&floor_calls, &call);
	return 0;
}

/* Reads the clock. */
SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit__clock)
{
	return bpf_ktime_get_ns() == 0;
}

char LICENSE[] SEC("license") = "GPL";
