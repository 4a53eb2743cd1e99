/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The ABI of lib/account.bpf.h, apart from the struct work of each of its users. */
#pragma once

/* What was not accounted for, per CPU. */
struct loss {
	struct work work; /* done by cgroups that the map has no room for */
	u64 works;        /* how many times something was added to that */
};
