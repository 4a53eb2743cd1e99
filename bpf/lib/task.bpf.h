/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Whose work it is, and by which table its system calls are numbered. */
#pragma once
#include "kernel.h"
#include "fixes.bpf.h"

/* The primary cgroup hierarchy; ids of different hierarchies collide. */
#define HIERARCHY_UNIFIED 0
#define HIERARCHY_MEMORY 1 /* the v1 memory controller's */

const volatile u32 hierarchy = HIERARCHY_UNIFIED;

static __always_inline u64 unified_cgroup(struct task_struct *task)
{
	struct css_set *set = task->cgroups;

	return set->dfl_cgrp->kn->id;
}

/* memory_cgrp_id is absent where the controller is: such a host has no v1 memory hierarchy. */
static __always_inline u64 memory_cgroup(struct task_struct *task)
{
	struct css_set *set = task->cgroups;

	return set->subsys[bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id)]->cgroup->kn->id;
}

/*
 * The inode number of a task's directory in the primary hierarchy. The task is an
 * argument of a hook, so its fields are direct loads on every kernel.
 */
static __always_inline u64 cgroup_of(struct task_struct *task)
{
	return hierarchy == HIERARCHY_UNIFIED ? unified_cgroup(task) : memory_cgroup(task);
}

/* The same of the current task, by one hierarchy or the other. */
#ifdef LEGACY
#define TASK_UNIFIED(task) bpf_get_current_cgroup_id()
#define TASK_MEMORY(task) \
	BPF_CORE_READ(task, cgroups, subsys[bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id)], cgroup, kn, id)
#else
#define TASK_UNIFIED(task) unified_cgroup(task)
#define TASK_MEMORY(task) memory_cgroup(task)
#endif

static __always_inline u64 task_cgroup(struct task_struct *task)
{
	return hierarchy == HIERARCHY_UNIFIED ? TASK_UNIFIED(task) : TASK_MEMORY(task);
}

/* The same in the hooks of packets, where bpf_get_current_cgroup_id() is not to be had. */
static __always_inline u64 sender_cgroup(struct task_struct *task)
{
#ifdef LEGACY
	if (hierarchy == HIERARCHY_UNIFIED)
		return BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
#endif
	return task_cgroup(task);
}

/* The thread's id in the first pid namespace. */
static __always_inline u32 task_id(struct task_struct *task)
{
#ifdef LEGACY
	return bpf_get_current_pid_tgid();
#else
	return task->pid;
#endif
}

/* The id of the task's process in the first pid namespace. */
static __always_inline u32 process_id(struct task_struct *task)
{
#ifdef LEGACY
	return BPF_CORE_READ(task, tgid);
#else
	return task->tgid;
#endif
}

#define ABI_NATIVE 0
#define ABI_COMPAT 1 /* 32-bit: i386, arm */
#define ABI_X32 2

#if defined(__TARGET_ARCH_x86)
#define TS_COMPAT 0x2
#define USER32_CS 0x23

static __always_inline bool is_compat(struct task_struct *task, struct pt_regs *regs)
{
#ifdef LEGACY
	/* By the code segment: int 0x80 out of 64-bit code passes for a native call. */
	return (regs->cs & 0xffff) == USER32_CS;
#else
	return task->thread_info.status & TS_COMPAT;
#endif
}

static __always_inline u32 syscall_number(struct pt_regs *regs)
{
	return regs->orig_ax;
}
#elif defined(__TARGET_ARCH_arm64)
#define PSR_MODE32_BIT 0x10

static __always_inline bool is_compat(struct task_struct *task, struct pt_regs *regs)
{
	return regs->pstate & PSR_MODE32_BIT;
}

static __always_inline u32 syscall_number(struct pt_regs *regs)
{
	return regs->syscallno;
}
#endif

/*
 * Copies the name of the task's process: its group leader's comm, zero-filled,
 * since before strscpy_pad in __set_task_comm (5.17) a longer, older name's rest
 * stays behind the NUL.
 */
static __always_inline void process_comm(struct task_struct *task, u64 comm[2])
{
	const u64 low = 0x0101010101010101ULL, high = 0x8080808080808080ULL;
	u64 zeros;

#ifdef LEGACY
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);

	bpf_probe_read_kernel(comm, 16, &leader->comm);
#else
	struct task_struct *leader = task->group_leader;

	comm[0] = *(u64 *)&leader->comm[0];
	comm[1] = *(u64 *)&leader->comm[8];
#endif
	zeros = (comm[0] - low) & ~comm[0] & high;
	if (zeros) {
		/* Keeps the bytes below the lowest zero byte. */
		comm[0] &= ((zeros & -zeros) >> 7) - 1;
		comm[1] = 0;
		return;
	}
	zeros = (comm[1] - low) & ~comm[1] & high;
	if (zeros)
		comm[1] &= ((zeros & -zeros) >> 7) - 1;
}
