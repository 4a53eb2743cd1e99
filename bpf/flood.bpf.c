// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * What the bench and the overload test send: FLOOD exits for each getppid of one
 * process, which is as fast as a CPU can fill a ring.
 */
#include "lib/kernel.h"
#include "lib/ring.bpf.h"
#include "lib/task.bpf.h"
#include "process.h"

#define FLOOD 64

const volatile u32 flooder = 0; /* the process */
const volatile u32 trigger = 0; /* the number of getppid */
const volatile u64 cgroup = 0;  /* whose events they are said to be */

EVENTS(floods, 256 * 1024);

SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit, struct pt_regs *regs, long ret)
{
	struct exit_event event = {};

	if (bpf_get_current_pid_tgid() >> 32 != flooder || syscall_number(regs) != trigger)
		return 0;
	event.head.kind = EVENT_EXIT;
	event.head.pid = flooder;
	event.head.cgroup = cgroup;
	bpf_get_current_comm(event.head.comm, sizeof(event.head.comm));
	for (u32 number = 0; number < FLOOD; number++) {
		event.head.time = bpf_ktime_get_ns();
		event.started = event.head.time;
		emit(ctx, &floods, &event, sizeof(event));
	}
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
