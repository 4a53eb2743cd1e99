// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * No collector: what the tests and the bench of histograms measure. Tests let
 * the kernel sort numbers of theirs, the offsets of pread calls; the bench
 * times samples.
 */
#include "lib/kernel.h"
#include "lib/histogram.bpf.h"

const volatile u32 thread = 0;
const volatile u32 pread = 0; /* the number of the call */

HISTOGRAM(samples, u64, 16);
SHARED_HISTOGRAM(shared, u64, 16);

static __always_inline u64 offset(struct pt_regs *regs)
{
#if defined(__TARGET_ARCH_x86)
	return regs->r10;
#else
	return regs->regs[3];
#endif
}

SEC("tp_btf/sys_enter")
int BPF_PROG(sys_enter, struct pt_regs *regs, long id)
{
	u64 key = 0;

	if (id != pread || (u32)bpf_get_current_pid_tgid() != thread)
		return 0;
	histogram_add(samples, &key, offset(regs));
	shared_histogram_add(shared, &key, offset(regs));
	return 0;
}

/* Adds a sample to each system call: the time in nanoseconds, as good as any number. */
SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit)
{
	u64 key = 0;

	histogram_add(samples, &key, (u32)bpf_ktime_get_ns());
	return 0;
}

/* The same where all CPUs share a histogram. */
SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit__shared)
{
	u64 key = 0;

	shared_histogram_add(shared, &key, (u32)bpf_ktime_get_ns());
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
