// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * What the bench compares with: nothing at all on each hook of our programs, the
 * least that any program can cost; and one step of our programs each.
 */
#include "lib/kernel.h"
#include "lib/maps.bpf.h"
#include "lib/task.bpf.h"
#include "syscalls.h"

/* 24 KiB: as `calls` of syscalls.bpf.c, for one call. */
MAP(PERCPU_HASH, floor_calls, struct call, u64, 1024, ON_DEMAND);

#define EMPTY(hook)          \
	SEC("tp_btf/" #hook) \
	int BPF_PROG(hook)   \
	{                    \
		return 0;    \
	}

EMPTY(sys_enter)
EMPTY(sys_exit)
EMPTY(cgroup_mkdir)
EMPTY(cgroup_rmdir)
EMPTY(cgroup_attach_task)
EMPTY(sched_switch)
EMPTY(sched_wakeup)
EMPTY(sched_wakeup_new)
EMPTY(sched_process_exec)
EMPTY(sched_process_exit)
EMPTY(sched_process_free)
EMPTY(inet_sock_set_state)
EMPTY(tcp_destroy_sock)
EMPTY(tcp_receive_reset)
EMPTY(tcp_retransmit_skb)
EMPTY(tcp_retransmit_synack)
EMPTY(tcp_send_reset)
EMPTY(kfree_skb)
EMPTY(sock_send_length)
EMPTY(sock_recv_length)
EMPTY(block_rq_issue)
EMPTY(block_rq_complete)
EMPTY(mm_page_alloc)
EMPTY(mark_victim)

/* Hooks of cgroups. */
SEC("cgroup_skb/egress")
int floor_egress(struct __sk_buff *skb)
{
	return 1;
}

SEC("cgroup_skb/ingress")
int floor_ingress(struct __sk_buff *skb)
{
	return 1;
}

SEC("cgroup/sock_create")
int floor_create(struct bpf_sock *sk)
{
	return 1;
}

/* A second program on a hook. */
SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit__second)
{
	return 0;
}

/* Asks for the current task, the least that a filter takes. */
SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit__task)
{
	return CURRENT() == NULL;
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
