/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Whose a socket is, kept with the socket itself. */
#pragma once
#include "kernel.h"
#include "filter.bpf.h"
#include "socket.bpf.h"
#include "task.bpf.h"

/* The owner of a socket whose packets are not counted. */
#define OWNER_IGNORED 0xffffffffffffffffULL

/* Whose a socket is, and its IP protocol, which spares a call for each packet. */
struct owner {
	u64 cgroup;
	u32 protocol;
	u32 role;
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

static __always_inline struct owner owner_of(struct task_struct *task, u32 protocol)
{
	struct owner owner = { .protocol = protocol };

	owner.cgroup = is_filtered(task) ? OWNER_IGNORED : task_owner(task);
	return owner;
}
