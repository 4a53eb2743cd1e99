/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The ABI of tcp.bpf.c. */
#pragma once

/* States as the kernel numbers them: TCP_ESTABLISHED is 1, all are below 16. */
#define STATES 16

#define OUTBOUND 0
#define INBOUND 1

/* What is on the wire; an IPv6 socket with a mapped address speaks IPv4. */
#define NETWORK_ANY 0
#define NETWORK_IPV4 1
#define NETWORK_IPV6 2

/* Why a connect failed. */
#define CAUSE_REFUSED 0
#define CAUSE_TIMEOUT 1
#define CAUSE_UNREACHABLE 2
#define CAUSE_ABORTED 3 /* given up by its own side */
#define CAUSE_UNSENT 4  /* no segment left: no free port, say */
#define CAUSE_OTHER 5   /* none of these, or its end was not seen in time */
#define CAUSES 6

/* The key of all maps but `peers`. */
struct owner {
	u64 cgroup;
	u32 network; /* NETWORK_ANY for what is not told apart: failed connects and `round_trips` */
	u32 padding;
};

/* What a walk over all sockets has found. */
struct visit {
	u64 rtt; /* the sum over the connections that it has met, in microseconds */
	u32 count;
	u32 round;
};

/* The key of `peers`: an owner, and whom its connections are with. */
struct peer {
	u64 cgroup;
	u8 address[16]; /* as IPv6 has it: ::ffff:a.b.c.d */
	u32 network;    /* as in `struct owner` */
	u16 port;       /* the peer's, where it is the server; else 0 */
	u16 padding;
};

/* What has ever become of connections. */
struct lifecycle {
	u64 connects;
	u64 accepts;
	u64 closes;
	u64 resets;
	u64 retransmits;
	u64 failed[CAUSES];
};

/* The connections of an owner on one network, on one CPU. */
struct connections {
	struct lifecycle past;  /* by peer it is in `peers` */
	u32 open[2 * STATES];   /* at direction * STATES + state: what came less what went, wrapping */
	struct visit visits[2]; /* of even and of odd rounds: one is whole while the other is under way */
};

/* What did not go where it belongs, per CPU. */
struct tcp_loss {
	struct connections connections; /* `owners` was full */
	u64 unfollowed;                 /* sockets for which there was no memory */
	u64 strangers;                  /* counted without their peer because `peers` was full */
};
