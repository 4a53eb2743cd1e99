/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Where things lie in the IP packet that a program of a cgroup hook is given. */
#pragma once
#include "kernel.h"

#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define UDP_SIZE 8
#define IPV4_OFFSET_MASK 0x1fff
#define IPV6_EXTENSIONS 6

struct transport {
	u32 at; /* the offset of its header */
	u32 protocol;
	u16 source; /* ports */
	u16 destination;
};

static __always_inline u16 word(const u8 *bytes)
{
	return bytes[0] << 8 | bytes[1];
}

/* Steps over IPv6 extension headers, which are rare. */
static __always_inline void skip_extensions(struct __sk_buff *skb, struct transport *l4)
{
	u8 head[2]; /* what follows, length in units of 8 bytes */
	int i;

	for (i = 0; i < IPV6_EXTENSIONS; i++) {
		/* Hop-by-hop, routing, destination options; the kernel has put fragments together. */
		if (l4->protocol != 0 && l4->protocol != 43 && l4->protocol != 60)
			return;
		if (bpf_skb_load_bytes(skb, l4->at, head, sizeof(head)))
			return;
		l4->protocol = head[0];
		l4->at += 8 + 8 * head[1];
	}
}

/* Finds the transport header; false where there is neither UDP nor TCP. */
static __always_inline bool find_transport(struct __sk_buff *skb, struct transport *l4)
{
	u8 *ip = (u8 *)(long)skb->data, *end = (u8 *)(long)skb->data_end;

	/* The kernel keeps network and transport headers in the linear part. */
	if (ip + 20 > end)
		return false;
	if (ip[0] >> 4 == 4) {
		/* Only the first fragment has a transport header; the kernel cuts after us and joins before us. */
		if (word(ip + 6) & IPV4_OFFSET_MASK)
			return false;
		l4->protocol = ip[9];
		l4->at = (ip[0] & 15) * 4;
	} else {
		if (ip + 40 > end)
			return false;
		l4->protocol = ip[6];
		l4->at = 40;
		skip_extensions(skb, l4);
	}
	if (l4->protocol != IPPROTO_UDP && l4->protocol != IPPROTO_TCP)
		return false;
	ip += l4->at;
	if (ip + 8 > end)
		return false;
	l4->source = word(ip);
	l4->destination = word(ip + 2);
	return true;
}
