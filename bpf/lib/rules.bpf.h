/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Which cgroups are counted. All objects share one map: user space puts its
 * descriptor in the place of each object's own before programs are loaded.
 */
#pragma once
#include "kernel.h"
#include "../filter.h"
#include "maps.bpf.h"

const volatile u32 cgroup_filter = 0;     /* whether there are rules at all */
const volatile u32 cgroup_cache_mask = 0; /* slots of cgroup_cache - 1 */

/* Ids of the primary hierarchy. The shared map takes 72 B an entry; the one that it replaces next to nothing. */
MAP(HASH, cgroup_rules, u64, u32, 1, 0);
/*
 * Rules found lately, as id << 2 | rule, since an array's look-up is inlined;
 * the shared one takes 32 KiB. Whoever changes a rule empties its slot.
 */
MAP(ARRAY, cgroup_cache, u32, u64, 1, 0);

static __always_inline bool is_denied(u64 cgroup)
{
	u32 slot = cgroup & cgroup_cache_mask, *found, rule;
	u64 *cached = bpf_map_lookup_elem(&cgroup_cache, &slot), entry;

	if (cached) {
		entry = *(volatile u64 *)cached;
		if (entry >> 2 == cgroup)
			return (entry & 3) != CGROUP_ALLOW;
	}
	found = bpf_map_lookup_elem(&cgroup_rules, &cgroup);
	if (!found)
		return false;
	rule = *found;
	if (cached)
		*(volatile u64 *)cached = cgroup << 2 | rule;
	return rule != CGROUP_ALLOW;
}

/* A new cgroup is treated as the one above it before it has its first task. */
static __always_inline void inherit_rule(u64 cgroup, u64 parent)
{
	u32 *above = bpf_map_lookup_elem(&cgroup_rules, &parent);
	u32 rule;

	if (!above || *above == CGROUP_SKIP)
		return;
	rule = *above;
	/* A full map is no loss: what is counted in vain user space leaves out. */
	bpf_map_update_elem(&cgroup_rules, &cgroup, &rule, BPF_NOEXIST);
}
