/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The ABI of lib/executables.bpf.h. */
#pragma once

/* Values of the constant `owners_by`: what stands for a workload. */
#define OWNERS_CGROUPS 0 /* of the primary hierarchy */
#define OWNERS_UNIFIED 1 /* cgroups of version 2 */
#define OWNERS_MEMORY 2  /* cgroups of the v1 memory controller */
#define OWNERS_EXECUTABLES 3

/* Set in the id of an executable, and in no cgroup's. */
#define EXECUTABLE (1ULL << 63)

/* What an id stands for. */
struct executable {
	unsigned long long cgroup;
	unsigned long long comm[2]; /* of the first thread of its processes, zero-filled */
};
