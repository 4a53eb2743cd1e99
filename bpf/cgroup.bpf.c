// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Which cgroups come and go in the primary hierarchy, with their paths; a new
 * one is filtered as the one above it.
 * Hooks: cgroup_mkdir, cgroup_rmdir. The path needs a probe read, which stock
 * lockdown=confidentiality refuses: there the __id programs give ids alone.
 */
#include "lib/kernel.h"
#include "lib/ring.bpf.h"
#include "lib/rules.bpf.h"
#include "cgroup.h"

const volatile s32 hierarchy_id = 0; /* of the primary hierarchy, as in /proc/cgroups; 0: v2 */

/* Some 1,500 changes with paths of usual length. */
EVENTS(changes, 256 * 1024);
/* 544 B for each CPU: where a change is put together before it goes out at its real length. */
MAP(PERCPU_ARRAY, scratch, u32, struct change, 1, 0);

static __always_inline int report(void *ctx, struct cgroup *cgroup, const char *path, u8 kind)
{
	struct cgroup_subsys_state *parent;
	struct change *change;
	u32 zero = 0;
	long size = 0;

	if (cgroup->root->hierarchy_id != hierarchy_id)
		return 0;
	change = bpf_map_lookup_elem(&scratch, &zero);
	if (!change)
		return 0;
	parent = cgroup->self.parent;
	change->time = bpf_ktime_get_ns();
	change->id = cgroup->kn->id;
	change->parent = parent ? parent->cgroup->kn->id : 0;
	change->kind = kind;
	if (cgroup_filter && kind == CHANGE_MADE)
		inherit_rule(change->id, change->parent);
	else if (cgroup_filter)
		bpf_map_delete_elem(&cgroup_rules, &change->id);
	if (path)
		size = bpf_probe_read_kernel_str(change->path, sizeof(change->path), path);
	size = size > 0 ? size - 1 : 0;
	change->length = size;
	change->truncated = size == sizeof(change->path) - 1;
	size &= sizeof(change->path) - 1;
	emit(ctx, &changes, change, offsetof(struct change, path) + size);
	return 0;
}

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(cgroup_mkdir, struct cgroup *cgroup, const char *path)
{
	return report(ctx, cgroup, path, CHANGE_MADE);
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(cgroup_rmdir, struct cgroup *cgroup, const char *path)
{
	return report(ctx, cgroup, path, CHANGE_REMOVED);
}

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(cgroup_mkdir__id, struct cgroup *cgroup)
{
	return report(ctx, cgroup, NULL, CHANGE_MADE);
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(cgroup_rmdir__id, struct cgroup *cgroup)
{
	return report(ctx, cgroup, NULL, CHANGE_REMOVED);
}

char LICENSE[] SEC("license") = "GPL";
