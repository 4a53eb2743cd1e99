// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * What the bench of connections compares with, on an interface (TC): nothing at
 * all, and the least that a table of connections there would do for a packet. It
 * does not know whose a packet is, whether it was counted on another interface
 * already, or where it goes that is translated.
 */
#include "lib/kernel.h"
#include "lib/maps.bpf.h"
#include "lib/packet.bpf.h"

#define ETHERNET_HEADER 14
#define ETHERTYPE 12
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd

struct five_tuple {
	u8 source[16];
	u8 destination[16];
	u16 source_port;
	u16 destination_port;
	u32 protocol;
};

struct passed {
	u64 bytes;
	u64 packets;
	u64 last;
};

MAP(HASH, passing, struct five_tuple, struct passed, 8192, 0);

SEC("classifier")
int tc_empty(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

static __always_inline bool read_tuple(struct __sk_buff *skb, struct five_tuple *tuple)
{
	u8 *at = (u8 *)(long)skb->data, *end = (u8 *)(long)skb->data_end;
	u8 *ip = at + ETHERNET_HEADER, *ports;

	if (ip + 20 > end)
		return false;
	if (word(at + ETHERTYPE) == ETH_P_IP) {
		__builtin_memcpy(tuple->source + 12, ip + 12, 4);
		__builtin_memcpy(tuple->destination + 12, ip + 16, 4);
		tuple->protocol = ip[9];
		ports = ip + (ip[0] & 15) * 4;
	} else if (word(at + ETHERTYPE) == ETH_P_IPV6 && ip + 40 <= end) {
		__builtin_memcpy(tuple->source, ip + 8, 16);
		__builtin_memcpy(tuple->destination, ip + 24, 16);
		tuple->protocol = ip[6];
		ports = ip + 40;
	} else {
		return false;
	}
	if (tuple->protocol != IPPROTO_TCP && tuple->protocol != IPPROTO_UDP)
		return true;
	if (ports + 4 > end)
		return false;
	tuple->source_port = word(ports);
	tuple->destination_port = word(ports + 2);
	return true;
}

SEC("classifier")
int tc_table(struct __sk_buff *skb)
{
	static const struct passed nothing;
	struct five_tuple tuple = {};
	struct passed *passed;

	if (!read_tuple(skb, &tuple))
		return TC_ACT_UNSPEC;
	passed = bpf_map_lookup_elem(&passing, &tuple);
	if (!passed) {
		bpf_map_update_elem(&passing, &tuple, &nothing, BPF_NOEXIST);
		passed = bpf_map_lookup_elem(&passing, &tuple);
		if (!passed)
			return TC_ACT_UNSPEC;
	}
	__sync_fetch_and_add(&passed->bytes, skb->len - ETHERNET_HEADER);
	__sync_fetch_and_add(&passed->packets, 1);
	passed->last = bpf_ktime_get_coarse_ns();
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "GPL";
