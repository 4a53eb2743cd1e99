/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The ABI of syscalls.bpf.c. */
#pragma once

#define NR_UNKNOWN 0xfffffffeU /* beyond any table */
#define NR_ALL 0xffffffffU     /* all calls that are not timed apart */
#define NR_LIMIT 1024          /* numbers from here on are unknown */

/* Bits of a cell of `listed`, which is indexed by abi * NR_LIMIT + nr. */
#define LISTED_COUNT 1
#define LISTED_TIME 2

struct call {
	u64 cgroup;
	u32 nr;
	u32 abi;
};

struct failure {
	u64 cgroup;
	u32 nr;
	u16 abi;
	u16 number; /* errno */
};

/* What did not go where it belongs, per CPU. */
struct loss {
	u64 calls;  /* counted here: `calls` was full */
	u64 errors; /* counted here: `errors` was full */
	u64 busy;   /* calls not timed: no room for their start */
	u64 stale;  /* starts without an end, overwritten or thrown away */
};
