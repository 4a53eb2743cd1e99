/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Exponential histograms at scale 0: slot i holds (2^(i-1), 2^i], which is a
 * Prometheus native bucket index and an OTLP bucket index plus one. Zero is
 * counted apart; values outside HIST_FIRST..HIST_LAST go to the outermost slot.
 */
#pragma once
#include "kernel.h"
#include "../hist.h"

static __always_inline u32 log2_floor(u64 v)
{
	u32 log = 0, word, step;

	step = (v > 0xffffffffULL) << 5;
	word = v >> step;
	log |= step;
	step = (word > 0xffff) << 4;
	word >>= step;
	log |= step;
	step = (word > 0xff) << 3;
	word >>= step;
	log |= step;
	step = (word > 0xf) << 2;
	word >>= step;
	log |= step;
	step = (word > 0x3) << 1;
	word >>= step;
	log |= step;
	return log | (word >> 1);
}

/* The least i with v <= 2^i. */
static __always_inline u32 hist_slot(u64 v)
{
	return v <= 1 ? 0 : log2_floor(v - 1) + 1;
}

static __always_inline void hist_add(struct hist *hist, u64 v)
{
	u32 slot;

	hist->sum += v;
	if (v == 0) {
		hist->zero += 1;
		return;
	}
	slot = hist_slot(v);
	slot = slot < HIST_FIRST ? 0 : slot - HIST_FIRST;
	if (slot >= HIST_SLOTS)
		slot = HIST_SLOTS - 1;
	hist->slots[slot] += 1;
}
