/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Whose a socket is, kept with the socket itself. */
#pragma once
#include "kernel.h"
#include "filter.bpf.h"
#include "socket.bpf.h"
#include "task.bpf.h"
#ifdef CONNECTIONS
#include "../connection.h"
#endif

/* The owner of a socket whose packets are not counted. */
#define OWNER_IGNORED 0xffffffffffffffffULL

/* Whose a socket is, and its IP protocol, which spares a call for each packet. */
struct owner {
	u64 cgroup;
	u32 protocol;
	u16 role;
	u16 outside; /* the table has no connections of its network namespace */
#ifdef CONNECTIONS
	u64 place; /* of its present connection in the table; 0: none */
#endif
};

/* The owner of each socket: some 90 B a socket, freed with it; what accept() gives inherits it. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct owner);
} owners SEC(".maps");

#ifdef CONNECTIONS
const volatile u32 namespaces = NAMESPACES_ALL;
const volatile u32 host_namespace = 0; /* the inode of the host's network namespace */

static __always_inline bool is_outside(u32 namespace)
{
	return (namespaces == NAMESPACES_HOST) != (namespace == host_namespace);
}

/* A socket is made in the network namespace of its task, whatever becomes of either. */
static __always_inline u32 namespace_of_task(struct task_struct *task)
{
#ifdef LEGACY
	return BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
#else
	return task->nsproxy->net_ns->ns.inum;
#endif
}

static __always_inline u32 namespace_of_socket(struct sock *sk)
{
	return sk->__sk_common.skc_net.net->ns.inum;
}

/* Of a new socket, and of one that is there: whether the table has its connections. */
#define OUTSIDE_NEW(task) (namespaces != NAMESPACES_ALL && is_outside(namespace_of_task(task)))
#define OUTSIDE_OLD(sk) (namespaces != NAMESPACES_ALL && is_outside(namespace_of_socket(sk)))
#else
#define OUTSIDE_NEW(task) false
#define OUTSIDE_OLD(sk) false
#endif

static __always_inline struct owner owner_of(struct task_struct *task, u32 protocol, bool outside)
{
	struct owner owner = { .protocol = protocol, .outside = outside };

	owner.cgroup = is_filtered(task) ? OWNER_IGNORED : task_owner(task);
	return owner;
}
