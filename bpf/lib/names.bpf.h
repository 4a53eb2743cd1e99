/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Names of questions, and counting under them. A name is a key as it stands in
 * the packet, in lower case, so that nothing of it has to be understood here.
 */
#pragma once
#include "kernel.h"
#include "maps.bpf.h"
#include "packet.bpf.h"
#include "../dns.h"

#define NAME_MAX 255
#define LABELS_MAX 128 /* the root's included */
#define LABEL_MAX 63
#define POINTER 0xc0

const volatile u32 names = 0; /* count by name */

/* A full map takes 112 B an entry and 8 B for each CPU. */
MAP(PERCPU_HASH, dns_queries, struct tally, u64, 4096, ON_DEMAND);
MAP(PERCPU_HASH, dns_responses, struct tally, u64, 4096, ON_DEMAND);
/* 384 B an entry and 8 B for each CPU. */
MAP(PERCPU_HASH, dns_names, struct named, u64, 1024, ON_DEMAND);
MAP(PERCPU_ARRAY, losses, u32, struct loss, 1, 0);

static __always_inline struct loss *loss(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&losses, &zero);
}

#define LOSE(what)                                            \
	do {                                                  \
		struct loss *lost = loss();                   \
		if (lost)                                     \
			__sync_fetch_and_add(&lost->what, 1); \
	} while (0)

/*
 * Copies 1 to `most` bytes of a packet; false: not that many. The compiler must
 * not do away with the check that the verifier goes by, which wants it just so.
 */
static __always_inline bool copy(struct __sk_buff *skb, u32 at, void *to, u32 size, u32 most)
{
	u32 less = size - 1;

	asm volatile("" : "+r"(less));
	return less < most && !bpf_skb_load_bytes(skb, at, to, less + 1);
}

/*
 * Says where a name ends in the packet: negative where a pointer ends it, 0 where
 * it is none. A global function, so that the verifier checks it once.
 */
__noinline int name_end(struct __sk_buff *skb, u32 at)
{
	u32 begin = at, i;
	u8 length = 0;

	for (i = 0; i < LABELS_MAX; i++) {
		if (bpf_skb_load_bytes(skb, at, &length, 1))
			return 0;
		at += 1 + length;
		if (length == 0 || length >= POINTER)
			break;
		if (length > LABEL_MAX || at - begin >= NAME_MAX)
			return 0;
	}
	/* Nothing follows a pointer but its second byte. */
	return length ? -(int)(at + 1 - length) : (int)at;
}

/* Reads the type of a datagram's first question. */
static __always_inline u32 question_type(struct __sk_buff *skb, u32 at)
{
	int end = name_end(skb, at);
	u8 type[2];

	if (!end || bpf_skb_load_bytes(skb, end < 0 ? -end : end, type, 2))
		return TYPE_OTHER;
	return word(type);
}

/* Makes capitals small, eight bytes at once; the lengths of labels are below them. */
static __always_inline u64 lower(u64 bytes)
{
	const u64 ones = 0x0101010101010101ULL;
	u64 low = bytes & 0x7f * ones;
	u64 from_a = low + (0x80 - 'A') * ones, past_z = low + (0x80 - 'Z' - 1) * ones;

	return bytes | ((from_a & ~past_z & ~bytes & 0x80 * ones) >> 2);
}

/* What a global function is told of a message in one argument. */
#define MESSAGE(code, role, what) ((u32)(code) | (u32)(role) << 16 | (u32)(what) << 17)

/*
 * Counts a message, under the name that begins at `at` and ends up to `end` if names are wanted and it has
 * one. The key is on the stack, since a task that sends may be interrupted by a packet that comes.
 */
__noinline int count_message(struct __sk_buff *skb, u64 cgroup, u32 message, u32 at, u32 end)
{
	struct named key = {};
	int name = names && at ? name_end(skb, at) : 0;
	u32 size = name - at, i;

	key.tally.cgroup = cgroup;
	key.tally.code = message & 0xffff;
	key.tally.role = message >> 16 & 1;
	key.tally.what = message >> 17 & 1;
	if (name > 0 && (u32)name <= end && copy(skb, at, key.name, size, NAME_MAX)) {
		for (i = 0; i < NAME_BYTES / 8; i++)
			((u64 *)key.name)[i] = lower(((u64 *)key.name)[i]);
		if (count_interrupted(&dns_names, &key))
			return 1;
		LOSE(names);
	}
	if (key.tally.what == QUERY) {
		if (!count_interrupted(&dns_queries, &key.tally))
			LOSE(queries);
	} else if (!count_interrupted(&dns_responses, &key.tally)) {
		LOSE(responses);
	}
	return 0;
}
