/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The ABI of lib/starts.bpf.h. */
#pragma once

struct start {
	u32 pid; /* 0: free */
	u32 nr;
	u64 time;
};
