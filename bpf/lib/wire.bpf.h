/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What becomes of a super-packet (GSO, GRO) on the wire. */
#pragma once
#include "kernel.h"

#define ETH_P_IPV6 0x86dd

#define IPPROTO_HOPOPTS 0
#define IPPROTO_TCP 6
#define IPPROTO_ROUTING 43
#define IPPROTO_DSTOPTS 60

#define IPV4_HEADER 20
#define IPV6_HEADER 40
#define UDP_HEADER 8
#define JUMBO_HEADER 8 /* the hop-by-hop header of BIG TCP, which no segment carries */
#define EXTENSION_HEADERS 4

/* Reads a byte, from the IP header on; 0 beyond the packet. */
static __always_inline u32 byte_at(struct __sk_buff *skb, u32 offset)
{
	u8 *at = (u8 *)(long)skb->data + (offset & 0x1ff), byte = 0;

	if (offset < 0x200 && at + 1 <= (u8 *)(long)skb->data_end)
		return *at;
	bpf_skb_load_bytes(skb, offset, &byte, 1);
	return byte;
}

/* The bytes of the headers that each segment repeats. */
static __always_inline u32 headers_of(struct __sk_buff *skb, bool ipv6, u64 *bytes)
{
	u32 offset, protocol;

	if (!ipv6) {
		offset = (byte_at(skb, 0) & 0xf) * 4;
		protocol = byte_at(skb, 9);
	} else {
		offset = IPV6_HEADER;
		protocol = byte_at(skb, 6);
		/* A payload length of 0 marks a jumbogram. */
		if (protocol == IPPROTO_HOPOPTS && !byte_at(skb, 4) && !byte_at(skb, 5)) {
			protocol = byte_at(skb, offset);
			u32 transport = offset + JUMBO_HEADER;

			*bytes -= JUMBO_HEADER;
			if (protocol == IPPROTO_TCP)
				return offset + (byte_at(skb, transport + 12) >> 4) * 4;
			return offset + UDP_HEADER;
		}
		for (int i = 0; i < EXTENSION_HEADERS; i++) {
			if (protocol != IPPROTO_HOPOPTS && protocol != IPPROTO_ROUTING && protocol != IPPROTO_DSTOPTS)
				break;
			protocol = byte_at(skb, offset);
			offset += (byte_at(skb, offset + 1) + 1) * 8;
		}
	}
	if (protocol == IPPROTO_TCP)
		return offset + (byte_at(skb, offset + 12) >> 4) * 4;
	return offset + UDP_HEADER;
}

/* Gives the number of segments; adds to the bytes the headers that all but the first will have. */
static __always_inline u64 on_wire(struct __sk_buff *skb, bool ipv6, u64 *bytes)
{
	u32 headers = headers_of(skb, ipv6, bytes), segments = skb->gso_segs;

	/* A device that merged segments itself may not say how many (SKB_GSO_DODGY). */
	if (!segments && *bytes > headers)
		segments = (*bytes - headers + skb->gso_size - 1) / skb->gso_size;
	if (segments < 2)
		return 1;
	*bytes += (u64)(segments - 1) * headers;
	return segments;
}
