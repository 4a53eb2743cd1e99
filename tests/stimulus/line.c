// SPDX-License-Identifier: Apache-2.0
// A slow and lossy link: a TUN device in each of two network namespaces, and a loop that carries packets from one to
// the other after a delay. Commands come on stdin, each answered with one line:
//
//   delay MICROSECONDS          how long packets are under way from now on
//   drop WAY KIND COUNT EVERY   of the packets of a kind (any, syn, data, udp), way 0 or 1, drop each EVERY-th, COUNT in all
//   dropped                     how many were dropped
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define PACKETS 4096

struct packet {
	long long due;
	int way;
	int length;
	unsigned char bytes[2048];
};

// Packets under way, in the order in which they arrive.
static struct packet queue[PACKETS];
static unsigned head, tail;

static int devices[2];
static long long delay;
static long dropped;

static struct {
	char kind[8];
	long count, every, seen;
} rules[2];

static void die(const char *what)
{
	fprintf(stderr, "line: %s: %s\n", what, strerror(errno));
	exit(1);
}

static long long now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int open_device(const char *namespace)
{
	struct ifreq request = { .ifr_flags = IFF_TUN | IFF_NO_PI };
	int at = open(namespace, O_RDONLY | O_CLOEXEC);
	if (at < 0 || setns(at, CLONE_NEWNET))
		die(namespace);
	close(at);
	int device = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	strcpy(request.ifr_name, "tun");
	if (device < 0 || ioctl(device, TUNSETIFF, &request))
		die("/dev/net/tun");
	return device;
}

static int is_kind(const struct packet *packet, const char *kind)
{
	const unsigned char *bytes = packet->bytes;
	int four = bytes[0] >> 4 == 4;
	int transport = four ? (bytes[0] & 15) * 4 : 40, protocol = bytes[four ? 9 : 6];
	if (!strcmp(kind, "any"))
		return 1;
	if (!strcmp(kind, "udp"))
		return protocol == 17;
	if (protocol != 6 || packet->length < transport + 20)
		return 0;
	if (!strcmp(kind, "syn"))
		return bytes[transport + 13] & 2;
	return packet->length > transport + (bytes[transport + 12] >> 4) * 4;
}

static int is_dropped(const struct packet *packet)
{
	if (!rules[packet->way].count || !is_kind(packet, rules[packet->way].kind))
		return 0;
	if (++rules[packet->way].seen % rules[packet->way].every)
		return 0;
	rules[packet->way].count--;
	dropped++;
	return 1;
}

static void take(int way)
{
	while (tail - head < PACKETS) {
		struct packet *packet = &queue[tail % PACKETS];
		packet->length = read(devices[way], packet->bytes, sizeof(packet->bytes));
		if (packet->length <= 0)
			return;
		packet->way = way;
		packet->due = now() + delay;
		if (!is_dropped(packet))
			tail++;
	}
}

static void deliver(void)
{
	while (head != tail && queue[head % PACKETS].due <= now()) {
		struct packet *packet = &queue[head++ % PACKETS];
		if (write(devices[!packet->way], packet->bytes, packet->length) != packet->length && errno != EIO)
			die("write");
	}
}

static void obey(void)
{
	char line[128], kind[8];
	long count, every;
	int way;
	int length = read(0, line, sizeof(line) - 1);
	if (length <= 0)
		exit(0);
	line[length] = 0;
	if (sscanf(line, "delay %ld", &count) == 1) {
		delay = count * 1000LL;
	} else if (sscanf(line, "drop %d %7s %ld %ld", &way, kind, &count, &every) == 4 && (way & ~1) == 0 && every > 0) {
		strcpy(rules[way].kind, kind);
		rules[way].count = count;
		rules[way].every = every;
		rules[way].seen = 0;
	} else if (strcmp(line, "dropped\n")) {
		fprintf(stderr, "line: no such command: %s", line);
		exit(2);
	}
	printf("%ld\n", dropped);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: line NETNS NETNS\n");
		return 2;
	}
	devices[0] = open_device(argv[1]);
	devices[1] = open_device(argv[2]);
	// What is late is to be late by the delay, not by the load of the machine; without the right to it, by both.
	sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){ .sched_priority = 1 });
	printf("0\n");
	fflush(stdout);
	for (;;) {
		short in = tail - head < PACKETS ? POLLIN : 0;
		struct pollfd events[] = { { 0, POLLIN, 0 }, { devices[0], in, 0 }, { devices[1], in, 0 } };
		long long left = head == tail ? 1000000000 : queue[head % PACKETS].due - now();
		struct timespec time = { left / 1000000000, left % 1000000000 };
		if (left > 0 && ppoll(events, 3, &time, NULL) < 0)
			die("ppoll");
		if (left > 0 && events[0].revents)
			obey();
		take(0);
		take(1);
		deliver();
	}
}
