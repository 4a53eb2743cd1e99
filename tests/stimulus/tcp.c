// SPDX-License-Identifier: Apache-2.0
// Moves into a cgroup and does with TCP sockets what it is told. Commands come on stdin, each answered with one number:
//
//   listen ADDRESS PORT BACKLOG  begins to listen
//   accept N                     accepts so many connections
//   connect ADDRESS PORT N       begins so many connects, waits for their ends; answers how many succeeded
//   begin ADDRESS PORT N         begins so many connects without waiting
//   attempt ADDRESS PORT N       connects so many times, one after the other, each to its end; answers how many succeeded
//   cycle ADDRESS PORT N         connects and closes so many times, one after the other
//   serve N                      accepts and closes so many times
//   send BYTES                   sends so many on every connection
//   receive BYTES                receives so many on every connection
//   shutdown                     says on every connection that no more comes
//   close, reset N               closes the oldest N connections, with FIN or RST
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include "enter.h"

static int listener = -1;
static int *all;
static long first, last, room;

static socklen_t parse(const char *text, int port, struct sockaddr_storage *address)
{
	struct sockaddr_in *four = (void *)address;
	struct sockaddr_in6 *six = (void *)address;
	memset(address, 0, sizeof(*address));
	if (inet_pton(AF_INET, text, &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons(port);
		return sizeof(*four);
	}
	if (inet_pton(AF_INET6, text, &six->sin6_addr) != 1)
		die(text);
	six->sin6_family = AF_INET6;
	six->sin6_port = htons(port);
	return sizeof(*six);
}

static void keep(int fd)
{
	if (last == room)
		all = realloc(all, (room = 2 * room + 64) * sizeof(*all));
	all[last++] = fd;
}

static void start_listening(const char *text, int port, int backlog)
{
	struct sockaddr_storage address;
	socklen_t length = parse(text, port, &address);
	int on = 1;
	listener = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(listener, (void *)&address, length) || listen(listener, backlog))
		die("listen");
}

static long accept_some(long count)
{
	for (long i = 0; i < count; i++) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			die("accept");
		keep(fd);
	}
	return count;
}

static void begin(const char *text, int port, long count)
{
	struct sockaddr_storage address;
	socklen_t length = parse(text, port, &address);
	for (long i = 0; i < count; i++) {
		int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (fd < 0)
			die("socket");
		if (!connect(fd, (void *)&address, length) || errno == EINPROGRESS)
			keep(fd);
		else
			close(fd);
	}
}

// Waits for what has begun; what has failed is closed.
static long finish(long from)
{
	long good = from;
	for (long i = from; i < last; i++) {
		struct pollfd event = { all[i], POLLOUT, 0 };
		int error = 0;
		socklen_t length = sizeof(error);
		while (poll(&event, 1, -1) < 0)
			;
		if (getsockopt(all[i], SOL_SOCKET, SO_ERROR, &error, &length))
			die("getsockopt");
		fcntl(all[i], F_SETFL, 0);
		if (error)
			close(all[i]);
		else
			all[good++] = all[i];
	}
	last = good;
	return good - from;
}

static long attempt(const char *text, int port, long count)
{
	struct sockaddr_storage address;
	socklen_t length = parse(text, port, &address);
	long good = 0;
	for (long i = 0; i < count; i++) {
		int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		good += !connect(fd, (void *)&address, length);
		close(fd);
	}
	return good;
}

static void cycle(const char *text, int port, long count)
{
	struct sockaddr_storage address;
	socklen_t length = parse(text, port, &address);
	for (long i = 0; i < count; i++) {
		int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		struct linger none = { 1, 0 };
		if (connect(fd, (void *)&address, length))
			die("connect");
		// Every other one with RST, which leaves no TIME_WAIT behind.
		if (i & 1)
			setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
		close(fd);
	}
}

static void serve(long count)
{
	for (long i = 0; i < count; i++) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			die("accept");
		close(fd);
	}
}

// All connections at once: the other side may serve them in another order.
static void transfer(long bytes, int sends)
{
	static char buffer[65536];
	long count = last - first, open = bytes > 0 ? count : 0;
	struct pollfd *events = calloc(count, sizeof(*events));
	long *left = calloc(count, sizeof(*left));
	for (long i = 0; i < count; i++) {
		events[i] = (struct pollfd){ all[first + i], sends ? POLLOUT : POLLIN, 0 };
		left[i] = bytes;
	}
	while (open > 0) {
		poll(events, count, -1);
		for (long i = 0; i < count; i++) {
			if (events[i].fd < 0 || !events[i].revents)
				continue;
			size_t size = left[i] < (long)sizeof(buffer) ? left[i] : (long)sizeof(buffer);
			ssize_t done = sends ? send(events[i].fd, buffer, size, MSG_NOSIGNAL | MSG_DONTWAIT) :
					       recv(events[i].fd, buffer, size, MSG_DONTWAIT);
			if (done < 0 && errno == EAGAIN)
				continue;
			if (done <= 0)
				die(sends ? "send" : "receive");
			left[i] -= done;
			if (left[i] == 0) {
				events[i].fd = -1;
				open--;
			}
		}
	}
	free(events);
	free(left);
}

static long end(long count, int resets)
{
	struct linger none = { 1, 0 };
	long done = 0;
	for (; done < count && first < last; done++, first++) {
		if (resets)
			setsockopt(all[first], SOL_SOCKET, SO_LINGER, &none, sizeof(none));
		close(all[first]);
	}
	return done;
}

int main(int argc, char **argv)
{
	struct rlimit files = { 1 << 20, 1 << 20 };
	char line[256], word[16], address[64];
	long number, port;
	if (argc != 2) {
		fprintf(stderr, "usage: tcp CGROUP_DIR\n");
		return 2;
	}
	setrlimit(RLIMIT_NOFILE, &files);
	enter(argv[1]);
	while (fgets(line, sizeof(line), stdin)) {
		long answer = 0, from = last;
		int fields = sscanf(line, "%15s", word);
		if (fields == 1 && sscanf(line, "%*s %63s %ld %ld", address, &port, &number) == 3) {
			if (!strcmp(word, "listen"))
				start_listening(address, port, number);
			else if (!strcmp(word, "cycle"))
				cycle(address, port, number);
			else if (!strcmp(word, "attempt"))
				answer = attempt(address, port, number);
			else
				begin(address, port, number);
			if (!strcmp(word, "connect"))
				answer = finish(from);
		} else {
			if (sscanf(line, "%*s %ld", &number) != 1)
				number = 0;
			if (!strcmp(word, "accept"))
				answer = accept_some(number);
			else if (!strcmp(word, "serve"))
				serve(number);
			else if (!strcmp(word, "close") || !strcmp(word, "reset"))
				answer = end(number, word[0] == 'r');
			else if (!strcmp(word, "shutdown"))
				for (long i = first; i < last; i++, answer++)
					shutdown(all[i], SHUT_WR);
			else
				transfer(number, word[0] == 's');
		}
		printf("%ld\n", answer);
		fflush(stdout);
	}
}
