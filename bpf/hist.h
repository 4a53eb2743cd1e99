/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The ABI of a histogram of nanoseconds: 160 bytes per CPU and series. */
#pragma once

/* Slot 4 ends at 16 ns, slot 40 at 18 minutes. */
#define HIST_FIRST 4
#define HIST_SLOTS 37

struct hist {
	u64 sum;
	u32 zero;
	u32 slots[HIST_SLOTS]; /* read as wrapping differences */
};
