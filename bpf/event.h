/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* What the records of all events have in common. */
#pragma once

#define FAMILY_INET 2
#define FAMILY_INET6 10

/* Every record begins so. */
struct event_head {
	u64 time;   /* nanoseconds of the monotonic clock */
	u64 cgroup; /* in the primary hierarchy; 0: nobody's */
	u8 comm[16];
	u32 pid; /* the process in the first pid namespace; 0: nobody's */
	u32 kind;
};
