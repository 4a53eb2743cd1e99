// SPDX-License-Identifier: Apache-2.0
// Moves into cgroups, does an exact amount of file I/O in a directory, and prints the amounts as one JSON object.
//
//   files DIRECTORY ACTION=N CGROUP_DIR...
#define _GNU_SOURCE
#include <linux/openat2.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include "enter.h"

// What was done to regular files: bytes, and calls that are timed.
static long long read_bytes, write_bytes, opens, reads, writes, fsyncs, copies;

static char data[8192] __attribute__((aligned(4096)));

static long must(long result, const char *what)
{
	if (result < 0)
		die(what);
	return result;
}

static void expect(long result, long expected, const char *what)
{
	if (must(result, what) != expected) {
		fprintf(stderr, "files: %s: %ld instead of %ld\n", what, result, expected);
		_exit(1);
	}
}

static int opened(long fd, const char *what)
{
	opens++;
	return must(fd, what);
}

static void did_read(long result, long expected, const char *what)
{
	expect(result, expected, what);
	read_bytes += expected;
	reads++;
}

static void did_write(long result, long expected, const char *what)
{
	expect(result, expected, what);
	write_bytes += expected;
	writes++;
}

static int open_at(const char *name, int flags)
{
	return opened(syscall(SYS_openat, AT_FDCWD, name, flags, 0644), "openat");
}

static void write_all_ways(int fd, long i)
{
	struct iovec two[2] = { { data, 100 + i % 7 }, { data + 1000, 50 } };
	long both = two[0].iov_len + two[1].iov_len;

	did_write(syscall(SYS_write, fd, data, 1000 + i), 1000 + i, "write");
	did_write(syscall(SYS_pwrite64, fd, data, 501, 4096L), 501, "pwrite64");
	did_write(syscall(SYS_writev, fd, two, 2), both, "writev");
	did_write(syscall(SYS_pwritev, fd, two, 2, 10000L, 0L), both, "pwritev");
	did_write(syscall(SYS_pwritev2, fd, two, 2, 11000L, 0L, 0), both, "pwritev2");
	did_write(syscall(SYS_write, fd, data, 0), 0, "write of nothing");
}

static void read_all_ways(int fd, long i)
{
	struct iovec two[2] = { { data, 10 + i % 7 }, { data + 1000, 5 } };
	long both = two[0].iov_len + two[1].iov_len;

	must(lseek(fd, 0, SEEK_SET), "lseek");
	did_read(syscall(SYS_read, fd, data, 777 + i), 777 + i, "read");
	did_read(syscall(SYS_pread64, fd, data, 33, 12L), 33, "pread64");
	did_read(syscall(SYS_readv, fd, two, 2), both, "readv");
	did_read(syscall(SYS_preadv, fd, two, 2, 20L, 0L), both, "preadv");
	did_read(syscall(SYS_preadv2, fd, two, 2, 30L, 0L, 0), both, "preadv2");
	did_read(syscall(SYS_pread64, fd, data, 100, 1L << 30), 0, "read at the end");
	/* It fails, in its time, on a file all the same. */
	if (syscall(SYS_pread64, fd, data, 100, -5L) != -1)
		die("pread64 before the beginning");
	reads++;
}

static void copy_all_ways(int from, int to)
{
	long long in = 0, out = 0;
	int pipes[2];

	must(pipe(pipes), "pipe");
	must(ftruncate(to, 0), "ftruncate");
	must(lseek(from, 0, SEEK_SET), "lseek");
	must(lseek(to, 0, SEEK_SET), "lseek");
	expect(syscall(SYS_sendfile, to, from, NULL, 600), 600, "sendfile");
	expect(syscall(SYS_copy_file_range, from, &in, to, &out, 500, 0), 500, "copy_file_range");
	read_bytes += 1100;
	write_bytes += 1100;
	expect(syscall(SYS_splice, from, NULL, pipes[1], NULL, 300, 0), 300, "splice from a file");
	read_bytes += 300;
	expect(syscall(SYS_splice, pipes[0], NULL, to, NULL, 300, 0), 300, "splice to a file");
	write_bytes += 300;
	expect(syscall(SYS_sendfile, pipes[1], from, NULL, 200), 200, "sendfile to a pipe");
	read_bytes += 200;
	copies += 5;
	close(pipes[0]);
	close(pipes[1]);
}

static void open_all_ways(void)
{
	struct open_how how = { .flags = O_RDONLY };

	close(opened(syscall(SYS_openat2, AT_FDCWD, "one", &how, sizeof(how)), "openat2"));
#ifdef SYS_open
	close(opened(syscall(SYS_open, "one", O_RDONLY), "open"));
	close(opened(syscall(SYS_creat, "three", 0644), "creat"));
#endif
	/* No files that count. */
	close(must(open(".", O_RDONLY | O_DIRECTORY), "open a directory"));
	close(must(open("/dev/null", O_RDONLY), "open /dev/null"));
	if (open("missing", O_RDONLY) != -1)
		die("open a missing file");
}

// Descriptors far beyond those that a table has room for at first.
static void far_descriptor(int fd, long i)
{
	int far = must(fcntl(fd, F_DUPFD, 1000), "fcntl");

	did_read(pread(far, data, 60 + i, 0), 60 + i, "pread64 far out");
	did_write(pwrite(far, data, 61, 0), 61, "pwrite64 far out");
	expect(fsync(far), 0, "fsync");
	expect(fdatasync(far), 0, "fdatasync");
	fsyncs += 2;
	close(far);
}

// Nothing of this is a file.
static void no_files(void)
{
	int pipes[2], sockets[2], null = must(open("/dev/null", O_RDWR), "open /dev/null");
	int zero = must(open("/dev/zero", O_RDWR), "open /dev/zero"), event = must(eventfd(0, 0), "eventfd");
	long long one = 1;

	must(pipe(pipes), "pipe");
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), "socketpair");
	expect(write(pipes[1], data, 400), 400, "write to a pipe");
	expect(read(pipes[0], data, 400), 400, "read from a pipe");
	expect(write(sockets[1], data, 400), 400, "write to a socket");
	expect(read(sockets[0], data, 400), 400, "read from a socket");
	expect(write(null, data, 4000), 4000, "write to /dev/null");
	expect(read(zero, data, 4000), 4000, "read from /dev/zero");
	expect(write(event, &one, 8), 8, "write to an eventfd");
	expect(read(event, &one, 8), 8, "read from an eventfd");
	expect(syscall(SYS_splice, pipes[0], NULL, pipes[1], NULL, 0, 0), 0, "splice between pipes");
	if (read(-1, data, 1) != -1 || read(100000, data, 1) != -1)
		die("read from nothing");
	close(event);
	close(zero);
	close(null);
	for (int i = 0; i < 2; i++) {
		close(pipes[i]);
		close(sockets[i]);
	}
}

static void everything(long count)
{
	for (long i = 0; i < count; i++) {
		int one = open_at("one", O_RDWR | O_CREAT | O_TRUNC), two = open_at("two", O_RDWR | O_CREAT | O_TRUNC);
		write_all_ways(one, i);
		read_all_ways(one, i);
		copy_all_ways(one, two);
		far_descriptor(one, i);
		open_all_ways();
		no_files();
		close(one);
		close(two);
	}
}

// One call over and over; gives the nanoseconds of CPU time of one.
static void read_loop(long count)
{
	struct timespec begin, end;
	int fd = open_at("one", O_RDWR | O_CREAT);

	did_write(write(fd, data, 4096), 4096, "write");
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
	for (long i = 0; i < count; i++)
		if (syscall(SYS_pread64, fd, data, 1, 0L) != 1)
			die("pread64");
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
	reads += count;
	read_bytes += count;
	double took = (end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec);
	printf("\"ns\":%.2f,", took / count);
}

// Past the page cache, a block at a time, on the file or device DIRECTORY.
static void direct(const char *path, long count, int flags)
{
	int fd = must(open(path, O_DIRECT | O_CLOEXEC | flags), path);

	for (long i = 0; i < count; i++) {
		long done = flags == O_RDONLY ? pread(fd, data, 4096, i * 4096) : pwrite(fd, data, 4096, i * 4096);
		expect(done, 4096, "O_DIRECT");
	}
	close(fd);
}

// Goes on in a child: a table of descriptors never shrinks, but a child's is no larger than what is open.
static void leave_table(void)
{
	int status;

	must(syscall(SYS_close_range, 3, ~0U, 0), "close_range");
	pid_t child = must(fork(), "fork");
	if (child) {
		expect(waitpid(child, &status, 0), child, "waitpid");
		_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
	}
}

int main(int argc, char **argv)
{
	struct rlimit limit = { 4096, 4096 };
	char *value = argc > 3 ? strchr(argv[2], '=') : NULL;
	if (!value) {
		fprintf(stderr, "usage: files DIRECTORY ACTION=N CGROUP_DIR...\n");
		return 2;
	}
	*value++ = 0;
	long count = atol(value);
	const char *action = argv[2];
	leave_table();
	must(setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
	for (int i = 3; i < argc; i++)
		enter(argv[i]);
	printf("{");
	if (!strcmp(action, "write_direct"))
		direct(argv[1], count, O_WRONLY);
	else if (!strcmp(action, "read_direct"))
		direct(argv[1], count, O_RDONLY);
	else {
		must(chdir(argv[1]), argv[1]);
		if (!strcmp(action, "everything"))
			everything(count);
		else if (!strcmp(action, "read_loop"))
			read_loop(count);
		else {
			fprintf(stderr, "files: no such action: %s\n", action);
			return 2;
		}
	}
	printf("\"read_bytes\":%lld,\"write_bytes\":%lld,\"opens\":%lld,", read_bytes, write_bytes, opens);
	printf("\"reads\":%lld,\"writes\":%lld,\"fsyncs\":%lld,\"copies\":%lld}\n", reads, writes, fsyncs, copies);
	return 0;
}
