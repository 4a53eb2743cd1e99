/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The ABI of block.bpf.c. */
#pragma once

#define BLOCK_READ 0
#define BLOCK_WRITE 1

struct transfer {
	u64 cgroup;      /* in the hierarchy of the I/O controller; 0: none, or its root */
	char device[32]; /* the disk's name, zero-filled */
	u32 direction;
	u32 padding;
};

/* What did not go where it belongs, per CPU. */
struct loss {
	u64 read;      /* bytes counted here: `block_bytes` was full */
	u64 written;   /* the same */
	u64 transfers; /* completions whose bytes were counted here */
	u64 untimed;   /* requests whose start the kernel did not note */
};
