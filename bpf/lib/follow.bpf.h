/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Counts the connections of an owner, by what becomes of their sockets. */
#pragma once
#include "kernel.h"
#include "conn.bpf.h"
#include "histogram.bpf.h"
#include "maps.bpf.h"
#include "peer.bpf.h"

SHARED_HISTOGRAM(connecting, struct owner, 2048);
SHARED_HISTOGRAM(round_trips, struct owner, 2048);

/* Counts the socket under a state, and no longer under the one before. */
static __always_inline void move(struct conn *conn, u32 place)
{
	u32 was = replace(&conn->place, place);
	struct connections *all;

	all = was ? connections_of(conn, was / (2 * STATES)) : NULL;
	if (all)
		__sync_fetch_and_add(&all->open[was % (2 * STATES)], -1);
	all = place ? connections_of(conn, place / (2 * STATES)) : NULL;
	if (all)
		__sync_fetch_and_add(&all->open[place % (2 * STATES)], 1);
}

#ifndef LEGACY
/* Counts a socket that is counted nowhere; an event that comes first knows better. */
static __always_inline void arrive(struct conn *conn, u32 place)
{
	struct connections *all = connections_of(conn, conn->network);

	if (all && !__sync_val_compare_and_swap(&conn->place, 0, place))
		__sync_fetch_and_add(&all->open[place % (2 * STATES)], 1);
}
#endif

/* Counts what the kernel has counted since: it is what RetransSegs has grown by. */
static __always_inline void add_retransmits(struct conn *conn, const struct sock_common *common,
					    const struct tcp_sock *tp)
{
	u32 total = tp->total_retrans, grown = total - conn->retransmits;
	struct lifecycle *past;

	conn->retransmits = total;
	/* It falls when a socket is used anew. */
	if ((s32)grown <= 0)
		return;
	past = lifecycle_of(conn, common, conn->network);
	if (past)
		bump(&past->retransmits, grown);
}

static __always_inline void establish(struct conn *conn, const struct sock *sk, const struct tcp_sock *tp)
{
	struct lifecycle *past = lifecycle_of(conn, &sk->__sk_common, conn->network);
	struct owner owner = { conn->cgroup, conn->network, 0 };

	if (conn->flags & CONN_INBOUND) {
		if (past)
			bump(&past->accepts, 1);
		/* It begins with those of its handshake, which are the listener's. */
		conn->retransmits = tp->total_retrans;
	} else {
		if (past)
			bump(&past->connects, 1);
		if (conn->start)
			shared_histogram_add(connecting, &owner, bpf_ktime_get_ns() - conn->start);
	}
	conn->start = 0;
	conn->flags &= ~CONN_CONNECTING;
	conn->flags |= CONN_ESTABLISHED | CONN_RESETTABLE;
}

/* Whoever comes late may find the error taken away, and all else that tells the cause. */
static __always_inline void end(struct conn *conn, const struct sock *sk, const struct tcp_sock *tp, bool late)
{
	struct owner owner = { conn->cgroup, NETWORK_ANY, 0 };
	u32 rtt = tp->srtt_us >> 3;
	struct lifecycle *past;

	add_retransmits(conn, &sk->__sk_common, tp);
	if (conn->flags & CONN_ESTABLISHED) {
		past = lifecycle_of(conn, &sk->__sk_common, conn->network);
		if (past)
			bump(&past->closes, 1);
		if (rtt)
			shared_histogram_add(round_trips, &owner, rtt);
	} else if (conn->flags & CONN_CONNECTING) {
		past = lifecycle_of(conn, &sk->__sk_common, NETWORK_ANY);
		if (past)
			bump(&past->failed[late && !sk->sk_err ? CAUSE_OTHER : cause_of(sk, tp)], 1);
	}
	conn->flags &= ~(CONN_ESTABLISHED | CONN_CONNECTING);
}

/*
 * Follows a change of state. The kernel skips a program that would run within
 * itself, and one that interrupts a task that it hides from tracing, so a change
 * may be missing: the next one of the socket makes up for it.
 */
static __always_inline void follow(struct conn *conn, const struct sock *sk, const struct tcp_sock *tp, u32 from,
				   u32 to)
{
	if (conn->flags & CONN_FILTERED)
		return;
	if (to != TCP_CLOSE)
		conn->network = network_of(&sk->__sk_common);
	if (is_synchronized(to == TCP_CLOSE ? from : to) && !(conn->flags & CONN_ESTABLISHED))
		establish(conn, sk, tp);
	if (to == TCP_CLOSE)
		end(conn, sk, tp, from == TCP_CLOSE);
	move(conn, to == TCP_CLOSE ? 0 : place_of(conn, to));
}

/* Whether something of the socket is counted that its end takes back or completes. */
static __always_inline bool is_open(const struct conn *conn)
{
	return conn->place || (conn->flags & (CONN_ESTABLISHED | CONN_CONNECTING));
}

/* Gives what is known of a socket whose beginning was not seen: it is nobody's until the walk finds its task. */
static __always_inline struct conn *find(const struct sock *sk, const struct tcp_sock *tp)
{
	struct conn *conn = known(sk);
	struct tcp_loss *lost;

	if (conn)
		return conn;
	conn = make(sk);
	if (conn) {
		describe(conn, sk, tp);
		return conn;
	}
	lost = loss();
	if (lost)
		bump(&lost->unfollowed, 1);
	return NULL;
}

static __always_inline void sample_rtt(struct conn *conn, const struct tcp_sock *tp, u32 round)
{
	u32 rtt = tp->srtt_us >> 3;
	struct connections *all;
	struct visit *visit;

	if (!rtt || !(conn->flags & CONN_ESTABLISHED) || conn->round == round)
		return;
	conn->round = round;
	all = connections_of(conn, conn->network);
	if (!all)
		return;
	visit = &all->visits[round & 1];
	if (visit->round != round) {
		visit->round = round;
		visit->rtt = 0;
		visit->count = 0;
	}
	visit->rtt += rtt;
	visit->count += 1;
}
