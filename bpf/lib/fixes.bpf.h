/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What differs between kernels, fenced here: each fix names the commit.
 *
 * LEGACY builds are for kernels before 5.12, whose tracing programs have neither
 * bpf_get_current_task_btf() (3ca1032ab7ab) nor task storage (a10787e6d58c).
 * There a field of the current task is a bpf_probe_read_kernel(), which stock
 * lockdown=confidentiality refuses; elsewhere it is a verified direct load.
 */
#pragma once
#include "kernel.h"

#ifdef LEGACY
#define CURRENT() ((struct task_struct *)bpf_get_current_task())
#else
#define CURRENT() bpf_get_current_task_btf()
#endif
