// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* The programs that sit on the hooks of several collectors and hand over to theirs. */
#include "lib/kernel.h"
#include "lib/gate.bpf.h"

NEXT(next_sys_enter);
NEXT(next_sys_exit);
NEXT(next_egress);
NEXT(next_ingress);

SEC("tp_btf/sys_enter")
int BPF_PROG(sys_enter)
{
	HAND_OVER(next_sys_enter);
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit)
{
	HAND_OVER(next_sys_exit);
	return 0;
}

/* Whether a packet passes is for nobody behind these to say. */
SEC("cgroup_skb/egress")
int egress(struct __sk_buff *ctx)
{
	HAND_OVER(next_egress);
	return 1;
}

SEC("cgroup_skb/ingress")
int ingress(struct __sk_buff *ctx)
{
	HAND_OVER(next_ingress);
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
