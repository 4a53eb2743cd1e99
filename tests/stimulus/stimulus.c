// SPDX-License-Identifier: Apache-2.0
// Moves into a cgroup, makes an exact number of system calls there, and prints what it did as one JSON object.
//
//   stimulus CGROUP_DIR ACTION=N[:M]...
//
// The move itself, printing and exiting make calls of their own (write, exit_group): tests look at others only.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include "enter.h"

static const char *program;
static const char *cgroup;

static long long now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void getppids(long count)
{
	for (long i = 0; i < count; i++)
		syscall(SYS_getppid);
}

// A call that hardly any other program makes.
static void rare_calls(long count)
{
	struct timespec interval;
	for (long i = 0; i < count; i++)
		syscall(SYS_sched_rr_get_interval, 0, &interval);
}

static void missing_files(long count)
{
	for (long i = 0; i < count; i++)
		if (syscall(SYS_openat, AT_FDCWD, "/no/such/file", O_RDONLY) != -1 || errno != ENOENT)
			die("openat");
}

// Connects to a port of its own that is bound, but does not listen.
static void refused_connects(long count)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(address);
	int bound = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(bound, (struct sockaddr *)&address, length) || getsockname(bound, (struct sockaddr *)&address, &length))
		die("bind");
	for (long i = 0; i < count; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		if (connect(fd, (struct sockaddr *)&address, length) != -1 || errno != ECONNREFUSED)
			die("connect");
		close(fd);
	}
	close(bound);
}

// The clock is read right before and after each call, so the sum is never less than what the kernel measures.
static long long timed_sleep(long nanoseconds)
{
	struct timespec length = { nanoseconds / 1000000000, nanoseconds % 1000000000 };
	long long begin = now();
	if (syscall(SYS_nanosleep, &length, NULL) != 0)
		die("nanosleep");
	return now() - begin;
}

static long long sleeps(long count, long nanoseconds)
{
	long long sum = 0;
	for (long i = 0; i < count; i++)
		sum += timed_sleep(nanoseconds);
	return sum;
}

// Sleeps of 20 us to 20 ms, evenly over the logarithm, in an order that is always the same.
static void mixed_sleeps(long count)
{
	unsigned long long seed = 88172645463325252ULL;
	printf(",\"samples\":[");
	for (long i = 0; i < count; i++) {
		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		long nanoseconds = 20000L << (seed % 10);
		nanoseconds += nanoseconds / 1000 * ((seed >> 20) % 1000);
		printf("%s%lld", i ? "," : "", timed_sleep(nanoseconds));
	}
	printf("]");
}

// To the discard port of this machine, where nobody need listen.
static void datagrams(long count)
{
	struct sockaddr_in discard = { .sin_family = AF_INET, .sin_port = htons(9) };
	discard.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	for (long i = 0; i < count; i++) {
		int fd = socket(AF_INET, SOCK_DGRAM, 0);
		if (fd < 0 || sendto(fd, "", 1, 0, (struct sockaddr *)&discard, sizeof(discard)) != 1)
			die("sendto");
		close(fd);
	}
}

static void forks(long count)
{
	for (long i = 0; i < count; i++) {
#ifdef SYS_fork
		long pid = syscall(SYS_fork);
#else
		long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
#endif
		if (pid == 0)
			_exit(0);
		if (pid < 0 || waitpid(pid, NULL, 0) != pid)
			die("fork");
	}
}

// Children, one after another, that make so many calls each.
static void children(long count, long calls)
{
	for (long i = 0; i < count; i++) {
		pid_t pid = fork();
		if (pid == 0) {
			getppids(calls);
			_exit(0);
		}
		if (pid < 0 || waitpid(pid, NULL, 0) != pid)
			die("fork");
	}
}

static void vforks(long count)
{
	for (long i = 0; i < count; i++) {
		pid_t pid = vfork();
		if (pid == 0)
			_exit(0);
		if (pid < 0 || waitpid(pid, NULL, 0) != pid)
			die("vfork");
	}
}

static void *nothing(void *argument)
{
	return argument;
}

static void threads(long count)
{
	for (long i = 0; i < count; i++) {
		pthread_t thread;
		if (pthread_create(&thread, NULL, nothing, NULL) || pthread_join(thread, NULL))
			die("pthread_create");
	}
}

static pthread_barrier_t barrier;

struct worker {
	long calls;
	int cpu;
};

static void *worker(void *argument)
{
	struct worker *self = argument;
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(self->cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
	pthread_barrier_wait(&barrier);
	getppids(self->calls);
	return NULL;
}

static void parallel(long workers, long calls)
{
	pthread_t all[256];
	struct worker arguments[256];
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	if (workers > 256)
		workers = 256;
	pthread_barrier_init(&barrier, NULL, workers);
	for (long i = 0; i < workers; i++) {
		arguments[i] = (struct worker){ calls, i % cpus };
		if (pthread_create(&all[i], NULL, worker, &arguments[i]))
			die("pthread_create");
	}
	for (long i = 0; i < workers; i++)
		pthread_join(all[i], NULL);
}

static volatile long handled;

static void handle(int signal)
{
	(void)signal;
	handled++;
}

static void signals(long count)
{
	struct sigaction action = { .sa_handler = handle };
	sigaction(SIGUSR1, &action, NULL);
	for (long i = 0; i < count; i++)
		kill(getpid(), SIGUSR1);
	if (handled != count)
		die("signals");
}

// Each cgroup lives only as long as its one task, and is removed while that task still exits.
static void churn(long cgroups, long calls)
{
	for (long i = 0; i < cgroups; i++) {
		char path[4096], byte = 0;
		int pipes[2];
		snprintf(path, sizeof(path), "%s/churn-%ld", cgroup, i);
		if (mkdir(path, 0755) || pipe(pipes))
			die(path);
		pid_t pid = fork();
		if (pid == 0) {
			enter(path);
			if (write(pipes[1], &byte, 1) != 1)
				_exit(1);
			getppids(calls);
			rare_calls(calls);
			_exit(0);
		}
		if (pid < 0)
			die("fork");
		close(pipes[1]);
		if (read(pipes[0], &byte, 1) != 1)
			die("a child of churn");
		close(pipes[0]);
		long long begin = now();
		while (rmdir(path) && now() - begin < 10000000000LL)
			;
		if (!access(path, F_OK))
			die("cannot remove a cgroup");
		int status;
		if (waitpid(pid, &status, 0) != pid || status)
			die("a child of churn failed");
	}
}

// Writes to so many fresh pages, which stay.
static void resident_pages(long count)
{
	long size = sysconf(_SC_PAGESIZE);
	char *pages = mmap(NULL, count * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (pages == MAP_FAILED || madvise(pages, count * size, MADV_NOHUGEPAGE))
		die("mmap");
	for (long i = 0; i < count; i++)
		pages[i * size] = 1;
}

// Says that all before is done, and waits to be killed.
static void hold(void)
{
	printf("}\n");
	fflush(stdout);
	for (;;)
		pause();
}

// So many processes that only spin on one CPU; they wait to be killed with the last of them.
static void spinners(long count)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(0, &set);
	sched_setaffinity(0, sizeof(set), &set);
	for (long i = 1; i < count; i++) {
		pid_t parent = getpid();
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			if (getppid() != parent)
				_exit(0);
			break;
		}
	}
	for (;;)
		;
}

// Past the page cache: each write reaches a disk.
static void direct_writes(long count)
{
	static char data[4096] __attribute__((aligned(4096)));
	char path[64];
	snprintf(path, sizeof(path), "direct-%d", getpid());
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_DIRECT | O_CLOEXEC, 0600);
	if (fd < 0 || unlink(path))
		die(path);
	for (long i = 0; i < count; i++)
		if (pwrite(fd, data, sizeof(data), i * sizeof(data)) != sizeof(data))
			die("O_DIRECT");
	close(fd);
}

// Runs itself anew until nothing is left to do.
static void chain(long count)
{
	if (count <= 0)
		_exit(0);
	char left[32];
	snprintf(left, sizeof(left), "%ld", count - 1);
	execl(program, program, "--chain", left, NULL);
	die("execve");
}

// Asks this host for the addresses of the root; whether anybody answers does not matter.
static void dns_queries(long count)
{
	static const char query[] = "\0\1\1\0\0\1\0\0\0\0\0\0" "\0" "\0\1\0\1";
	struct sockaddr_in host = { .sin_family = AF_INET, .sin_port = htons(53), .sin_addr = { htonl(INADDR_LOOPBACK) } };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	while (count-- > 0)
		sendto(fd, query, sizeof(query) - 1, 0, (struct sockaddr *)&host, sizeof(host));
	close(fd);
}

int main(int argc, char **argv)
{
	program = "/proc/self/exe";
	if (argc == 3 && !strcmp(argv[1], "--chain"))
		chain(atol(argv[2]));
	if (argc < 2) {
		fprintf(stderr, "usage: stimulus CGROUP_DIR ACTION=N[:M]...\n");
		return 2;
	}
	cgroup = argv[1];
	enter(cgroup);
	long execs = 0;
	const char *file = NULL;
	printf("{\"pid\":%d", getpid());
	for (int i = 2; i < argc; i++) {
		char *value = strchr(argv[i], '=');
		if (!value) {
			fprintf(stderr, "stimulus: no value: %s\n", argv[i]);
			return 2;
		}
		*value++ = 0;
		char *second = strchr(value, ':');
		long n = atol(value), m = second ? atol(second + 1) : 0;
		const char *action = argv[i];
		if (!strcmp(action, "getppid"))
			getppids(n);
		else if (!strcmp(action, "dns_query"))
			dns_queries(n);
		else if (!strcmp(action, "sched_rr_get_interval"))
			rare_calls(n);
		else if (!strcmp(action, "openat_enoent"))
			missing_files(n);
		else if (!strcmp(action, "tcp_refused"))
			refused_connects(n);
		else if (!strcmp(action, "nanosleep"))
			printf(",\"nanosleep_ns\":%lld", sleeps(n, m));
		else if (!strcmp(action, "mixed_sleeps"))
			mixed_sleeps(n);
		else if (!strcmp(action, "datagrams"))
			datagrams(n);
		else if (!strcmp(action, "fork"))
			forks(n);
		else if (!strcmp(action, "children"))
			children(n, m);
		else if (!strcmp(action, "vfork"))
			vforks(n);
		else if (!strcmp(action, "threads"))
			threads(n);
		else if (!strcmp(action, "parallel"))
			parallel(n, m);
		else if (!strcmp(action, "signals"))
			signals(n);
		else if (!strcmp(action, "churn"))
			churn(n, m);
		else if (!strcmp(action, "resident_pages"))
			resident_pages(n);
		else if (!strcmp(action, "hold"))
			hold();
		else if (!strcmp(action, "spinners"))
			spinners(n);
		else if (!strcmp(action, "enter"))
			enter(value);
		else if (!strcmp(action, "chdir")) {
			if (chdir(value))
				die(value);
		} else if (!strcmp(action, "direct_writes"))
			direct_writes(n);
		else if (!strcmp(action, "exec"))
			execs = n;
		else if (!strcmp(action, "exec_file"))
			file = value;
		else {
			fprintf(stderr, "stimulus: no such action: %s\n", action);
			return 2;
		}
		if (strcmp(action, "exec_file") && strcmp(action, "chdir"))
			printf(",\"%s\":%ld", action, n);
	}
	printf("}\n");
	fflush(stdout);
	if (file) {
		execl(file, file, NULL);
		die(file);
	}
	chain(execs);
}
