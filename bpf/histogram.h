/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The ABI of lib/histogram.bpf.h. */
#pragma once

/*
 * What a histogram holds. User space sets it before loading: the verifier knows
 * the numbers, and the maps' values are just as large.
 */
struct hist_shape {
	u32 scale; /* 2^scale slots a doubling, 0 to HIST_SCALES - 1 */
	u32 low;   /* the first slot ends at 2^low; smaller values are in it */
	u32 slots; /* the last one holds larger values too */
};

#define HIST_SCALES 4
/* From 2^4 to 2^40 at the finest scale. */
#define HIST_MOST_SLOTS ((36 << 3) + 1)

struct histogram {
	u64 sum;
	u32 zero;
	u32 slots[]; /* read as wrapping differences */
};
