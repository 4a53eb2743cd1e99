/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Declarations of maps, and counting that loses nothing: what a full map cannot
 * hold goes whole into a cell that user space exports as the overflow series.
 */
#pragma once
#include "kernel.h"

/*
 * Entries are allocated when they are first used, so a generous limit costs only
 * its bucket array (16 B an entry). Safe in tracing programs since bpf_mem_alloc
 * (7c8199e24fa0, 6.1); older kernels get everything at load time.
 */
#ifdef LEGACY
#define ON_DEMAND 0
#else
#define ON_DEMAND BPF_F_NO_PREALLOC
#endif

#define MAP(kind, name, k, v, entries, flags)      \
	struct {                                   \
		__uint(type, BPF_MAP_TYPE_##kind); \
		__uint(max_entries, entries);      \
		__uint(map_flags, flags);          \
		__type(key, k);                    \
		__type(value, v);                  \
	} name SEC(".maps")

#define RING(name, bytes)                           \
	struct {                                    \
		__uint(type, BPF_MAP_TYPE_RINGBUF); \
		__uint(max_entries, bytes);         \
	} name SEC(".maps")

/*
 * Adds one to a per-CPU counter and says whether the map had room. The program
 * holds its CPU, so a plain addition is exact; two CPUs that make the same entry
 * at once each write only their own cell.
 */
static __always_inline bool count(void *map, const void *key)
{
	static const u64 one = 1;
	u64 *cell = bpf_map_lookup_elem(map, key);

	if (cell) {
		*cell += 1;
		return true;
	}
	return bpf_map_update_elem(map, key, &one, BPF_ANY) == 0;
}

/* The same for more than one. */
static __always_inline bool add(void *map, const void *key, u64 n)
{
	u64 *cell = bpf_map_lookup_elem(map, key);

	if (cell) {
		*cell += n;
		return true;
	}
	return bpf_map_update_elem(map, key, &n, BPF_ANY) == 0;
}

/*
 * The same where the program can be interrupted, on its own CPU, by one that
 * counts in the same cell: on the way out a packet may be sent by a task or by
 * an interrupt.
 */
static __always_inline bool count_interrupted(void *map, const void *key)
{
	static const u64 zero = 0;
	u64 *cell = bpf_map_lookup_elem(map, key);

	if (!cell) {
		bpf_map_update_elem(map, key, &zero, BPF_NOEXIST);
		cell = bpf_map_lookup_elem(map, key);
	}
	if (!cell)
		return false;
	__sync_fetch_and_add(cell, 1);
	return true;
}
