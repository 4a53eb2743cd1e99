/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The ABI of cgroup.bpf.c. */
#pragma once

#define CHANGE_MADE 1
#define CHANGE_REMOVED 2

#define PATH_MAX_BYTES 512

/* In the ring a change ends with its path's last byte; `length` is 0 where the path is not known. */
struct change {
	u64 time; /* nanoseconds of the monotonic clock */
	u64 id;
	u64 parent; /* 0: none */
	u16 length; /* of the path, without a NUL */
	u8 kind;
	u8 truncated; /* the path was longer */
	u32 padding;
	char path[PATH_MAX_BYTES];
};
