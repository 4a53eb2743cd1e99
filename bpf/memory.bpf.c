// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Page faults, page allocations and OOM kills per cgroup. Faults and kills are
 * the kernel's per-task fields (lib/account.bpf.h). Hooks: mm_page_alloc,
 * task_newtask, cgroup_attach_task, sched_process_exit, sched_process_free, and an
 * iterator over all tasks. Not seen: bulk allocations, and that pages are freed.
 */
#include "lib/kernel.h"
#include "memory.h"
#define WORK_MAP faults
#include "lib/account.bpf.h"
#include "lib/cost.bpf.h"

/* 112 B an entry and 8 B for each CPU, all of it at load time: making an entry must not allocate. */
MAP(PERCPU_HASH, allocations, u64, u64, 4096, 0);
/* One cell for each CPU: pages that `allocations` has no room for. */
MAP(PERCPU_ARRAY, late_pages, u32, u64, 1, 0);

static __always_inline void begin_walk(u64 number)
{
}

/* The killer leaves its mark on the process; the leader answers for it. */
static __always_inline void read_work(struct task_struct *task, struct work *work, bool walking)
{
	work->minor = task->min_flt;
	work->major = task->maj_flt;
	work->kills = task->pid == task->tgid && task->signal->oom_mm;
}

#if defined(__TARGET_ARCH_x86)
#define THREAD_SIZE 16384

/*
 * x86 has its count of interrupts where no program may read it, but handles them
 * on stacks of their own: in a task's context this program's own stack, which must
 * stay below the 64 bytes from which on it may be elsewhere, is within the task's.
 */
static __always_inline bool in_interrupt(struct task_struct *task)
{
	u64 stack, here;

	asm volatile("%0 = r10" : "=r"(here));
#ifdef LEGACY
	stack = (u64)BPF_CORE_READ(task, stack);
#else
	stack = (u64)task->stack;
#endif
	return here < stack || here > stack + THREAD_SIZE;
}
#elif defined(__TARGET_ARCH_arm64)
#define INTERRUPT_MASK 0xff0100 /* serving a soft interrupt, or in a hard or non-maskable one */

static __always_inline bool in_interrupt(struct task_struct *task)
{
#ifdef LEGACY
	return BPF_CORE_READ(task, thread_info.preempt_count) & INTERRUPT_MASK;
#else
	return task->thread_info.preempt_count & INTERRUPT_MASK;
#endif
}
#endif

SEC("tp_btf/sched_process_exit")
int BPF_PROG(sched_process_exit, struct task_struct *task)
{
	settle_now(task);
	return 0;
}

static __always_inline void allocated(struct page *page, u32 order)
{
	struct task_struct *task = CURRENT();
	u64 cgroup = 0, pages = 1ULL << (order & 63);
	u32 low = (u32)(u64)page, zero = 0;
	u64 *cell;

	/* Half of the pointer: the verifier may hold a whole one to be never NULL, and drop the test. */
	asm volatile("%0 = %0" : "+w"(low));
	if (!low)
		return;
	if (!in_interrupt(task)) {
		if (is_filtered(task))
			return;
		cgroup = task_owner(task);
	}
	if (add(&allocations, &cgroup, pages))
		return;
	cell = bpf_map_lookup_elem(&late_pages, &zero);
	if (cell)
		*cell += pages;
}

SEC("tp_btf/mm_page_alloc")
int BPF_PROG(mm_page_alloc, struct page *page, u32 order)
{
	MEASURED(allocated(page, order));
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
