/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The ABI of dns.bpf.c. */
#pragma once

#define TYPE_OTHER 0 /* a question that is of no known type, or cannot be read; no type has this number */
#define TYPE_WORDS 5 /* words of the bit set of known types: 0 to 319 */
#define RCODE_COUNT 16

/* A counter's key: `code` is the question's type, the answer's response code or 0. */
struct tally {
	u64 cgroup;
	u32 code;
	u32 padding;
};

/* The key of `dns_pending`. */
struct asked {
	u64 socket; /* cookie */
	u32 id;
	u32 padding;
};

/* A query whose answer is awaited. */
struct pending {
	u64 time; /* nanoseconds of the monotonic clock; 0: answered, and kept for `before` only */
	u64 cgroup;
	u64 before; /* queries that were asked again, under the same id, before they were answered */
};

/* What did not go where it belongs, per CPU. */
struct loss {
	u64 queries;   /* counted here: `dns_queries` was full */
	u64 responses; /* counted here: `dns_responses` was full */
	u64 pending;   /* queries whose answer nobody awaits: `dns_pending` was full */
	u64 unread;    /* segments of TCP whose messages were too many, or no socket storage */
};
