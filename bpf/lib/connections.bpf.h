/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The table of connections: an array of slots that user space maps and reads in
 * place. A socket remembers its slot, so that most packets cost no look-up in a
 * hash; packets of sockets that have many peers find theirs through `tuples`.
 * User space takes idle slots back: first it makes their generation even, so that
 * nobody adds to them any more, and later, when nobody can still be adding, it
 * reads them for the last time and puts them into `slots` again.
 */
#pragma once
#include "kernel.h"
#include "maps.bpf.h"
#include "owner.bpf.h"
#include "packet.bpf.h"
#include "../connection.h"

/* 128 B a slot. */
MAP(ARRAY, connections, u32, struct connection, 8192, BPF_F_MMAPABLE);
/* Those that are free: 8 B each. */
struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 8192);
	__uint(value_size, sizeof(u32));
} slots SEC(".maps");
/* 128 B an entry: the places of connections whose socket has others, too. */
MAP(HASH, tuples, struct tuple, u64, 4096, ON_DEMAND);
RING(overflow, 128 * 1024);
/* Read by nobody: it lets the object's types describe what the ring carries. */
const volatile struct stray stray_layout = {};
MAP(PERCPU_ARRAY, lost, u32, struct connection_loss, 1, 0);

/* A place is a slot and its generation. */
static __always_inline struct connection *at(u64 place)
{
	struct connection *found;
	u32 slot = place;

	if (!place)
		return NULL;
	found = bpf_map_lookup_elem(&connections, &slot);
	return found && found->generation == place >> 32 ? found : NULL;
}

const volatile u64 tick = 4000000; /* nanoseconds */

/* What the monotonic clock had when the count of ticks was 0. */
static u64 clock_base;

/* A tick's exactness is enough for what happens with each packet: unlike the clock, ticks take no call to read. */
static __always_inline u64 last_tick(void)
{
	return clock_base + bpf_jiffies64() * tick;
}

/* Both stand still and go on together, so that once is enough. */
static __always_inline u64 read_clock(void)
{
	u64 now = bpf_ktime_get_ns();

	if (!clock_base)
		clock_base = now - bpf_jiffies64() * tick;
	return now;
}

static __always_inline void map_ipv4(u8 to[16], u32 address)
{
	u32 *words = (u32 *)to;

	words[0] = 0;
	words[1] = 0;
	words[2] = bpf_htonl(0xffff);
	words[3] = address;
}

/* As the socket has it: what a translation of addresses does on the way concerns nobody here. */
static __always_inline void tuple_of_socket(struct bpf_sock *sk, struct tuple *tuple)
{
	u32 *local = (u32 *)tuple->local, *remote = (u32 *)tuple->remote;

	tuple->local_port = sk->src_port;
	tuple->remote_port = bpf_ntohs((u16)sk->dst_port);
	if (sk->family == AF_INET) {
		map_ipv4(tuple->local, sk->src_ip4);
		map_ipv4(tuple->remote, sk->dst_ip4);
		return;
	}
	local[0] = sk->src_ip6[0];
	local[1] = sk->src_ip6[1];
	local[2] = sk->src_ip6[2];
	local[3] = sk->src_ip6[3];
	remote[0] = sk->dst_ip6[0];
	remote[1] = sk->dst_ip6[1];
	remote[2] = sk->dst_ip6[2];
	remote[3] = sk->dst_ip6[3];
}

static __always_inline void copy_address(u8 to[16], const u8 *from)
{
	__builtin_memcpy(to, from, 16);
}

/* As the packet has it. */
static __always_inline void tuple_of_packet(struct __sk_buff *skb, u8 direction, struct tuple *tuple)
{
	u8 *source = direction == DIRECTION_TRANSMIT ? tuple->local : tuple->remote;
	u8 *destination = direction == DIRECTION_TRANSMIT ? tuple->remote : tuple->local;
	u8 *ip = (u8 *)(long)skb->data, *end = (u8 *)(long)skb->data_end;
	bool ported = tuple->transport == IPPROTO_TCP || tuple->transport == IPPROTO_UDP;
	struct transport l4 = {};

	if (ip + 20 > end)
		return;
	if (ip[0] >> 4 == 4) {
		map_ipv4(source, *(u32 *)(ip + 12));
		map_ipv4(destination, *(u32 *)(ip + 16));
	} else if (ip + 40 <= end) {
		copy_address(source, ip + 8);
		copy_address(destination, ip + 24);
	}
	if (!ported || !find_transport(skb, &l4))
		return;
	tuple->local_port = direction == DIRECTION_TRANSMIT ? l4.source : l4.destination;
	tuple->remote_port = direction == DIRECTION_TRANSMIT ? l4.destination : l4.source;
}

static __always_inline bool is_same(const struct tuple *a, const struct tuple *b)
{
	const u64 *x = (const u64 *)a, *y = (const u64 *)b;

	return x[4] == y[4] && x[5] == y[5] && x[3] == y[3] && x[2] == y[2] && x[1] == y[1] && x[0] == y[0];
}

/* Says whether a connection is its socket's present one. One that resets it has given its port back before. */
static __always_inline bool is_present(const struct connection *connection, struct bpf_sock *sk,
				       const struct flow *flow)
{
	const struct tuple *tuple = &connection->tuple;
	const u32 *local = (const u32 *)tuple->local, *remote = (const u32 *)tuple->remote;
	u32 near, far;

	if (tuple->cgroup != flow->cgroup || tuple->transport != flow->transport ||
	    (tuple->local_port != sk->src_port && sk->src_port) || tuple->remote_port != bpf_ntohs((u16)sk->dst_port))
		return false;
	if (sk->family == AF_INET) {
		near = sk->src_ip4;
		far = sk->dst_ip4;
		/* The verifier wants each field of a socket read at its own place. */
		barrier();
		return remote[3] == far && local[3] == near;
	}
	return remote[3] == sk->dst_ip6[3] && local[3] == sk->src_ip6[3] && remote[2] == sk->dst_ip6[2] &&
	       local[2] == sk->src_ip6[2] && remote[1] == sk->dst_ip6[1] && local[1] == sk->src_ip6[1] &&
	       remote[0] == sk->dst_ip6[0] && local[0] == sk->src_ip6[0];
}

static __always_inline void count_lost(u8 direction, u64 bytes, u64 packets, bool kept)
{
	struct connection_loss *cell;
	struct traffic *traffic;
	u32 zero = 0;

	cell = bpf_map_lookup_elem(&lost, &zero);
	if (!cell)
		return;
	__sync_fetch_and_add(&cell->strays, packets);
	if (kept)
		return;
	traffic = direction == DIRECTION_TRANSMIT ? &cell->sent : &cell->received;
	__sync_fetch_and_add(&traffic->bytes, bytes);
	__sync_fetch_and_add(&traffic->packets, packets);
}

static __always_inline void set_generation(struct connection *connection, u32 generation)
{
#if defined(LEGACY) || defined(__TARGET_ARCH_x86)
	barrier();
	connection->generation = generation;
#else
	__sync_lock_test_and_set(&connection->generation, generation);
#endif
}

/* Takes a free slot; its counts are 0. */
static __always_inline struct connection *take_slot(const struct tuple *tuple, u8 role, u8 flags, u64 *place)
{
	struct connection *connection;
	u32 slot, generation;

	if (bpf_map_pop_elem(&slots, &slot))
		return NULL;
	connection = bpf_map_lookup_elem(&connections, &slot);
	if (!connection)
		return NULL;
	connection->tuple = *tuple;
	connection->role = role;
	connection->flags = flags;
	connection->backend_port = 0;
	__builtin_memset(connection->backend, 0, sizeof(connection->backend));
	connection->closed = 0;
	connection->first = connection->last = read_clock();
	generation = ((connection->generation + 1) & 0x7fffffff) | 1;
	set_generation(connection, generation);
	*place = (u64)generation << 32 | slot;
	return connection;
}

/* Notes where a packet really goes: local translation of addresses (a service's) lies behind us. */
static __always_inline void note_backend(struct __sk_buff *skb, struct connection *connection,
					 const struct tuple *tuple)
{
	struct tuple sent = { .transport = tuple->transport };
	const u64 *known = (const u64 *)tuple->remote, *found = (const u64 *)sent.remote;

	tuple_of_packet(skb, DIRECTION_TRANSMIT, &sent);
	if (known[0] == found[0] && known[1] == found[1] && sent.remote_port == tuple->remote_port)
		return;
	__builtin_memcpy(connection->backend, sent.remote, sizeof(connection->backend));
	connection->backend_port = sent.remote_port;
}

/* Gives back a slot that nobody has counted in. */
static __always_inline void give_back(struct connection *connection, u32 slot)
{
	set_generation(connection, connection->generation + 1);
	bpf_map_push_elem(&slots, &slot, 0);
}

/* Makes a connection known to all sockets. Else another CPU was faster, or there is no room. */
static __always_inline struct connection *enter(const struct tuple *tuple, struct connection *connection, u64 *place,
						bool stale)
{
	u64 *known;

	if (!bpf_map_update_elem(&tuples, tuple, place, stale ? BPF_ANY : BPF_NOEXIST))
		return connection;
	give_back(connection, *place);
	known = bpf_map_lookup_elem(&tuples, tuple);
	*place = known ? *known : 0;
	return at(*place);
}

static __always_inline u8 role_of(const struct owner *owner, const struct tuple *tuple, u32 state, u8 direction)
{
	if (tuple->transport == IPPROTO_UDP)
		return direction == DIRECTION_TRANSMIT ? ROLE_CLIENT : ROLE_SERVER;
	if (tuple->transport != IPPROTO_TCP || !owner)
		return ROLE_UNKNOWN;
	if (state == TCP_LISTEN)
		return ROLE_SERVER;
	return state == TCP_SYN_SENT ? ROLE_CLIENT : owner->role;
}

/* What comes after is another connection's. */
static __always_inline void end_connection(u64 place)
{
	struct connection *connection = at(place);

	if (connection)
		connection->closed = bpf_ktime_get_ns();
}

/* Ends a socket's connection. */
static __always_inline void close_connection(struct owner *owner)
{
	end_connection(owner->place);
	owner->place = 0;
}

/* Lets a socket remember a place, unless another CPU was faster; gives what it remembers then, else what it did. */
static __always_inline u64 remember(struct owner *owner, u64 before, u64 place)
{
#ifdef LEGACY
	owner->place = place;
	return before;
#else
	return __sync_val_compare_and_swap(&owner->place, before, place);
#endif
}

/* Finds or makes the slot of a packet of a connected TCP socket: none but its own has the packets of its connection. */
static __always_inline struct connection *find_stream(struct __sk_buff *skb, struct owner *owner,
						      const struct tuple *tuple, u32 state, u8 direction)
{
	u64 *known = bpf_map_lookup_elem(&tuples, tuple), place = known ? *known : 0, before = owner->place, now;
	struct connection *connection = at(place), *fresh = NULL;
	u8 role = role_of(owner, tuple, state, direction);

	if (connection) {
		/* It comes from its listener. */
		bpf_map_delete_elem(&tuples, tuple);
	} else {
		connection = fresh = take_slot(tuple, role, 0, &place);
		if (!connection)
			return NULL;
		if (direction == DIRECTION_TRANSMIT)
			note_backend(skb, connection, tuple);
	}
	now = remember(owner, before, place);
	if (now != before) {
		/* What its listener had stays half open, and ends as such. */
		if (fresh)
			give_back(fresh, place);
		return at(now);
	}
	connection->flags = 0;
	owner->role = role;
	/* A socket that connects once more has ended what it had. */
	if (before != place)
		end_connection(before);
	return connection;
}

/* Finds or makes the slot of a packet that others than its socket have a part in. */
static __always_inline struct connection *find_shared(struct __sk_buff *skb, struct owner *owner,
						      const struct tuple *tuple, bool connected, u32 state,
						      u8 direction)
{
	bool listens = tuple->transport == IPPROTO_TCP && state == TCP_LISTEN;
	u64 *known = bpf_map_lookup_elem(&tuples, tuple), place = known ? *known : 0;
	struct connection *connection = at(place);
	u8 role = role_of(owner, tuple, state, direction);

	if (!connection) {
		connection = take_slot(tuple, role, listens ? CONNECTION_HALF_OPEN : 0, &place);
		if (!connection)
			return NULL;
		if (connected && direction == DIRECTION_TRANSMIT)
			note_backend(skb, connection, tuple);
		connection = enter(tuple, connection, &place, known);
	}
	if (!owner)
		return connection;
	if (tuple->transport == IPPROTO_TCP)
		owner->role = role;
	if (listens)
		return connection;
	if (tuple->transport == IPPROTO_TCP && owner->place != place)
		close_connection(owner);
	owner->place = place;
	return connection;
}

static __always_inline void lose(const struct tuple *tuple, const struct owner *owner, u32 state, u8 direction,
				 u64 bytes, u64 packets)
{
	struct stray stray = { .tuple = *tuple, .traffic = { bytes, packets }, .direction = direction };

	stray.time = last_tick();
	stray.role = role_of(owner, tuple, state, direction);
	count_lost(direction, bytes, packets, bpf_ringbuf_output(&overflow, &stray, sizeof(stray), 0) == 0);
}

/* The same, and where there is no room counts the packet there. */
static __always_inline struct connection *search(struct __sk_buff *skb, struct owner *owner, const struct flow *flow,
						 bool connected, u64 bytes, u64 packets)
{
	struct tuple tuple = { .cgroup = flow->cgroup, .transport = flow->transport };
	struct connection *connection = NULL;
	struct bpf_sock *sk = skb->sk;
	u32 state = 0;

	/* What the kernel sends and receives itself is told apart by protocol only. */
	if (sk && owner) {
		state = sk->state;
		if (connected)
			tuple_of_socket(sk, &tuple);
		else
			tuple_of_packet(skb, flow->direction, &tuple);
		connection = connected ? NULL : at(owner->place);
	}
	if (connection && is_same(&connection->tuple, &tuple))
		return connection;
	if (connected && flow->transport == IPPROTO_TCP)
		connection = find_stream(skb, owner, &tuple, state, flow->direction);
	else
		connection = find_shared(skb, owner, &tuple, connected, state, flow->direction);
	if (!connection)
		lose(&tuple, owner, state, flow->direction, bytes, packets);
	return connection;
}

/* Counts a packet under its connection. */
static __always_inline void track(struct __sk_buff *skb, struct owner *owner, const struct flow *flow, u64 bytes,
				  u64 packets)
{
	struct connection *connection = NULL;
	struct bpf_sock *sk = skb->sk;
	struct traffic *traffic;
	bool connected;

	/* What the kernel sends itself is not told apart by namespaces. */
	if (namespaces != NAMESPACES_ALL && (!owner || owner->outside))
		return;
	connected = sk && owner && sk->dst_port && (flow->transport == IPPROTO_TCP || flow->transport == IPPROTO_UDP);
	if (connected)
		connection = at(owner->place);
	if (!connection || !is_present(connection, sk, flow))
		connection = search(skb, owner, flow, connected, bytes, packets);
	if (!connection)
		return;
	traffic = flow->direction == DIRECTION_TRANSMIT ? &connection->sent : &connection->received;
	__sync_fetch_and_add(&traffic->bytes, bytes);
	__sync_fetch_and_add(&traffic->packets, packets);
	connection->last = last_tick();
}

/* Who began the connection of a socket that is older than us: only listen() sets a backlog, and an accepted socket is a copy of its listener. */
static __always_inline u32 role_of_older(struct sock *sk)
{
	if (sk->sk_protocol != IPPROTO_TCP || sk->__sk_common.skc_state == TCP_CLOSE)
		return ROLE_UNKNOWN;
	return sk->sk_max_ack_backlog ? ROLE_SERVER : ROLE_CLIENT;
}
