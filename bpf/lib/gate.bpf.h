/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * How several collectors share a hook: one program sits on it and hands over to
 * the first of them, and each to the next. The jump costs no time that can be
 * measured, a second program on the hook as much as the first.
 */
#pragma once
#include "kernel.h"

/* Who comes next on a hook: `next_` and the hook's name. */
#define NEXT(name)                                     \
	struct {                                       \
		__uint(type, BPF_MAP_TYPE_PROG_ARRAY); \
		__uint(max_entries, 1);                \
		__type(key, u32);                      \
		__type(value, u32);                    \
	} name SEC(".maps")

/* Does not come back where somebody is next. Takes what the program was given, `ctx`. */
#define HAND_OVER(next) bpf_tail_call(ctx, &next, 0)
