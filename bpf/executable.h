/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The ABI of lib/executables.bpf.h. */
#pragma once

/* Values of the constant `owners_by`: what stands for a workload, the first two as in `hierarchy`. */
#define OWNERS_UNIFIED 0
#define OWNERS_MEMORY 1
#define OWNERS_EXECUTABLES 2

/* Set in the id of an executable, and in no cgroup's. */
#define EXECUTABLE (1ULL << 63)

/* What an id stands for. */
struct executable {
	unsigned long long cgroup;
	unsigned long long comm[2]; /* of the first thread of its processes, zero-filled */
};
