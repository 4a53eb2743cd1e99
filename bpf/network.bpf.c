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
#include "lib/filter.bpf.h"
#include "lib/maps.bpf.h"
#include "lib/task.bpf.h"
#include "lib/wire.bpf.h"
#include "network.h"

const volatile u32 loopback = 1; /* count what crosses a loopback interface */

#define AF_INET 2
#define AF_INET6 10
#define LOOPBACK_IFINDEX 1 /* in every network namespace */

/* A full map takes 112 B an entry and 16 B for each CPU. */
MAP(PERCPU_HASH, flows, struct flow, struct traffic, 8192, ON_DEMAND);
/* 112 B an entry and 8 B for each CPU. */
MAP(PERCPU_HASH, drops, struct drop, u64, 2048, ON_DEMAND);
MAP(PERCPU_ARRAY, losses, u32, struct network_loss, 1, 0);

/* The cgroup of each socket's owner: some 80 B a socket, freed with it; what accept() gives inherits it. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, u64);
} owners SEC(".maps");

static __always_inline struct network_loss *loss(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&losses, &zero);
}

static __always_inline void lose_owner(void)
{
	struct network_loss *lost = loss();

	if (lost)
		__sync_fetch_and_add(&lost->owners, 1);
}

static __always_inline bool is_inet(struct sock *sk)
{
	u16 family = sk->__sk_common.skc_family;

	return family == AF_INET || family == AF_INET6;
}

static __always_inline u64 owner_of(struct task_struct *task)
{
	return is_filtered(task) ? OWNER_IGNORED : task_cgroup(task);
}

/*
 * The cell is this CPU's, but a packet that a task sends is counted with soft
 * interrupts on, and their packets may count here meanwhile: so the cell is made
 * empty, and only ever added to.
 */
static __always_inline struct traffic *cell_of(struct flow *flow)
{
	static const struct traffic empty;
	struct traffic *cell = bpf_map_lookup_elem(&flows, flow);
	struct network_loss *lost;

	if (cell)
		return cell;
	bpf_map_update_elem(&flows, flow, &empty, BPF_NOEXIST);
	cell = bpf_map_lookup_elem(&flows, flow);
	if (cell)
		return cell;
	lost = loss();
	return lost ? &lost->traffic : NULL;
}

static __always_inline int count_packet(struct __sk_buff *skb, u8 direction)
{
	struct flow flow = { .direction = direction };
	struct bpf_sock *sk = skb->sk;
	u64 bytes = skb->len, packets = 1;
	struct traffic *cell;
	u64 *owner;

	if (!loopback && skb->ifindex == LOOPBACK_IFINDEX)
		return 1;
	if (!sk)
		return 1;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return 1;
	/* Sockets of the kernel itself have no entry. */
	owner = bpf_sk_storage_get(&owners, sk, NULL, 0);
	if (owner)
		flow.cgroup = *owner;
	if (flow.cgroup == OWNER_IGNORED)
		return 1;
	flow.transport = sk->protocol;
	flow.family = skb->protocol == bpf_htons(ETH_P_IPV6) ? FAMILY_IPV6 : FAMILY_IPV4;
	if (skb->gso_size)
		packets = on_wire(skb, flow.family == FAMILY_IPV6, &bytes);
	cell = cell_of(&flow);
	if (cell) {
		__sync_fetch_and_add(&cell->bytes, bytes);
		__sync_fetch_and_add(&cell->packets, packets);
	}
	return 1;
}

/* Both always return 1: whether a packet passes is not ours to say. */
SEC("cgroup_skb/egress")
int network_egress(struct __sk_buff *skb)
{
	return count_packet(skb, DIRECTION_TRANSMIT);
}

SEC("cgroup_skb/ingress")
int network_ingress(struct __sk_buff *skb)
{
	return count_packet(skb, DIRECTION_RECEIVE);
}

SEC("cgroup/sock_create")
int network_create(struct bpf_sock *sk)
{
	u64 owner = owner_of(CURRENT());

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
	struct sock *sk;
	u64 owner;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk || !is_inet(sk))
		return 0;
	owner = owner_of(task);
	if (!bpf_sk_storage_get(&owners, sk, &owner, BPF_LOCAL_STORAGE_GET_F_CREATE))
		lose_owner();
	return 0;
}

/* A socket belongs to its creator until another cgroup uses it: socket activation, descriptors that were passed on. */
static __always_inline int used(struct sock *sk, int result)
{
	struct task_struct *task;
	u64 user, *owner;

	if (result < 0 || !is_inet(sk))
		return 0;
	task = CURRENT();
	if (task->flags & PF_KTHREAD)
		return 0;
	user = owner_of(task);
	owner = bpf_sk_storage_get(&owners, sk, &user, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (owner && *owner != user)
		*owner = user;
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
	u64 *owner = NULL;

	/* Messages of Unix and netlink sockets are no packets. */
	if (!skb->protocol && !(sk && is_inet(sk)))
		return 0;
	if (sk)
		owner = bpf_sk_storage_get(&owners, sk, NULL, 0);
	if (owner)
		drop.cgroup = *owner;
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
