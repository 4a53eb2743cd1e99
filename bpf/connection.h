/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The ABI of connection.bpf.c, beside that of network.bpf.c, which it contains. */
#pragma once
#include "network.h"

/* Who began: by the SYN or the listening socket, of datagrams by the first one that was seen. */
#define ROLE_UNKNOWN 0
#define ROLE_CLIENT 1
#define ROLE_SERVER 2

/* Of which network namespaces connections are kept. */
#define NAMESPACES_ALL 0
#define NAMESPACES_HOST 1
#define NAMESPACES_PODS 2 /* all but the host's */

#define CONNECTION_HALF_OPEN 1 /* known to the listening socket only */

/* What tells a connection from others. An IPv4 address is written as IPv6 has it: ::ffff:a.b.c.d. */
struct tuple {
	u64 cgroup; /* of the socket's owner in the primary hierarchy; 0: the kernel's */
	u8 local[16];
	u8 remote[16];
	u16 local_port; /* 0: neither TCP nor UDP */
	u16 remote_port;
	u8 transport; /* the IP protocol */
	u8 padding[3];
};

/* A slot of `connections`: two cache lines, of which user space reads the second one with each look. */
struct connection {
	struct tuple tuple;
	u8 backend[16]; /* where packets really go, where that was translated; else zeros */
	u32 generation; /* odd while the slot is in use; 0: it never was */
	u8 role;
	u8 flags;
	u16 backend_port;
	u64 first; /* nanoseconds of the monotonic clock */
	u64 last;
	u64 closed; /* 0: not yet, or not known */
	struct traffic sent;
	struct traffic received;
};

/* A packet of a connection that found no slot. */
struct stray {
	struct tuple tuple;
	struct traffic traffic;
	u64 time;
	u8 direction;
	u8 role;
	u8 padding[6];
};

/* The cell of `lost` on one CPU: what went neither into a slot nor through `overflow`. */
struct connection_loss {
	struct traffic sent;
	struct traffic received;
	u64 strays; /* packets that found no slot */
};
