/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Answers as events. They carry what of the question is in the packet, unread.
 * Only what comes in is reported, and no packet that comes in interrupts another
 * one on its CPU: hence one place for each CPU to put an event together.
 */
#pragma once
#include "kernel.h"
#include "names.bpf.h"
#include "ring.bpf.h"
#include "stream.bpf.h"
#include "task.bpf.h"

const volatile u32 reports = 0; /* make events */

EVENTS(events, 64 * 1024);
/* 344 B for each CPU. */
MAP(PERCPU_ARRAY, scratch, u32, struct response_event, 1, 0);

static __always_inline struct response_event *present_event(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}

/* Notes who asks: of a datagram the task that sends it, of a stream the one that has connected. */
static __always_inline void sign(struct __sk_buff *skb, struct pending *query)
{
	struct task_struct *task;
	struct stream *stream;

	if (!reports)
		return;
	stream = socket_stream(skb, 0);
	if (stream) {
		__builtin_memcpy(query->comm, stream->comm, sizeof(query->comm));
		query->pid = stream->pid;
		/* Else the compiler has one load do for both, and the verifier allows it one kind of pointer. */
		asm volatile("" ::: "memory");
		return;
	}
	task = CURRENT();
	process_comm(task, (u64 *)query->comm);
	query->pid = process_id(task);
}

/* Begins the event of an answer. */
static __always_inline void note_answer(struct pending *query, u64 took)
{
	struct response_event *event = reports ? present_event() : NULL;

	if (!event)
		return;
	event->head.time = bpf_ktime_get_ns();
	event->head.cgroup = query->cgroup;
	__builtin_memcpy(event->head.comm, query->comm, sizeof(query->comm));
	event->head.pid = query->pid;
	event->head.kind = EVENT_RESPONSE;
	event->latency = took;
}

/* Completes the event that note_answer() began, and sends it. */
__noinline int report(struct __sk_buff *skb, u32 code, u32 at, u32 end)
{
	struct response_event *event = reports && is_sampled() ? present_event() : NULL;
	struct bpf_sock *sk = skb->sk;
	u32 length = end - at;
	u8 version = 0;

	sk = sk ? bpf_sk_fullsock(sk) : NULL;
	if (!event || !sk)
		return 0;
	event->code = code;
	event->protocol = sk->protocol;
	bpf_skb_load_bytes(skb, 0, &version, 1);
	event->family = version >> 4 == 4 ? FAMILY_INET : FAMILY_INET6;
	if (event->family == FAMILY_INET)
		bpf_skb_load_bytes(skb, 12, event->server, 4);
	else
		bpf_skb_load_bytes(skb, 8, event->server, 16);
	length = length < QUESTION_BYTES ? length : QUESTION_BYTES;
	if (at >= end || !copy(skb, at, event->question, length, QUESTION_BYTES))
		length = 0;
	event->length = length;
	length &= 511;
	if (length <= QUESTION_BYTES)
		emit(skb, &events, event, offsetof(struct response_event, question) + length);
	return 0;
}
