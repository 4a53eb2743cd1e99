// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Packets and bytes of the sockets of each cgroup, and packets that were dropped.
 * Hooks: cgroup_skb at the root of the v2 hierarchy, which sees each packet once
 * per socket whatever interfaces it crosses; sock_create, iter/task_file and the
 * ends of send and receive for the owners of sockets; kfree_skb. Not seen: what
 * has no socket here (forwarded packets, TIME_WAIT), and fragments, which count
 * as the whole that they are of.
 */
#include "lib/kernel.h"
#include "lib/cost.bpf.h"
#include "lib/filter.bpf.h"
#include "lib/gate.bpf.h"
#include "lib/maps.bpf.h"
#include "lib/backlog.bpf.h"
#include "lib/owner.bpf.h"
#include "lib/traffic.bpf.h"
#include "lib/wire.bpf.h"
#ifdef CONNECTIONS
#include "lib/connections.bpf.h"
#endif

NEXT(next_egress);
NEXT(next_ingress);

const volatile u32 loopback = 1;    /* count what crosses a loopback interface */
const volatile u32 by_workload = 1; /* count in `flows` */

#define LOOPBACK_IFINDEX 1 /* in every network namespace */

static __always_inline void count_packet(struct __sk_buff *skb, u8 direction)
{
	struct flow flow = { .direction = direction };
	struct bpf_sock *sk = skb->sk;
	u64 bytes = skb->len, packets = 1;
	struct traffic *cell;
	struct owner *owner;

	if (!sk || (!loopback && skb->ifindex == LOOPBACK_IFINDEX))
		return;
	owner = bpf_sk_storage_get(&owners, sk, NULL, 0);
	if (owner) {
		flow.cgroup = owner->cgroup;
		flow.transport = owner->protocol;
#ifndef LEGACY
		if (direction == DIRECTION_RECEIVE && sk->state == TCP_LISTEN && flow.cgroup != OWNER_IGNORED)
			judge_segment(skb, sk, flow.cgroup);
#endif
	} else {
		/* A socket of the kernel itself. */
		sk = bpf_sk_fullsock(sk);
		if (!sk)
			return;
		flow.transport = sk->protocol;
	}
	if (flow.cgroup == OWNER_IGNORED)
		return;
	flow.family = skb->protocol == bpf_htons(ETH_P_IPV6) ? FAMILY_IPV6 : FAMILY_IPV4;
	if (skb->gso_size)
		packets = on_wire(skb, flow.family == FAMILY_IPV6, &bytes);
#ifdef CONNECTIONS
	track(skb, owner, &flow, bytes, packets);
#endif
	if (!by_workload)
		return;
	cell = cell_of(&flow);
	if (cell) {
		__sync_fetch_and_add(&cell->bytes, bytes);
		__sync_fetch_and_add(&cell->packets, packets);
	}
}

/* Both always return 1: whether a packet passes is not ours to say. */
SEC("cgroup_skb/egress")
int network_egress(struct __sk_buff *ctx)
{
	MEASURED(count_packet(ctx, DIRECTION_TRANSMIT));
	HAND_OVER(next_egress);
	return 1;
}

SEC("cgroup_skb/ingress")
int network_ingress(struct __sk_buff *ctx)
{
	MEASURED(count_packet(ctx, DIRECTION_RECEIVE));
	HAND_OVER(next_ingress);
	return 1;
}

SEC("cgroup/sock_create")
int network_create(struct bpf_sock *sk)
{
	struct owner owner = owner_of(CURRENT(), sk->protocol, OUTSIDE_NEW(CURRENT()));

	if (!bpf_sk_storage_get(&owners, sk, &owner, BPF_LOCAL_STORAGE_GET_F_CREATE))
		lose_owner();
	return 1;
}

#ifndef LEGACY
/* Sockets that were there before: they belong to the first task that holds them (bpf_sock_from_file: 5.11, 4f19cab76136). */
SEC("iter/task_file")
int network_seed(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct socket *socket;
	struct owner owner;
	struct sock *sk;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk || !is_inet(sk))
		return 0;
	owner = owner_of(task, sk->sk_protocol, OUTSIDE_OLD(sk));
#ifdef CONNECTIONS
	owner.role = role_of_older(sk);
#endif
	if (!bpf_sk_storage_get(&owners, sk, &owner, BPF_LOCAL_STORAGE_GET_F_CREATE))
		lose_owner();
	return 0;
}

/* A socket belongs to its creator until another cgroup uses it: socket activation, descriptors that were passed on. */
static __always_inline int used(struct sock *sk, int result)
{
	struct owner user, *owner;
	struct task_struct *task;

	if (result < 0 || !is_inet(sk))
		return 0;
	task = CURRENT();
	if (task->flags & PF_KTHREAD)
		return 0;
	user = owner_of(task, sk->sk_protocol, OUTSIDE_OLD(sk));
	owner = bpf_sk_storage_get(&owners, sk, &user, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!owner || owner->cgroup == user.cgroup)
		return 0;
	owner->cgroup = user.cgroup;
#ifdef CONNECTIONS
	close_connection(owner);
#endif
	return 0;
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(sock_send_length, struct sock *sk, int result, int flags)
{
	return used(sk, result);
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(sock_recv_length, struct sock *sk, int result, int flags)
{
	return used(sk, result);
}

static __always_inline int count_drop(struct sk_buff *skb, u32 reason, struct sock *sk)
{
	struct drop drop = { .reason = reason };
	struct network_loss *lost;
	struct owner *owner = NULL;

	/* Messages of Unix and netlink sockets are no packets. */
	if (!skb->protocol && !(sk && is_inet(sk)))
		return 0;
	if (sk)
		owner = bpf_sk_storage_get(&owners, sk, NULL, 0);
	if (owner)
		drop.cgroup = owner->cgroup;
	if (drop.cgroup == OWNER_IGNORED || count(&drops, &drop))
		return 0;
	lost = loss();
	if (lost)
		lost->drops += 1;
	return 0;
}

/*
 * The receiving socket is an argument since 6.11
 * (c53795d48ee8), the reason since 5.17 (c504e5c2f964).
 */
SEC("tp_btf/kfree_skb")
int BPF_PROG(kfree_skb__socket, struct sk_buff *skb, void *location, u32 reason, struct sock *rx_sk)
{
	return count_drop(skb, reason, rx_sk ? rx_sk : skb->sk);
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(kfree_skb__reason, struct sk_buff *skb, void *location, u32 reason)
{
	return count_drop(skb, reason, skb->sk);
}
#endif

char LICENSE[] SEC("license") = "GPL";
