/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Which of many operations are timed: all, none, or one in so many. */
#pragma once
#include "kernel.h"
#include "../sample.h"
#include "maps.bpf.h"

const volatile u32 timing = TIME_NONE;
const volatile u32 sample_span = 31; /* one operation in N: 2 N - 1 */

/* The operations to let pass before the next sample. */
MAP(PERCPU_ARRAY, gaps, u32, u32, 1, 0);

/*
 * Lets a random number of operations pass between samples, 0 to 2 N - 2: one in N on
 * average, in step with nothing, and mostly without asking for a random number.
 */
static __always_inline bool is_sampled(void)
{
	u32 zero = 0;
	u32 *gap = bpf_map_lookup_elem(&gaps, &zero);

	if (!gap)
		return false;
	if (*gap) {
		*gap -= 1;
		return false;
	}
	*gap = ((u64)bpf_get_prandom_u32() * sample_span) >> 32;
	return true;
}
