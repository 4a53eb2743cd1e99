// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * TCP connections per cgroup: how many in which state, how they begin and end,
 * how long they take to connect and to answer, what is sent again.
 * Hooks: inet_sock_set_state, tcp_destroy_sock, inet_sk_error_report, tcp_send_reset,
 * tcp_receive_reset, tcp_retransmit_skb, tcp_retransmit_synack; iter/task_file finds
 * sockets that are older than us and reads round-trip times. Not seen: TIME_WAIT, half-open inbound
 * connections, connects without a route.
 */
#include "lib/kernel.h"
#include "lib/conn.bpf.h"
#include "lib/cost.bpf.h"
#include "lib/follow.bpf.h"

/* The number of the present walk. */
MAP(ARRAY, rounds, u32, u32, 1, 0);

static __always_inline void changed(const struct sock *sk, int from, int to)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock((void *)sk);
	struct conn *conn = tp ? find(sk, tp) : NULL;
	struct task_struct *task;

	if (!conn || from == to)
		return;
	if (from == TCP_CLOSE) {
		/* connect() and listen() run in the task that the socket is then of. */
		if (is_open(conn))
			follow(conn, sk, tp, TCP_CLOSE, TCP_CLOSE);
		conn->flags = to == TCP_LISTEN ? CONN_INBOUND : CONN_CONNECTING;
		conn->start = to == TCP_LISTEN ? 0 : bpf_ktime_get_ns();
		conn->retransmits = tp->total_retrans;
		task = CURRENT();
		own(conn, task_owner(task), is_filtered(task));
		if (to == TCP_LISTEN)
			bequeath(conn, sk);
	} else if (from != TCP_LISTEN || to == TCP_SYN_RECV) {
		/* A copy of its listener. */
		if (from == TCP_LISTEN)
			inherit(conn, sk);
		if (conn->place % STATES == TCP_LISTEN) {
			conn->place = 0;
			conn->retransmits = 0;
		}
	}
	follow(conn, sk, tp, from, to);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(inet_sock_set_state, const struct sock *sk, int from, int to)
{
	MEASURED(changed(sk, from, to));
	return 0;
}

/* Makes up for the last change of state of a socket, if it is missing. */
static __always_inline int complete(const struct sock *sk)
{
	struct conn *conn = known(sk);
	struct tcp_sock *tp;

	if (!conn || !is_open(conn) || sk->__sk_common.skc_state != TCP_CLOSE)
		return 0;
	tp = bpf_skc_to_tcp_sock((void *)sk);
	if (tp)
		follow(conn, sk, tp, TCP_CLOSE, TCP_CLOSE);
	return 0;
}

SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(tcp_destroy_sock, struct sock *sk)
{
	complete(sk);
	forget(sk);
	return 0;
}

/* Still before a task takes the error away, which is why a connect failed. */
SEC("tp_btf/inet_sk_error_report")
int BPF_PROG(inet_sk_error_report, const struct sock *sk)
{
	return complete(sk);
}

/* Each connection is reset once, however many segments say so. */
static __always_inline int reset(const struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock((void *)sk);
	struct conn *conn = tp ? find(sk, tp) : NULL;
	struct lifecycle *past;

	if (!conn || (conn->flags & CONN_FILTERED) || !(conn->flags & CONN_RESETTABLE))
		return 0;
	conn->flags &= ~CONN_RESETTABLE;
	past = lifecycle_of(conn, &sk->__sk_common, conn->network);
	if (past)
		bump(&past->resets, 1);
	return 0;
}

SEC("tp_btf/tcp_send_reset")
int BPF_PROG(tcp_send_reset, const struct sock *sk)
{
	return sk ? reset(sk) : 0;
}

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(tcp_receive_reset, struct sock *sk)
{
	return reset(sk);
}

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(tcp_retransmit_skb, const struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock((void *)sk);
	struct conn *conn = tp ? find(sk, tp) : NULL;

	if (conn && !(conn->flags & CONN_FILTERED))
		add_retransmits(conn, &sk->__sk_common, tp);
	return 0;
}

/* The answer to a SYN, sent again by a listener; it counts as RetransSegs, but in no socket's total. */
SEC("tp_btf/tcp_retransmit_synack")
int BPF_PROG(tcp_retransmit_synack, const struct sock *sk, const struct request_sock *request)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock((void *)sk);
	struct conn *conn = tp ? find(sk, tp) : NULL;
	struct lifecycle *past;

	if (!conn || (conn->flags & CONN_FILTERED))
		return 0;
	if (sk->__sk_common.skc_state != TCP_LISTEN) {
		/* Fast open: the connection is there before its handshake is done. */
		add_retransmits(conn, &sk->__sk_common, tp);
		return 0;
	}
	past = lifecycle_of(conn, &request->__req_common, network_of(&request->__req_common));
	if (past)
		bump(&past->retransmits, 1);
	return 0;
}

#ifndef LEGACY
/* Meets every socket that some task has open: finds the owners of those older than us, and reads round trips. */
SEC("iter/task_file")
int walk(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct socket *socket;
	struct tcp_sock *tp;
	struct conn *conn;
	struct sock *sk;
	u32 zero = 0;
	u32 *round;
	u64 owner;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	sk = socket ? socket->sk : NULL;
	tp = sk ? bpf_skc_to_tcp_sock(sk) : NULL;
	if (!tp || sk->__sk_common.skc_state == TCP_CLOSE)
		return 0;
	conn = find(sk, tp);
	round = bpf_map_lookup_elem(&rounds, &zero);
	if (!conn || !round)
		return 0;
	if (!(conn->flags & CONN_OWNED)) {
		move(conn, 0);
		owner = owner_of_task(task);
		own(conn, owner, is_filtered_in(task, owner));
		if (!(conn->flags & CONN_FILTERED))
			arrive(conn, place_of(conn, sk->__sk_common.skc_state));
	}
	if (!(conn->flags & CONN_FILTERED))
		sample_rtt(conn, tp, *round);
	return 0;
}
#endif

char LICENSE[] SEC("license") = "GPL";
