// SPDX-License-Identifier: Apache-2.0
// Moves into a cgroup and does there what the lines of its input say, each to its end, with a line of JSON as answer:
//
//   sleep N            N sleeps of 10 us
//   spin MS            computes for so many milliseconds of its own CPU time
//   pin CPU            stays on one CPU
//   children N US      N children, one after another, compute for US microseconds of CPU time each
//   pages N            touches N fresh pages, none of them huge
//   busy               begins to compute in another thread, and never ends
//   usage              the CPU time of the process
//   hog MIB            a child takes so much memory
//
// Between two lines it is blocked, so what the kernel says of it stands still.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include "enter.h"

static void spin(long long nanoseconds)
{
	struct timespec begin, now;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
	do
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	while ((now.tv_sec - begin.tv_sec) * 1000000000LL + now.tv_nsec - begin.tv_nsec < nanoseconds);
}

static void children(long count, long microseconds)
{
	struct rusage before, after;
	getrusage(RUSAGE_CHILDREN, &before);
	for (long i = 0; i < count; i++) {
		pid_t pid = fork();
		if (pid == 0) {
			spin(microseconds * 1000LL);
			_exit(0);
		}
		if (pid < 0 || waitpid(pid, NULL, 0) != pid)
			die("fork");
	}
	getrusage(RUSAGE_CHILDREN, &after);
	printf("{\"minor\":%ld,\"voluntary\":%ld,\"involuntary\":%ld}\n", after.ru_minflt - before.ru_minflt,
	       after.ru_nvcsw - before.ru_nvcsw, after.ru_nivcsw - before.ru_nivcsw);
}

static void pages(long count)
{
	struct rusage before, after;
	long size = sysconf(_SC_PAGESIZE);
	volatile char *memory = mmap(NULL, count * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED || madvise((void *)memory, count * size, MADV_NOHUGEPAGE))
		die("mmap");
	getrusage(RUSAGE_SELF, &before);
	for (long i = 0; i < count; i++)
		memory[i * size] = 1;
	getrusage(RUSAGE_SELF, &after);
	munmap((void *)memory, count * size);
	printf("{\"minor\":%ld,\"major\":%ld}\n", after.ru_minflt - before.ru_minflt, after.ru_majflt - before.ru_majflt);
}

static void hog(long mebibytes)
{
	pid_t pid = fork();
	if (pid == 0) {
		char *memory = mmap(NULL, mebibytes << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (memory != MAP_FAILED)
			memset(memory, 1, mebibytes << 20);
		_exit(0);
	}
	int status;
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		die("fork");
	printf("{\"signal\":%d}\n", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
}

static void *compute(void *argument)
{
	for (volatile unsigned long i = 0;; i++)
		;
	return argument;
}

static void busy(void)
{
	pthread_t thread;
	if (pthread_create(&thread, NULL, compute, NULL))
		die("pthread_create");
	printf("{}\n");
}

static void usage(void)
{
	struct rusage usage;
	getrusage(RUSAGE_SELF, &usage);
	long long microseconds = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000LL;
	printf("{\"ns\":%lld}\n", (microseconds + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000);
}

static void sleeps(long count)
{
	struct timespec length = { 0, 10000 };
	for (long i = 0; i < count; i++)
		nanosleep(&length, NULL);
	printf("{}\n");
}

static void pin(long cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
	printf("{}\n");
}

static void answer(const char *command, long n, long m)
{
	if (!strcmp(command, "sleep"))
		sleeps(n);
	else if (!strcmp(command, "pin"))
		pin(n);
	else if (!strcmp(command, "children"))
		children(n, m);
	else if (!strcmp(command, "pages"))
		pages(n);
	else if (!strcmp(command, "busy"))
		busy();
	else if (!strcmp(command, "usage"))
		usage();
	else if (!strcmp(command, "hog"))
		hog(n);
	else if (!strcmp(command, "spin")) {
		spin(n * 1000000LL);
		printf("{}\n");
	} else
		die(command);
}

int main(int argc, char **argv)
{
	char line[256], command[32];
	if (argc != 2) {
		fprintf(stderr, "usage: tasks CGROUP_DIR\n");
		return 2;
	}
	enter(argv[1]);
	printf("{}\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		long n = 0, m = 0;
		if (sscanf(line, "%31s %ld %ld", command, &n, &m) < 1)
			continue;
		answer(command, n, m);
		fflush(stdout);
	}
	return 0;
}
