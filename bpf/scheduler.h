/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The ABI of scheduler.bpf.c. */
#pragma once

/* What tasks did, from the kernel's own fields. */
struct work {
	u64 runtime; /* nanoseconds on a CPU */
	u64 voluntary;
	u64 involuntary;
};

#define DELAY_BITS 42 /* of a cell of `delays`: 73 minutes of waiting; the rest is the thread's id */
