/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The ABI of network.bpf.c; crates/bpf/src/abi/network.rs mirrors it. */
#pragma once

#define DIRECTION_TRANSMIT 0
#define DIRECTION_RECEIVE 1

#define FAMILY_IPV4 4
#define FAMILY_IPV6 6

/* The key of `flows`. */
struct flow {
	u64 cgroup; /* of the socket's owner in the primary hierarchy; 0: the kernel's */
	u8 direction;
	u8 family;
	u16 transport; /* the socket's IP protocol */
	u32 padding;
};

/* A cell of `flows` on one CPU. */
struct traffic {
	u64 bytes;   /* from the IP header on, as on the wire */
	u64 packets; /* as on the wire */
};

/* The key of `drops`. */
struct drop {
	u64 cgroup;
	u32 reason; /* a value of the kernel's enum skb_drop_reason */
	u32 padding;
};

/* The cell of `losses` on one CPU. */
struct network_loss {
	struct traffic traffic; /* counted here because `flows` was full */
	u64 drops;              /* counted here because `drops` was full */
	u64 overflows;          /* counted here because `overflows` was full */
	u64 owners;             /* sockets without a place for their owner */
};
