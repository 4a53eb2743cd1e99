// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
// Somebody else's filters: each drops the datagrams to one port of 10.99.0.2, and says nothing of all others.
#define SEC(name) __attribute__((section(name), used))

static long (*load_bytes)(const void *skb, unsigned int offset, void *to, unsigned int length) = (void *)26;

#define SERVER "\x0a\x63\x00\x02"

struct head {
	unsigned char start[9], protocol, checksum[2], source[4], destination[4], ports[4];
};

static __attribute__((always_inline)) int is_to(const void *skb, unsigned int offset, unsigned int port)
{
	struct head head = {};
	const unsigned char *server = (const unsigned char *)SERVER;

	if (load_bytes(skb, offset, &head, sizeof(head)) || head.start[0] != 0x45 || head.protocol != 17)
		return 0;
	for (int i = 0; i < 4; i++)
		if (head.destination[i] != server[i])
			return 0;
	return (head.ports[2] << 8 | head.ports[3]) == port;
}

SEC("cgroup_skb/egress")
int foreign_early(void *skb)
{
	return !is_to(skb, 0, 7001);
}

SEC("cgroup_skb/ingress")
int foreign_ingress(void *skb)
{
	return !is_to(skb, 0, 7002);
}

SEC("cgroup_skb/egress")
int foreign_late(void *skb)
{
	return !is_to(skb, 0, 7003);
}

SEC("classifier")
int foreign_tc(void *skb)
{
	return is_to(skb, 14, 7004) ? 2 : -1;
}

SEC("classifier")
int foreign_tcx(void *skb)
{
	return is_to(skb, 14, 7005) ? 2 : -1;
}

SEC("cgroup_skb/ingress")
int foreign_late_ingress(void *skb)
{
	return !is_to(skb, 0, 7006);
}

SEC("classifier")
int foreign_late_tc(void *skb)
{
	return is_to(skb, 14, 7007) ? 2 : -1;
}

SEC("classifier")
int foreign_late_tcx(void *skb)
{
	return is_to(skb, 14, 7008) ? 2 : -1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
