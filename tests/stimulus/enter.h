// SPDX-License-Identifier: Apache-2.0
// How a program ends that cannot do what it should, and how one comes into a cgroup.
#pragma once
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
	_exit(1);
}

static void enter(const char *directory)
{
	char path[4096], pid[32];
	snprintf(path, sizeof(path), "%s/cgroup.procs", directory);
	int length = snprintf(pid, sizeof(pid), "%d", getpid());
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, pid, length) != length)
		die(path);
	close(fd);
}
