// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * DNS over UDP and TCP as its clients see it: queries by type, answers by code,
 * how long they took. Hooks: cgroup_skb egress and ingress at the v2 root; other
 * ports leave at once. A query is kept under its socket and id until its answer
 * comes or user space finds that it took too long. Not seen: encrypted DNS.
 */
#include "lib/kernel.h"
#include "lib/filter.bpf.h"
#include "lib/task.bpf.h"
#include "lib/packet.bpf.h"
#include "lib/message.bpf.h"
#include "lib/stream.bpf.h"
#include "lib/pending.bpf.h"
#include "dns.h"

#define DOMAIN 53
#define STEPS 1024 /* a segment with more fields, labels and rests of messages than this is left unread */

/* Finds the stream of a segment on its way out; whoever connects owns it. */
static __always_inline struct stream *own_stream(struct __sk_buff *skb, struct segment *s)
{
	bool connects = (s->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	struct stream *stream;

	if (!connects && s->at >= s->end)
		return NULL;
	stream = socket_stream(skb, 0);
	if (stream && !connects)
		return stream;
	if (!stream)
		stream = socket_stream(skb, BPF_SK_STORAGE_GET_F_CREATE);
	if (!stream) {
		LOSE(unread);
		return NULL;
	}
	stream->cgroup = sender_cgroup(CURRENT());
	stream->filtered = is_filtered_sender(CURRENT(), stream->cgroup);
	stream->in.known = false;
	begin(&stream->out, s->sequence);
	return stream;
}

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
	struct message *m;
	enum found found;
	u32 code = 0;

	if (!stream)
		return 0;
	m = &way_of(stream, which)->message;
	if (m->at >= m->end)
		return 0;
	found = read_step(skb, m, &code);
	if (found == A_QUERY && which == WAY_OUT)
		ask(skb, stream->cgroup, m->id, code);
	if (found == A_RESPONSE && which != WAY_OUT)
		answer(skb, m->id, code);
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

SEC("cgroup_skb/egress")
int dns_egress(struct __sk_buff *skb)
{
	u8 header[HEADER_SIZE];
	struct stream *stream;
	struct transport l4;
	struct segment s;
	u64 cgroup;
	u32 type;

	if (!find_transport(skb, &l4) || !is_domain(skb, l4.destination))
		return 1;
	if (l4.protocol == IPPROTO_TCP) {
		if (!read_segment(skb, &l4, &s))
			return 1;
		stream = own_stream(skb, &s);
		if (stream && !stream->filtered && s.at < s.end)
			read_stream(skb, stream, &s, WAY_OUT);
		return 1;
	}
	l4.at += UDP_SIZE;
	if (bpf_skb_load_bytes(skb, l4.at, header, sizeof(header)) || tell(header, &type) != A_QUERY)
		return 1;
	cgroup = sender_cgroup(CURRENT());
	if (is_filtered_sender(CURRENT(), cgroup))
		return 1;
	if (word(header + 4))
		type = question_type(skb, l4.at + HEADER_SIZE);
	ask(skb, cgroup, word(header), type);
	return 1;
}

SEC("cgroup_skb/ingress")
int dns_ingress(struct __sk_buff *skb)
{
	u8 header[HEADER_SIZE];
	struct stream *stream;
	struct transport l4;
	struct segment s;
	u32 code;

	if (!find_transport(skb, &l4) || !is_domain(skb, l4.source))
		return 1;
	if (l4.protocol == IPPROTO_UDP) {
		if (!bpf_skb_load_bytes(skb, l4.at + UDP_SIZE, header, sizeof(header)) &&
		    tell(header, &code) == A_RESPONSE)
			answer(skb, word(header), code);
		return 1;
	}
	if (!read_segment(skb, &l4, &s) || s.at >= s.end)
		return 1;
	stream = socket_stream(skb, 0);
	if (!stream || stream->filtered)
		return 1;
	/* What comes late or twice is read on its own: an answer counts once in any case. */
	read_stream(skb, stream, &s, is_behind(&stream->in, &s) ? WAY_AGAIN : WAY_IN);
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
