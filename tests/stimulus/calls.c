// SPDX-License-Identifier: Apache-2.0
// The only program of a container image: makes an exact number of a call that hardly any other program makes.
//
//   calls COUNT [now]
//
// It waits for SIGUSR1 before the calls and for another one after them, or with `now` for nothing.
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct timespec interval;
	sigset_t awaited;
	int got, waits = argc < 3;

	// The first process of a pid namespace would not get a signal that it neither handles nor blocks.
	sigemptyset(&awaited);
	sigaddset(&awaited, SIGUSR1);
	sigprocmask(SIG_BLOCK, &awaited, NULL);
	if (waits)
		sigwait(&awaited, &got);
	for (long left = argc > 1 ? atol(argv[1]) : 0; left > 0; left--)
		syscall(SYS_sched_rr_get_interval, 0, &interval);
	if (waits)
		sigwait(&awaited, &got);
	return 0;
}
