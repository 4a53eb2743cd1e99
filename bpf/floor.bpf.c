// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* Nothing at all, on both sides of a system call: the least that any program can cost. */
#include "lib/kernel.h"

SEC("tp_btf/sys_enter")
int BPF_PROG(sys_enter)
{
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
