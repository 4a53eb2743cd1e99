/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Whose the sockets are that answer: what is bound to port 53, and what such sockets accept. */
#pragma once
#include "kernel.h"
#include "filter.bpf.h"
#include "socket.bpf.h"
#include "stream.bpf.h"
#include "task.bpf.h"

#define DOMAIN 53

const volatile u32 servers = 0; /* count them */

struct server {
	u64 cgroup; /* of the task that bound it, or that answers */
	u32 filtered;
	u32 padding;
};

/* 90 B for each such socket; what accept() gives inherits it. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct server);
} owners SEC(".maps");

/* Gives the owner of a packet's socket, which the kernel is where nobody saw who bound it. */
static __always_inline struct server server_of(struct __sk_buff *skb)
{
	struct server nobody = { .filtered = comm_filter || cgroup_filter };
	struct bpf_sock *sk = skb->sk;
	struct server *server;

	sk = sk ? bpf_sk_fullsock(sk) : NULL;
	server = sk ? bpf_sk_storage_get(&owners, sk, NULL, 0) : NULL;
	return server ? *server : nobody;
}

/* A datagram leaves in the task that answers, which may not be the one that bound the socket (socket activation). */
static __always_inline void own_answer(struct __sk_buff *skb)
{
	struct task_struct *task = CURRENT();
	struct bpf_sock *sk = skb->sk;
	u64 owner = sender_owner(task);
	struct server *server;

	sk = sk ? bpf_sk_fullsock(sk) : NULL;
	server = sk ? bpf_sk_storage_get(&owners, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE) : NULL;
	if (!server || server->cgroup == owner)
		return;
	server->cgroup = owner;
	server->filtered = is_filtered_sender(task, owner);
}

static __always_inline int own_bound(struct bpf_sock *sk)
{
	struct server server = {};

	if (sk->src_port != DOMAIN)
		return 1;
	server.cgroup = task_owner(CURRENT());
	server.filtered = is_filtered(CURRENT());
	bpf_sk_storage_get(&owners, sk, &server, BPF_SK_STORAGE_GET_F_CREATE);
	return 1;
}

#ifndef LEGACY
/* Sockets that were bound before: they belong to the first task that holds them (bpf_sock_from_file: 5.11, 4f19cab76136). */
static __always_inline int own_older(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct server server = {};
	struct socket *socket;
	struct sock *sk;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	sk = socket ? socket->sk : NULL;
	if (!sk || !is_inet(sk) || sk->__sk_common.skc_num != DOMAIN)
		return 0;
	server.cgroup = owner_of_task(task);
	server.filtered = is_filtered(task);
	bpf_sk_storage_get(&owners, sk, &server, BPF_SK_STORAGE_GET_F_CREATE);
	return 0;
}
#endif

/* The same of a segment that comes to a server. */
static __always_inline struct stream *served_stream(struct __sk_buff *skb)
{
	struct stream *stream = socket_stream(skb, 0);
	struct bpf_sock *sk = skb->sk;
	struct server server;

	/* What comes before a connection is accepted goes by its listener. */
	sk = sk ? bpf_sk_fullsock(sk) : NULL;
	if (stream || !sk || sk->state == TCP_LISTEN)
		return stream;
	stream = new_stream(skb);
	if (!stream)
		return NULL;
	server = server_of(skb);
	stream->role = ROLE_SERVER;
	stream->cgroup = server.cgroup;
	stream->filtered = server.filtered;
	return stream;
}
