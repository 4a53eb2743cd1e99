/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What programs cost, and how far they go, where their collector has a budget.
 * One run in some 1,000 reads the clock at its beginning and at its end. Without
 * a budget the verifier leaves nothing of all this in the programs.
 */
#pragma once
#include "kernel.h"
#include "../cost.h"
#include "maps.bpf.h"

const volatile u32 governed = 0;

#define COST_SPAN 2047             /* one run in 1,024 */
#define COST_INTERRUPTED (1 << 16) /* ns: what takes longer was interrupted, or its CPU was taken away */

/* 32 B for each CPU, and 16 B. */
MAP(PERCPU_ARRAY, costs, u32, struct cost, 1, 0);
MAP(ARRAY, stages, u32, struct stage, 1, 0);

/* Begins a run; gives what cost_end() is to be given. */
static __always_inline u64 cost_begin(void)
{
	struct cost *cost;
	u32 zero = 0;

	if (!governed)
		return 0;
	cost = bpf_map_lookup_elem(&costs, &zero);
	if (!cost)
		return 0;
	cost->runs += 1;
	if (cost->runs <= cost->next)
		return 0;
	/* In step with nothing: programs of a pair alternate. */
	cost->next = cost->runs + (((u64)bpf_get_prandom_u32() * COST_SPAN) >> 32);
	return bpf_ktime_get_ns();
}

static __always_inline void cost_end(u64 begun)
{
	struct cost *cost;
	u32 zero = 0;
	u64 took;

	if (!begun)
		return;
	took = bpf_ktime_get_ns() - begun;
	cost = bpf_map_lookup_elem(&costs, &zero);
	if (!cost || took > COST_INTERRUPTED)
		return;
	cost->samples += 1;
	cost->time += took;
}

/* Runs a statement, measured. */
#define MEASURED(run)                      \
	do {                               \
		u64 begun_ = cost_begin(); \
		run;                       \
		cost_end(begun_);          \
	} while (0)

/* Of what would be timed one in so many is; 0: nothing. */
static __always_inline u32 timed_every(void)
{
	struct stage *stage;
	u32 zero = 0;

	if (!governed)
		return 1;
	stage = bpf_map_lookup_elem(&stages, &zero);
	return stage ? stage->every : 0;
}

/* What something counts for that began to be timed at a moment. */
static __always_inline u32 timed_weight(u64 start)
{
	struct stage *stage;
	u32 zero = 0;

	if (!governed)
		return 1;
	stage = bpf_map_lookup_elem(&stages, &zero);
	if (!stage)
		return 0;
	return start < stage->since ? stage->before : stage->every;
}
