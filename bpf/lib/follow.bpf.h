/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Counts the connections of an owner, by what becomes of their sockets. */
#pragma once
#include "kernel.h"
#include "conn.bpf.h"
#include "histogram.bpf.h"
#include "maps.bpf.h"

/* A full map takes 112 B an entry and 248 B for each CPU. */
MAP(PERCPU_HASH, owners, struct owner, struct connections, 4096, ON_DEMAND);
SHARED_HISTOGRAM(connecting, struct owner, 2048);
SHARED_HISTOGRAM(round_trips, struct owner, 2048);
/* One cell of 256 B for each CPU. */
MAP(PERCPU_ARRAY, losses, u32, struct tcp_loss, 1, 0);

static __always_inline struct tcp_loss *loss(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&losses, &zero);
}

static __always_inline struct connections *connections_of(const struct conn *conn, u32 network)
{
	static const struct connections empty;
	struct owner owner = { conn->cgroup, network, 0 };
	struct connections *all = bpf_map_lookup_elem(&owners, &owner);
	struct tcp_loss *lost;

	if (all)
		return all;
	bpf_map_update_elem(&owners, &owner, &empty, BPF_NOEXIST);
	all = bpf_map_lookup_elem(&owners, &owner);
	if (all)
		return all;
	lost = loss();
	return lost ? &lost->connections : NULL;
}

/* A task that counts may be interrupted by a packet that counts: each addition is one instruction. */
static __always_inline void bump(u64 *cell, u64 value)
{
	__sync_fetch_and_add(cell, value);
}

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
static __always_inline void add_retransmits(struct conn *conn, const struct tcp_sock *tp, struct connections *all)
{
	u32 total = tp->total_retrans, grown = total - conn->retransmits;

	conn->retransmits = total;
	/* It falls when a socket is used anew. */
	if ((s32)grown > 0)
		bump(&all->retransmits, grown);
}

static __always_inline void establish(struct conn *conn, const struct tcp_sock *tp, struct connections *all)
{
	struct owner owner = { conn->cgroup, conn->network, 0 };

	if (conn->flags & CONN_INBOUND) {
		bump(&all->accepts, 1);
		/* It begins with those of its handshake, which are the listener's. */
		conn->retransmits = tp->total_retrans;
	} else {
		bump(&all->connects, 1);
		if (conn->start)
			shared_histogram_add(connecting, &owner, bpf_ktime_get_ns() - conn->start);
	}
	conn->start = 0;
	conn->flags &= ~CONN_CONNECTING;
	conn->flags |= CONN_ESTABLISHED | CONN_RESETTABLE;
}

static __always_inline void end(struct conn *conn, const struct sock *sk, const struct tcp_sock *tp,
				struct connections *all)
{
	struct owner owner = { conn->cgroup, NETWORK_ANY, 0 };
	u32 rtt = tp->srtt_us >> 3;

	add_retransmits(conn, tp, all);
	if (conn->flags & CONN_ESTABLISHED) {
		bump(&all->closes, 1);
		if (rtt)
			shared_histogram_add(round_trips, &owner, rtt);
	} else if (conn->flags & CONN_CONNECTING) {
		all = connections_of(conn, NETWORK_ANY);
		if (all)
			bump(&all->failed[cause_of(sk, tp)], 1);
	}
	conn->flags &= ~(CONN_ESTABLISHED | CONN_CONNECTING);
}

/*
 * Follows a change of state. The kernel skips a program that would run within
 * itself, so a change may be missing: the next one of the socket makes up for it.
 */
static __always_inline void follow(struct conn *conn, const struct sock *sk, const struct tcp_sock *tp, u32 from,
				   u32 to)
{
	struct connections *all;

	if (conn->flags & CONN_FILTERED)
		return;
	if (to != TCP_CLOSE)
		conn->network = network_of(&sk->__sk_common);
	all = connections_of(conn, conn->network);
	if (!all)
		return;
	if (is_synchronized(to == TCP_CLOSE ? from : to) && !(conn->flags & CONN_ESTABLISHED))
		establish(conn, tp, all);
	if (to == TCP_CLOSE)
		end(conn, sk, tp, all);
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
