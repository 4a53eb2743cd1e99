/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The ABI of memory.bpf.c. */
#pragma once

/* What befell tasks, from the kernel's own fields. */
struct work {
	u64 minor; /* page faults */
	u64 major;
	u64 kills; /* processes that were killed for want of memory */
};
