/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* System calls that leave or return in their own way, by table. */
#pragma once
#include "kernel.h"
#include "task.bpf.h"

#define X32_BIT 0x40000000

#if defined(__TARGET_ARCH_x86)
#define NATIVE_SIGRETURN 15
#define X32_SIGRETURN 513
#define NATIVE_EXIT 60
#define NATIVE_EXIT_GROUP 231
#define COMPAT_EXIT_GROUP 252
#elif defined(__TARGET_ARCH_arm64)
#define NATIVE_SIGRETURN 139
#define X32_SIGRETURN NATIVE_SIGRETURN
#define NATIVE_EXIT 93
#define NATIVE_EXIT_GROUP 94
#define COMPAT_EXIT_GROUP 248
#endif
/* The same on i386 and arm. */
#define COMPAT_SIGRETURN 119
#define COMPAT_RT_SIGRETURN 173
#define COMPAT_EXIT 1
#define CLONE3 435

static __always_inline u32 syscall_abi(struct task_struct *task, struct pt_regs *regs, u32 nr)
{
	if (is_compat(task, regs))
		return ABI_COMPAT;
#if defined(__TARGET_ARCH_x86)
	if (nr != (u32)-1 && (nr & X32_BIT))
		return ABI_X32;
#endif
	return ABI_NATIVE;
}

/* The kernel wipes the number of a signal return: it comes back as -1. */
static __always_inline u32 sigreturn(u32 abi)
{
	if (abi == ABI_COMPAT)
		return COMPAT_RT_SIGRETURN;
	return abi == ABI_X32 ? X32_SIGRETURN : NATIVE_SIGRETURN;
}

/* Calls that return twice, the second time in the child, with 0. */
static __always_inline bool is_fork(u32 abi, u32 nr)
{
	if (nr == CLONE3)
		return true;
	if (abi == ABI_COMPAT)
		return nr == 2 || nr == 120 || nr == 190;
#if defined(__TARGET_ARCH_x86)
	return nr >= 56 && nr <= 58;
#else
	return nr == 220;
#endif
}

/* Calls that never return, or return with the number wiped. */
static __always_inline bool has_no_end(u32 abi, u32 nr)
{
	if (abi == ABI_COMPAT)
		return nr == COMPAT_EXIT || nr == COMPAT_EXIT_GROUP || nr == COMPAT_SIGRETURN ||
		       nr == COMPAT_RT_SIGRETURN;
	if (abi == ABI_X32)
		nr &= ~X32_BIT;
	return nr == NATIVE_EXIT || nr == NATIVE_EXIT_GROUP || nr == NATIVE_SIGRETURN || nr == X32_SIGRETURN;
}
