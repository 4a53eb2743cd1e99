/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The ABI of file_io.bpf.c. */
#pragma once

/* What a call does: `amount.kind`. */
#define FILE_READ 1
#define FILE_WRITE 2
#define FILE_SYNC 3
#define FILE_COPY 4 /* from one descriptor to another */
#define FILE_OPEN 5

struct amount {
	u64 cgroup;
	u32 magic; /* of the superblock; 0: of any */
	u32 kind;
};

/* What did not go where it belongs, per CPU. */
struct loss {
	u64 read;    /* bytes counted here: `file_amounts` was full */
	u64 written; /* the same */
	u64 opens;   /* the same */
	u64 amounts; /* calls with an amount that was counted here */
	u64 busy;    /* calls not timed: no room for their start */
	u64 stale;   /* starts without an end, overwritten or thrown away */
	u64 far;     /* descriptors that FIND_NEAR could not look up */
};
