// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * What stays on a hook over restarts of the agent, where its programs are pinned:
 * it hands over to the one program in `next`, which user space replaces in one
 * step. So each event is counted by the old program or by the new one.
 */
#include "lib/kernel.h"
#include "lib/gate.bpf.h"

NEXT(next);

/* The hook is chosen when it is loaded. */
SEC("tp_btf/sys_exit")
int BPF_PROG(tracepoint)
{
	HAND_OVER(next);
	return 0;
}

/* Whether a packet passes, or a socket is made or bound, is for nobody behind these to say. */
SEC("cgroup_skb/egress")
int egress(struct __sk_buff *ctx)
{
	HAND_OVER(next);
	return 1;
}

SEC("cgroup_skb/ingress")
int ingress(struct __sk_buff *ctx)
{
	HAND_OVER(next);
	return 1;
}

SEC("cgroup/sock_create")
int sock_create(struct bpf_sock *ctx)
{
	HAND_OVER(next);
	return 1;
}

SEC("cgroup/post_bind4")
int post_bind4(struct bpf_sock *ctx)
{
	HAND_OVER(next);
	return 1;
}

SEC("cgroup/post_bind6")
int post_bind6(struct bpf_sock *ctx)
{
	HAND_OVER(next);
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
