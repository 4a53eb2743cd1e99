/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Which of many operations are timed: all, none, or one in so many. */
#pragma once
#include "kernel.h"
#include "../sample.h"
#include "cost.bpf.h"
#include "maps.bpf.h"

const volatile u32 timing = TIME_NONE;
const volatile u32 sample_span = 31; /* one operation in N: 2 N - 1 */

/* The operations to let pass before the next sample. */
MAP(PERCPU_ARRAY, gaps, u32, u32, 1, 0);

/*
 * Lets a random number of operations pass between samples, 0 to 2 N - 2: one in N on
 * average, in step with nothing, and mostly without asking for a random number.
 */
static __always_inline bool is_sampled_by(u32 span)
{
	u32 zero = 0;
	u32 *gap = bpf_map_lookup_elem(&gaps, &zero);

	if (!gap)
		return false;
	if (*gap) {
		*gap -= 1;
		return false;
	}
	*gap = ((u64)bpf_get_prandom_u32() * span) >> 32;
	return true;
}

static __always_inline bool is_sampled(void)
{
	return is_sampled_by(sample_span);
}

/* Whether an operation is timed, of those that may be. */
static __always_inline bool is_timed(void)
{
	u32 every = timed_every();

	if (every == 1)
		return timing == TIME_EVERY || is_sampled();
	return every && is_sampled_by((sample_span + 1) * every - 1);
}
