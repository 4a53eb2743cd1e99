// SPDX-License-Identifier: Apache-2.0
// Moves into a cgroup, sends DNS messages as it is told, and prints as one JSON object how long it waited for answers.
//
//   dns CGROUP_DIR ACTION...
//
//   udp=ADDRESS     opens a datagram socket that is connected to port 53 of the address
//   loose=ADDRESS   the same, not connected
//   tcp=ADDRESS     opens a connection to port 53 of the address
//   send=HEX        sends these bytes
//   receive=N       receives N messages; over TCP each follows its length
//   ask=HEX         sends these bytes, receives one message, and adds what that took to `waited`
//   raw=HEX         sends a whole IPv4 packet
//   leave           closes the socket
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_storage peer;
static socklen_t peer_size;
static int fd = -1, connected, stream;
static unsigned char bytes[65536];
static long long waited;

static long must(long result, const char *what)
{
	if (result < 0) {
		fprintf(stderr, "dns: %s: %s\n", what, strerror(errno));
		exit(1);
	}
	return result;
}

static void enter(const char *directory)
{
	char path[4096];
	snprintf(path, sizeof(path), "%s/cgroup.procs", directory);
	FILE *file = fopen(path, "w");
	if (!file || fprintf(file, "%d", getpid()) < 0 || fclose(file))
		must(-1, path);
}

static void reach(const char *kind, const char *address)
{
	struct sockaddr_in *v4 = (void *)&peer;
	struct sockaddr_in6 *v6 = (void *)&peer;

	memset(&peer, 0, sizeof(peer));
	if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(53);
		peer_size = sizeof(*v4);
	} else if (inet_pton(AF_INET6, address, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(53);
		peer_size = sizeof(*v6);
	}
	stream = !strcmp(kind, "tcp");
	connected = strcmp(kind, "loose");
	fd = must(socket(peer.ss_family, stream ? SOCK_STREAM : SOCK_DGRAM, 0), "socket");
	if (connected)
		must(connect(fd, (void *)&peer, peer_size), "connect");
	if (stream) {
		int one = 1;
		// Each send is a segment of its own.
		must(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)), "TCP_NODELAY");
	}
}

static size_t decode(const char *hex)
{
	size_t n = 0;
	for (; hex[0] && hex[1]; hex += 2)
		must(sscanf(hex, "%2hhx", &bytes[n++]) == 1 ? 0 : -1, "no hexadecimal digits");
	return n;
}

static void transmit(const char *hex)
{
	size_t n = decode(hex);
	long sent = connected ? send(fd, bytes, n, 0) : sendto(fd, bytes, n, 0, (void *)&peer, peer_size);
	// The refusal of an earlier datagram; this one was not sent.
	if (sent < 0 && errno == ECONNREFUSED)
		sent = connected ? send(fd, bytes, n, 0) : sendto(fd, bytes, n, 0, (void *)&peer, peer_size);
	must(sent, "send");
}

static void take(size_t size)
{
	for (size_t have = 0; have < size;) {
		long n = must(recv(fd, bytes + have, size - have, 0), "recv");
		if (n == 0)
			must(-1, "the peer has closed");
		have += n;
	}
}

static void receive(int count)
{
	while (count-- > 0) {
		if (stream) {
			take(2);
			take(bytes[0] << 8 | bytes[1]);
		} else {
			must(recv(fd, bytes, sizeof(bytes), 0), "recv");
		}
	}
}

static void raw(const char *hex)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	size_t n = decode(hex);
	int out = must(socket(AF_INET, SOCK_RAW, IPPROTO_RAW), "raw socket");
	memcpy(&to.sin_addr, bytes + 16, 4);
	must(sendto(out, bytes, n, 0, (void *)&to, sizeof(to)), "sendto");
	close(out);
}

static long long now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int argc, char **argv)
{
	enter(argv[1]);
	for (int i = 2; i < argc; i++) {
		char *value = strchr(argv[i], '=');
		if (value)
			*value++ = 0;
		if (!strcmp(argv[i], "send")) {
			transmit(value);
		} else if (!strcmp(argv[i], "receive")) {
			receive(atoi(value));
		} else if (!strcmp(argv[i], "ask")) {
			long long begin = now();
			transmit(value);
			receive(1);
			waited += now() - begin;
		} else if (!strcmp(argv[i], "raw")) {
			raw(value);
		} else if (!strcmp(argv[i], "leave")) {
			close(fd);
		} else {
			reach(argv[i], value);
		}
	}
	printf("{\"waited\": %lld}\n", waited);
	return 0;
}
