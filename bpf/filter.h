/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The ABI of lib/filter.bpf.h. */
#pragma once

/* Rules of `comms` and values of the constant `comm_filter`. */
#define COMM_INCLUDE 1
#define COMM_EXCLUDE 2

/* A slot of `comms`; the names are spread so that no two share one. */
struct comm_rule {
	unsigned long long comm[2];
	unsigned long long rule; /* 0: free */
};

/* Values of `cgroup_rules`. A cgroup without one is counted; user space decides what of that is shown. */
#define CGROUP_ALLOW 1 /* counted, as those below it */
#define CGROUP_DENY 2  /* not counted, nor those below it */
#define CGROUP_SKIP 3  /* not counted; says nothing of those below it */
