/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The ABI of dns.bpf.c. */
#pragma once
#include "event.h"

#define TYPE_OTHER 0 /* a question that is of no known type, or cannot be read; no type has this number */
#define TYPE_WORDS 5 /* words of the bit set of known types: 0 to 319 */
#define RCODE_COUNT 16

#define ROLE_CLIENT 0
#define ROLE_SERVER 1

#define QUERY 0
#define RESPONSE 1

#define NAME_BYTES 256     /* of a name as it stands in a message, whose end is a 0, padded with more of them */
#define QUESTION_BYTES 260 /* of a name with its type and class */

/* A counter's key: `code` is the question's type, the answer's response code or 0. */
struct tally {
	u64 cgroup;
	u32 code;
	u16 role;
	u16 what; /* QUERY or RESPONSE */
};

/* The key of `dns_names`. */
struct named {
	struct tally tally;
	u8 name[NAME_BYTES]; /* in lower case */
};

/* The key of `dns_pending`. */
struct asked {
	u64 socket;  /* cookie */
	u8 peer[16]; /* of a server's datagrams: who asks */
	u16 port;
	u16 id;
	u32 role;
};

/* A query whose answer is awaited. */
struct pending {
	u64 time; /* nanoseconds of the monotonic clock; 0: answered, and kept for `before` only */
	u64 cgroup;
	u8 comm[16];
	u32 pid;
	u32 before; /* queries that were asked again, under the same id, before they were answered */
};

/* The only kind of event here. */
#define EVENT_RESPONSE 1

/* A client's answer; what of the question is in the packet follows, as it stands there. */
struct response_event {
	struct event_head head;
	u64 latency;   /* nanoseconds */
	u8 server[16]; /* an address of the family INET is in the first four bytes */
	u16 family;
	u16 code;
	u16 protocol;
	u16 length; /* of the question; 0: there is none */
	u8 question[QUESTION_BYTES];
};

/* What did not go where it belongs, per CPU. */
struct loss {
	u64 queries;   /* counted here: `dns_queries` was full */
	u64 responses; /* counted here: `dns_responses` was full */
	u64 names;     /* counted without their name: `dns_names` was full */
	u64 pending;   /* queries whose answer nobody awaits: `dns_pending` was full */
	u64 unread;    /* segments of TCP whose messages were too many, or no socket storage */
};
