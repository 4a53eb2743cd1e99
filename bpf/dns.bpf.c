// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * DNS over UDP and TCP as its clients see it, and its servers by choice: queries
 * by type, answers by code, how long they took; names by choice. Hooks: cgroup_skb
 * egress and ingress at the v2 root, where other ports leave at once; for servers'
 * owners post_bind and iter/task_file. A query is kept under its socket and id until
 * its answer comes or user space finds that it took too long. Not seen: encrypted DNS.
 */
#include "lib/kernel.h"
#include "dns.h"
#include "lib/cost.bpf.h"
#include "lib/filter.bpf.h"
#include "lib/gate.bpf.h"
#include "lib/packet.bpf.h"
#include "lib/message.bpf.h"
#include "lib/stream.bpf.h"
#include "lib/pending.bpf.h"
#include "lib/server.bpf.h"

NEXT(next_egress);
NEXT(next_ingress);
#define STEPS 1024 /* a segment with more fields, labels and rests of messages than this is left unread */

static __always_inline bool is_domain(struct __sk_buff *skb, u16 port)
{
	struct bpf_sock *sk = skb->sk;

	/* The socket still knows the port that a translation of addresses has replaced. */
	return port == DOMAIN || (sk && sk->dst_port == __builtin_bswap16(DOMAIN));
}

/*
 * Makes a step through a segment; 0: that was all. A global function, so that
 * the verifier checks it once, not for each step; it may be given no pointer.
 */
__noinline int stream_step(struct __sk_buff *skb, u32 which)
{
	struct stream *stream = socket_stream(skb, 0);
	struct question q = {};
	struct message *m;
	enum found found;
	u32 role;

	if (!stream)
		return 0;
	m = &way_of(stream, which)->message;
	if (m->at >= m->end)
		return 0;
	role = stream->role;
	found = read_step(skb, m, &q.code);
	if (found == NOTHING)
		return 1;
	q.id = m->id;
	q.at = m->question;
	q.end = m->left < m->end - m->at ? m->at + m->left : m->end;
	if (found == A_QUERY && (which == WAY_OUT) == (role == ROLE_CLIENT))
		ask(skb, stream->cgroup, role, &q, 0);
	if (found == A_RESPONSE && (which == WAY_OUT) == (role == ROLE_SERVER))
		answer(skb, role, &q, 0);
	return 1;
}

/* Goes through what is new in a segment. */
static __always_inline void read_stream(struct __sk_buff *skb, struct stream *stream, struct segment *s, u32 which)
{
	struct way *way = way_of(stream, which);
	int i;

	if (which == WAY_AGAIN)
		way->known = false;
	if (!follow(way, s))
		return;
	for (i = 0; i < STEPS; i++) {
		if (!stream_step(skb, which))
			return;
	}
	begin(way, way->next);
	LOSE(unread);
}

static __always_inline void read_segment_out(struct __sk_buff *skb, struct transport *l4, bool asks)
{
	struct stream *stream;
	struct segment s;

	if (!read_segment(skb, l4, &s))
		return;
	stream = asks ? own_stream(skb, &s) : socket_stream(skb, 0);
	if (stream && !stream->filtered && s.at < s.end)
		read_stream(skb, stream, &s, WAY_OUT);
}

static __always_inline void read_segment_in(struct __sk_buff *skb, struct transport *l4, bool answers)
{
	struct stream *stream;
	struct segment s;
	bool again;

	if (!read_segment(skb, l4, &s) || s.at >= s.end)
		return;
	stream = answers ? socket_stream(skb, 0) : served_stream(skb);
	if (!stream || stream->filtered)
		return;
	/* What comes late or twice is read on its own: an answer counts once in any case, a query might not. */
	again = stream->role == ROLE_CLIENT && is_behind(&stream->in, &s);
	read_stream(skb, stream, &s, again ? WAY_AGAIN : WAY_IN);
}

static __always_inline void read_out(struct __sk_buff *skb)
{
	struct question q = {};
	struct transport l4;
	enum found found;
	bool asks;
	u64 owner;

	if (!find_transport(skb, &l4))
		return;
	asks = is_domain(skb, l4.destination);
	if (!asks && !(servers && l4.source == DOMAIN))
		return;
	if (l4.protocol == IPPROTO_TCP) {
		read_segment_out(skb, &l4, asks);
		return;
	}
	found = read_datagram(skb, l4.at + UDP_SIZE, &q);
	if (found == A_QUERY && asks) {
		owner = sender_owner(CURRENT());
		if (!is_filtered_sender(CURRENT(), owner))
			ask(skb, owner, ROLE_CLIENT, &q, 0);
	} else if (found == A_RESPONSE && servers && l4.source == DOMAIN) {
		own_answer(skb);
		answer(skb, ROLE_SERVER, &q, l4.destination);
	}
}

static __always_inline void read_in(struct __sk_buff *skb)
{
	struct question q = {};
	struct server server;
	struct transport l4;
	enum found found;
	bool answers;

	if (!find_transport(skb, &l4))
		return;
	answers = is_domain(skb, l4.source);
	if (!answers && !(servers && l4.destination == DOMAIN))
		return;
	if (l4.protocol == IPPROTO_TCP) {
		read_segment_in(skb, &l4, answers);
		return;
	}
	found = read_datagram(skb, l4.at + UDP_SIZE, &q);
	if (found == A_RESPONSE && answers) {
		answer(skb, ROLE_CLIENT, &q, 0);
	} else if (found == A_QUERY && servers && l4.destination == DOMAIN) {
		server = server_of(skb);
		if (!server.filtered)
			ask(skb, server.cgroup, ROLE_SERVER, &q, l4.source);
	}
}

SEC("cgroup_skb/egress")
int dns_egress(struct __sk_buff *ctx)
{
	MEASURED(read_out(ctx));
	HAND_OVER(next_egress);
	return 1;
}

SEC("cgroup_skb/ingress")
int dns_ingress(struct __sk_buff *ctx)
{
	MEASURED(read_in(ctx));
	HAND_OVER(next_ingress);
	return 1;
}

SEC("cgroup/post_bind4")
int dns_bind4(struct bpf_sock *sk)
{
	return own_bound(sk);
}

SEC("cgroup/post_bind6")
int dns_bind6(struct bpf_sock *sk)
{
	return own_bound(sk);
}

#ifndef LEGACY
SEC("iter/task_file")
int dns_seed(struct bpf_iter__task_file *ctx)
{
	return own_older(ctx);
}
#endif

char LICENSE[] SEC("license") = "GPL";
