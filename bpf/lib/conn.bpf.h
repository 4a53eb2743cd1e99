/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What is known of a TCP socket: whose it is, since when it connects, and under
 * what it is counted. It lives and dies with the socket, and a listener's is
 * copied to the connections that it accepts, in whatever context that happens.
 */
#pragma once
#include "kernel.h"
#include "filter.bpf.h"
#include "maps.bpf.h"
#include "../tcp.h"

#define CONN_OWNED 1      /* the cgroup is known */
#define CONN_FILTERED 2   /* nothing of it is counted */
#define CONN_INBOUND 4    /* listens, or was accepted */
#define CONN_CONNECTING 8 /* a connect is under way */
#define CONN_ESTABLISHED 16
#define CONN_RESETTABLE 32 /* was established, and its reset is not counted yet */

struct conn {
	u64 cgroup; /* 0: nobody's */
	u64 start;  /* of its connect; 0: not seen */
	u32 flags;
	u32 network;
	u32 place;       /* state, direction and network that it is counted under; 0: none */
	u32 retransmits; /* of its total those that are counted */
	u32 round;       /* the last walk that met it */
	u32 padding;
};

#ifdef LEGACY
/*
 * Kernels before 5.12 have no storage of sockets for tracing programs: 9 MiB hold
 * 65,536 sockets by their address until they are destroyed, and 0.4 MiB say by
 * namespace and port whose listener a new connection is of.
 */
MAP(HASH, conns, u64, struct conn, 65536, 0);
MAP(HASH, listeners, u64[2], struct conn, 4096, 0);

static __always_inline struct conn *known(const struct sock *sk)
{
	u64 key = (u64)sk;

	return bpf_map_lookup_elem(&conns, &key);
}

static __always_inline struct conn *make(const struct sock *sk)
{
	static const struct conn empty;
	u64 key = (u64)sk;

	bpf_map_update_elem(&conns, &key, &empty, BPF_NOEXIST);
	return bpf_map_lookup_elem(&conns, &key);
}

static __always_inline void forget(const struct sock *sk)
{
	u64 key = (u64)sk;

	bpf_map_delete_elem(&conns, &key);
}

/* Keeps what is known of a listener for those whom it accepts. */
static __always_inline void bequeath(const struct conn *conn, const struct sock *sk)
{
	u64 key[2] = { (u64)sk->__sk_common.skc_net.net, sk->__sk_common.skc_num };

	bpf_map_update_elem(&listeners, key, conn, BPF_ANY);
}

static __always_inline void inherit(struct conn *conn, const struct sock *sk)
{
	u64 key[2] = { (u64)sk->__sk_common.skc_net.net, sk->__sk_common.skc_num };
	struct conn *listener = bpf_map_lookup_elem(&listeners, key);

	if (!listener)
		return;
	conn->cgroup = listener->cgroup;
	conn->flags = listener->flags;
}

static __always_inline u32 replace(u32 *place, u32 value)
{
	u32 was = *place;

	*place = value;
	return was;
}
#else
/* 112 B for each TCP socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct conn);
} conns SEC(".maps");

static __always_inline struct conn *known(const struct sock *sk)
{
	return bpf_sk_storage_get(&conns, (void *)sk, NULL, 0);
}

static __always_inline struct conn *make(const struct sock *sk)
{
	return bpf_sk_storage_get(&conns, (void *)sk, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
}

/* The kernel does all of this. */
static __always_inline void forget(const struct sock *sk)
{
}

static __always_inline void bequeath(const struct conn *conn, const struct sock *sk)
{
}

static __always_inline void inherit(struct conn *conn, const struct sock *sk)
{
}

static __always_inline u32 replace(u32 *place, u32 value)
{
	return __sync_lock_test_and_set(place, value);
}
#endif

/* The states between the handshake and the end. */
static __always_inline bool is_synchronized(u32 state)
{
	return state != TCP_SYN_SENT && state != TCP_SYN_RECV && state != TCP_LISTEN && state != TCP_CLOSE;
}

static __always_inline u32 network_of(const struct sock_common *common)
{
	if (common->skc_family != AF_INET6 || !bpf_core_field_exists(common->skc_v6_daddr))
		return NETWORK_IPV4;
	if (common->skc_v6_daddr.in6_u.u6_addr32[0] || common->skc_v6_daddr.in6_u.u6_addr32[1] ||
	    common->skc_v6_daddr.in6_u.u6_addr32[2] != bpf_htonl(0xffff))
		return NETWORK_IPV6;
	return NETWORK_IPV4;
}

/* Says what can be seen of a socket that is older than its first event here. */
static __always_inline void describe(struct conn *conn, const struct sock *sk, const struct tcp_sock *tp)
{
	u32 state = sk->__sk_common.skc_state;

	conn->network = network_of(&sk->__sk_common);
	conn->retransmits = tp->total_retrans;
	/* Only listen() sets it, and an accepted socket is a copy of its listener. */
	if (sk->sk_max_ack_backlog || state == TCP_LISTEN)
		conn->flags |= CONN_INBOUND;
	if (state == TCP_SYN_SENT)
		conn->flags |= CONN_CONNECTING;
	if (is_synchronized(state))
		conn->flags |= CONN_ESTABLISHED | CONN_RESETTABLE;
}

static __always_inline void own(struct conn *conn, u64 cgroup, bool filtered)
{
	conn->cgroup = cgroup;
	conn->flags |= CONN_OWNED | (filtered ? CONN_FILTERED : 0);
}

static __always_inline u32 place_of(const struct conn *conn, u32 state)
{
	u32 direction = conn->flags & CONN_INBOUND ? INBOUND : OUTBOUND;

	return conn->network * 2 * STATES + direction * STATES + (state & (STATES - 1));
}

static __always_inline u32 cause_of(const struct sock *sk, const struct tcp_sock *tp)
{
	switch (sk->sk_err) {
	case 0:
		return tp->segs_out ? CAUSE_ABORTED : CAUSE_UNSENT;
	case ECONNABORTED:
		return CAUSE_ABORTED;
	case ECONNREFUSED:
		return CAUSE_REFUSED;
	case ETIMEDOUT:
		return CAUSE_TIMEOUT;
	case ENETDOWN:
	case ENETUNREACH:
	case EHOSTDOWN:
	case EHOSTUNREACH:
		return CAUSE_UNREACHABLE;
	default:
		return CAUSE_OTHER;
	}
}
