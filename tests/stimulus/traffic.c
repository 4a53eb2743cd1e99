// SPDX-License-Identifier: Apache-2.0
// Moves into a cgroup, then sends or receives an exact amount there; what the socket is made in is the namespace that
// the program was born in.
//
//   traffic CGROUP_DIR ACTION [ARGUMENT]...
//
// Every action that waits for a peer prints "ready" first.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include "enter.h"

static char buffer[65536];

static void say(const char *word)
{
	puts(word);
	fflush(stdout);
}

// Waits for a line from the test.
static void wait_for_word(void)
{
	char line[16];
	if (!fgets(line, sizeof(line), stdin))
		die("no word from the test");
}

struct peer {
	struct sockaddr_storage address;
	socklen_t length;
};

static struct peer peer_of(const char *address, const char *port)
{
	struct peer peer = { .length = sizeof(struct sockaddr_in) };
	struct sockaddr_in *v4 = (void *)&peer.address;
	struct sockaddr_in6 *v6 = (void *)&peer.address;
	if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(atoi(port));
	} else if (inet_pton(AF_INET6, address, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(atoi(port));
		peer.length = sizeof(*v6);
	} else {
		die(address);
	}
	return peer;
}

static int make(const struct peer *peer, int type)
{
	int one = 1, fd = socket(peer->address.ss_family, type, 0);
	if (fd < 0)
		die("socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	return fd;
}

static void datagrams(int fd, const struct peer *to, long count, long size)
{
	for (long i = 0; i < count; i++) {
		ssize_t sent = sendto(fd, buffer, size, 0, (const struct sockaddr *)&to->address, to->length);
		// A refused one of before is told to the next one, which then was not sent.
		if (sent < 0 && errno == ECONNREFUSED)
			i--;
		else if (sent != size)
			die("sendto");
	}
}

static void stream(int fd, long bytes)
{
	while (bytes > 0) {
		ssize_t sent = send(fd, buffer, bytes < (long)sizeof(buffer) ? bytes : (long)sizeof(buffer), 0);
		if (sent <= 0)
			die("send");
		bytes -= sent;
	}
}

static void drain(int fd)
{
	ssize_t got;
	while ((got = recv(fd, buffer, sizeof(buffer), 0)) > 0)
		;
	if (got < 0)
		die("recv");
}

// Gives a socket a port of its own.
static int make_at(const struct peer *peer, int type, const char *port)
{
	struct sockaddr_storage any = { .ss_family = peer->address.ss_family };
	int fd = make(peer, type);
	// The port lies at the same place in both families.
	((struct sockaddr_in *)&any)->sin_port = htons(atoi(port));
	if (bind(fd, (const struct sockaddr *)&any, peer->length))
		die("bind");
	return fd;
}

// Sends echo requests; who answers is the kernel.
static void echoes(const struct peer *peer, long count, long size)
{
	int v4 = peer->address.ss_family == AF_INET;
	int fd = socket(peer->address.ss_family, SOCK_RAW, v4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
	unsigned int request = v4 ? 0x0800 : 0x8000;
	if (fd < 0)
		die("socket");
	// Type, code and checksum: all else is 0. Of ICMPv6 the kernel does the sum.
	buffer[0] = request >> 8;
	if (v4) {
		buffer[2] = ~request >> 8;
		buffer[3] = ~request;
	}
	datagrams(fd, peer, count, size);
}

static int connected(const struct peer *peer)
{
	int fd = make(peer, SOCK_STREAM);
	if (connect(fd, (const struct sockaddr *)&peer->address, peer->length))
		die("connect");
	return fd;
}

static int bound(const struct peer *peer, int type)
{
	int fd = make(peer, type);
	if (bind(fd, (const struct sockaddr *)&peer->address, peer->length))
		die("bind");
	if (type == SOCK_STREAM && listen(fd, 64))
		die("listen");
	return fd;
}

static void set_offload(const char *interface, unsigned int command, unsigned int value)
{
	struct ethtool_value wanted = { command, value };
	struct ifreq request = { 0 };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	strncpy(request.ifr_name, interface, sizeof(request.ifr_name) - 1);
	request.ifr_data = (void *)&wanted;
	if (ioctl(fd, SIOCETHTOOL, &request))
		die("SIOCETHTOOL");
	close(fd);
}

int main(int argc, char **argv)
{
	if (argc < 4) {
		fprintf(stderr, "usage: traffic CGROUP_DIR ACTION ARGUMENT...\n");
		return 2;
	}
	const char *action = argv[2];
	if (!strcmp(action, "offload")) {
		// traffic - offload INTERFACE GSO GRO
		set_offload(argv[3], ETHTOOL_STSO, atoi(argv[4]));
		set_offload(argv[3], ETHTOOL_SGSO, atoi(argv[4]));
		set_offload(argv[3], ETHTOOL_SGRO, atoi(argv[5]));
		return 0;
	}
	enter(argv[1]);
	struct peer peer = peer_of(argv[3], argv[4]);
	long n = argc > 5 ? atol(argv[5]) : 0, m = argc > 6 ? atol(argv[6]) : 0;
	if (!strcmp(action, "udp_send")) { // ADDRESS PORT COUNT SIZE
		datagrams(make(&peer, SOCK_DGRAM), &peer, n, m);
	} else if (!strcmp(action, "udp_send_from")) { // ADDRESS PORT COUNT SIZE LOCAL_PORT
		datagrams(make_at(&peer, SOCK_DGRAM, argv[7]), &peer, n, m);
	} else if (!strcmp(action, "icmp_send")) { // ADDRESS 0 COUNT SIZE
		echoes(&peer, n, m);
	} else if (!strcmp(action, "udp_scatter")) { // ADDRESS PORT SOCKETS PORTS: from each socket a byte to each port
		for (long i = 0; i < n; i++) {
			int fd = make(&peer, SOCK_DGRAM);
			for (long j = 0; j < m; j++) {
				((struct sockaddr_in *)&peer.address)->sin_port = htons(atoi(argv[4]) + j);
				datagrams(fd, &peer, 1, 1);
			}
			close(fd);
		}
	} else if (!strcmp(action, "udp_segments")) { // ADDRESS PORT SIZE SEGMENT: one call, many datagrams
		int fd = make(&peer, SOCK_DGRAM), segment = m;
		if (setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof(segment)))
			die("UDP_SEGMENT");
		datagrams(fd, &peer, 1, n);
	} else if (!strcmp(action, "udp_receive")) { // ADDRESS PORT COUNT
		int fd = bound(&peer, SOCK_DGRAM), size = 16 << 20;
		// Room for all of them: the receiver need not keep up.
		if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)))
			die("SO_RCVBUFFORCE");
		say("ready");
		for (long i = 0; i < n; i++)
			if (recv(fd, buffer, sizeof(buffer), 0) < 0)
				die("recv");
	} else if (!strcmp(action, "tcp_send")) { // ADDRESS PORT BYTES
		int fd = connected(&peer);
		stream(fd, n);
		shutdown(fd, SHUT_WR);
		drain(fd);
		close(fd);
	} else if (!strcmp(action, "tcp_twice")) { // ADDRESS PORT BYTES: as many again when it is told to
		int fd = connected(&peer);
		stream(fd, n);
		say("ready");
		wait_for_word();
		stream(fd, n);
		shutdown(fd, SHUT_WR);
		drain(fd);
		close(fd);
	} else if (!strcmp(action, "tcp_again")) { // ADDRESS PORT BYTES: on one socket, reset and connected once more
		struct sockaddr nobody = { .sa_family = AF_UNSPEC };
		int fd = connected(&peer);
		stream(fd, n);
		if (connect(fd, &nobody, sizeof(nobody)) || connect(fd, (struct sockaddr *)&peer.address, peer.length))
			die("connect");
		stream(fd, n);
		say("ready");
		wait_for_word();
		close(fd);
	} else if (!strcmp(action, "tcp_knock")) { // ADDRESS PORT: begins to connect and does not wait
		int fd = make(&peer, SOCK_STREAM | SOCK_NONBLOCK);
		if (connect(fd, (const struct sockaddr *)&peer.address, peer.length) != -1 || errno != EINPROGRESS)
			die("connect");
		say("ready");
		wait_for_word();
	} else if (!strcmp(action, "tcp_serve")) { // ADDRESS PORT BYTES TIMES: ends each connection itself
		int listener = bound(&peer, SOCK_STREAM);
		say("ready");
		for (long i = 0; i < m; i++) {
			int fd = accept(listener, NULL, NULL);
			stream(fd, n);
			close(fd);
		}
	} else if (!strcmp(action, "tcp_fetch")) { // ADDRESS PORT LOCAL_PORT
		int fd = make_at(&peer, SOCK_STREAM, argv[5]);
		if (connect(fd, (const struct sockaddr *)&peer.address, peer.length))
			die("connect");
		drain(fd);
		close(fd);
	} else if (!strcmp(action, "tcp_leave")) { // ADDRESS PORT BYTES: leaves them all to the kernel
		int fd = connected(&peer), size = 4 * n;
		setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
		stream(fd, n);
	} else if (!strcmp(action, "tcp_receive")) { // ADDRESS PORT
		int listener = bound(&peer, SOCK_STREAM);
		say("ready");
		int fd = accept(listener, NULL, NULL);
		drain(fd);
		close(fd);
	} else if (!strcmp(action, "tcp_receive_late")) { // ADDRESS PORT: reads nothing before it is told to
		int size = 4096, listener = make(&peer, SOCK_STREAM);
		setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
		if (bind(listener, (struct sockaddr *)&peer.address, peer.length) || listen(listener, 64))
			die("listen");
		say("ready");
		int fd = accept(listener, NULL, NULL);
		wait_for_word();
		drain(fd);
		close(fd);
	} else if (!strcmp(action,
			   "udp_move")) { // ADDRESS PORT COUNT SIZE CGROUP_DIR: half of them from another cgroup
		int fd = make(&peer, SOCK_DGRAM);
		datagrams(fd, &peer, n, m);
		enter(argv[7]);
		say("ready");
		wait_for_word();
		datagrams(fd, &peer, n, m);
	} else {
		fprintf(stderr, "traffic: no such action: %s\n", action);
		return 2;
	}
	return 0;
}
