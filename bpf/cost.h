/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The ABI of lib/cost.bpf.h. */
#pragma once

/* Runs of an object's programs on one CPU. */
struct cost {
	u64 runs;
	u64 next;    /* the run that reads the clock next */
	u64 samples; /* runs that have read it */
	u64 time;    /* nanoseconds that these took */
};

/* How far the programs go. */
struct stage {
	u64 since;  /* of the monotonic clock */
	u32 every;  /* of what would be timed one in so many is; 0: nothing */
	u32 before; /* the same until then */
};
