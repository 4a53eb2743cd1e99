/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * DNS over TCP: how far each way of a connection has been read. Segments that
 * are sent again are read once; what begins after a gap is taken for the
 * beginning of a message.
 */
#pragma once
#include "kernel.h"
#include "filter.bpf.h"
#include "message.bpf.h"
#include "task.bpf.h"

#define TCP_SYN 0x02
#define TCP_ACK 0x10

struct way {
	u32 next; /* sequence number of the byte after the last one read */
	u32 known;
	struct message message;
};

#define WAY_OUT 0
#define WAY_IN 1
#define WAY_AGAIN 2

struct stream {
	u64 cgroup; /* of the task that connected, or of the server */
	u8 comm[16];
	u32 pid;
	u16 filtered;
	u16 role;
	struct way out;
	struct way in;
	struct way again; /* in, what comes late or twice */
};

/* 184 B for each socket that has connected to port 53, or was accepted there, freed with it. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct stream);
} streams SEC(".maps");

static __always_inline struct way *way_of(struct stream *stream, u32 which)
{
	if (which == WAY_OUT)
		return &stream->out;
	return which == WAY_IN ? &stream->in : &stream->again;
}

static __always_inline struct stream *socket_stream(struct __sk_buff *skb, u64 flags)
{
	struct bpf_sock *sk = skb->sk;

	sk = sk ? bpf_sk_fullsock(sk) : NULL;
	return sk ? bpf_sk_storage_get(&streams, sk, NULL, flags) : NULL;
}

struct segment {
	u32 sequence; /* of its first byte of payload */
	u32 at;       /* where the payload begins in the packet */
	u32 end;
	u8 flags;
};

/* Reads a segment's header and finds its payload. */
static __always_inline bool read_segment(struct __sk_buff *skb, struct transport *l4, struct segment *s)
{
	u8 head[14];

	if (bpf_skb_load_bytes(skb, l4->at, head, sizeof(head)))
		return false;
	s->flags = head[13];
	s->sequence = (u32)word(head + 4) << 16 | word(head + 6);
	if (s->flags & TCP_SYN)
		s->sequence += 1;
	s->at = l4->at + (head[12] >> 4) * 4;
	s->end = skb->len;
	return true;
}

static __always_inline void begin(struct way *way, u32 sequence)
{
	way->next = sequence;
	way->known = true;
	way->message.phase = LENGTH;
	way->message.have = 0;
}

/* Says whether a segment begins before what was read last. */
static __always_inline bool is_behind(struct way *way, struct segment *s)
{
	return way->known && (s32)(s->sequence - way->next) < 0;
}

/* Goes on with what of a segment was not read before. False: there is nothing new. */
static __always_inline bool follow(struct way *way, struct segment *s)
{
	u32 length = s->end - s->at;
	s32 known = way->next - s->sequence;

	if (!way->known || known < 0) {
		begin(way, s->sequence);
		known = 0;
	}
	if (known >= (s32)length)
		return false;
	way->message.at = s->at + known;
	way->message.end = s->end;
	way->message.question = 0;
	way->next = s->sequence + length;
	return true;
}

static __always_inline struct stream *new_stream(struct __sk_buff *skb)
{
	struct stream *stream = socket_stream(skb, BPF_SK_STORAGE_GET_F_CREATE);

	if (!stream) {
		LOSE(unread);
		return NULL;
	}
	stream->in.known = false;
	stream->out.known = false;
	return stream;
}

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
	stream = new_stream(skb);
	if (!stream)
		return NULL;
	stream->role = ROLE_CLIENT;
	stream->cgroup = sender_owner(CURRENT());
	stream->filtered = is_filtered_sender(CURRENT(), stream->cgroup);
	process_comm(CURRENT(), (u64 *)stream->comm);
	stream->pid = process_id(CURRENT());
	begin(&stream->out, s->sequence);
	return stream;
}
