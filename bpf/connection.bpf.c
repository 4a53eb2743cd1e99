// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Who talks to whom: a table of connections with bytes and packets each way.
 * Hooks: those of network.bpf.c, which it contains, so that a packet passes one
 * program for both collectors; and tcp_destroy_sock. A packet counts once, at
 * its socket, whatever interfaces, bridges, tunnels and translations it crosses.
 * Not seen: what has no socket here (forwarded packets, TIME_WAIT).
 */
#define CONNECTIONS
#include "network.bpf.c"

#ifndef LEGACY
SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(tcp_destroy_sock, struct sock *sk)
{
	struct owner *owner = bpf_sk_storage_get(&owners, sk, NULL, 0);

	if (owner)
		close_connection(owner);
	return 0;
}
#endif
