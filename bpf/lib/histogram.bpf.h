/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Exponential histograms: slot i of a scale holds (base^(i-1), base^i] with
 * base = 2^(2^-scale), which is a Prometheus native bucket index and an OTLP
 * bucket index plus one. Zero is counted apart. All integers, and exact.
 */
#pragma once
#include "kernel.h"
#include "maps.bpf.h"
#include "../histogram.h"

/* A size to be replaced: each map has another, so that user space can set it by itself. */
#define HIST_ANY_SIZE (0x100000 + __COUNTER__)

/*
 * Declares the map `name` of histograms, `name`_lost for what it has no room
 * for, and the constant `name`_shape. An entry of a full map takes 112 B, and
 * 12 B + 4 B a slot for each CPU: at scale 0 to 3, from 2^4 to 2^40, that is
 * 160, 304, 592 or 1168 B. User space sets the size: Loader::histogram().
 * The kernel takes no type of a key without one of the value, hence sizes.
 */
#define HISTOGRAM_MAPS(hash, array, name, k, entries)       \
	const volatile struct hist_shape name##_shape = {}; \
	struct {                                            \
		__uint(type, hash);                         \
		__uint(max_entries, entries);               \
		__uint(map_flags, ON_DEMAND);               \
		__uint(key_size, sizeof(k));                \
		__uint(value_size, HIST_ANY_SIZE);          \
	} name SEC(".maps");                                \
	struct {                                            \
		__uint(type, array);                        \
		__uint(max_entries, 1);                     \
		__uint(key_size, sizeof(u32));              \
		__uint(value_size, HIST_ANY_SIZE);          \
	} name##_lost SEC(".maps")

#define HISTOGRAM(name, k, entries) \
	HISTOGRAM_MAPS(BPF_MAP_TYPE_PERCPU_HASH, BPF_MAP_TYPE_PERCPU_ARRAY, name, k, entries)

/*
 * The same where samples are rare: all CPUs add to one histogram, so that an
 * entry takes no more on a host with more of them. Two CPUs that add to one at
 * once take some 150 ns longer.
 */
#define SHARED_HISTOGRAM(name, k, entries) HISTOGRAM_MAPS(BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY, name, k, entries)

/* Of the values one in so many is taken, at random: for what is not sampled where it is measured. */
const volatile u32 histogram_every = 1;

/* Adds a value to the histogram of a key, once or n times. */
#define histogram_add(name, key, value) histogram_add_to(&name, &name##_lost, &name##_shape, key, value, 1, false)
#define histogram_add_n(name, key, value, n) histogram_add_to(&name, &name##_lost, &name##_shape, key, value, n, false)
#define shared_histogram_add(name, key, value) histogram_add_to(&name, &name##_lost, &name##_shape, key, value, 1, true)

static const u8 empty_histogram[12 + 4 * HIST_MOST_SLOTS] __attribute__((aligned(8)));

/*
 * Where a doubling is divided: 2^(62 + k/8), rounded down, in the order of a
 * binary search. A scale uses the first 2^scale - 1 of them.
 */
static const u64 dividers[8] = {
	0,
	0x5a827999fcef3242, /* 2^(4/8) */
	0x4c1bf828c6dc54b7, /* 2^(2/8) */
	0x6ba27e656b4eb57a, /* 2^(6/8) */
	0x45cae0f1f545eb73, /* 2^(1/8) */
	0x52ff6b54d8a89c75, /* 2^(3/8) */
	0x62b39508aa836d6e, /* 2^(5/8) */
	0x75606373ee921c97, /* 2^(7/8) */
};

static __always_inline u32 floor_log2(u64 v)
{
	u32 log, word, step;

	log = (v > 0xffffffffULL) << 5;
	word = v >> log;
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

/* The least i with v <= base^i; v is 1 to 2^62. */
static __always_inline u32 histogram_slot(u64 v, u32 scale)
{
	u32 log, node = 1;
	u64 mantissa;

	if (v <= 1)
		return 0;
	/* v lies in (2^log, 2^(log+1)]: the mantissa in (2^62, 2^63]. */
	log = floor_log2(v - 1);
	mantissa = v << ((62 - log) & 63);
	/* A divider is irrational, so above what it is rounded down to is above it. */
	if (scale > 0)
		node = 2 + (mantissa > dividers[1]);
	if (scale > 1)
		node = 2 * node + (mantissa > dividers[node & 3]);
	if (scale > 2)
		node = 2 * node + (mantissa > dividers[node & 7]);
	return (log << scale) + node - (1 << scale) + 1;
}

#define ADD(cell, n, shared)                            \
	do {                                            \
		if (shared)                             \
			__sync_fetch_and_add(&cell, n); \
		else                                    \
			cell += n;                      \
	} while (0)

static __always_inline void histogram_put(struct histogram *histogram, const volatile struct hist_shape *shape, u64 v,
					  u32 n, bool shared)
{
	u32 scale = shape->scale, first = shape->low << scale, last = shape->slots - 1, slot;

	ADD(histogram->sum, v * n, shared);
	if (v == 0) {
		ADD(histogram->zero, n, shared);
		return;
	}
	slot = histogram_slot(v < 1ULL << 62 ? v : 1ULL << 62, scale);
	slot = slot < first ? 0 : slot - first;
	if (slot > last)
		slot = last;
	ADD(histogram->slots[slot], n, shared);
}

static __always_inline void histogram_add_to(void *map, void *lost, const volatile struct hist_shape *shape,
					     const void *key, u64 v, u32 n, bool shared)
{
	struct histogram *histogram;
	u32 zero = 0;

	if (histogram_every > 1 && bpf_get_prandom_u32() % histogram_every)
		return;
	histogram = bpf_map_lookup_elem(map, key);
	if (!histogram) {
		/* Another CPU, or an interrupt of this one, may have just made it. */
		bpf_map_update_elem(map, key, empty_histogram, BPF_NOEXIST);
		histogram = bpf_map_lookup_elem(map, key);
	}
	if (!histogram)
		histogram = bpf_map_lookup_elem(lost, &zero);
	if (histogram)
		histogram_put(histogram, shape, v, n, shared);
}
