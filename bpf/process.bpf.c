// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Events: programs that start, processes that end and how, processes that the
 * kernel killed for memory, TCP connections that open, are accepted or fail.
 * Hooks: sched_process_exec, sched_process_exit, inet_sock_set_state; task_file
 * is walked once, for sockets older than us. Not seen: what listens in no task.
 */
#include "lib/kernel.h"
#include "lib/filter.bpf.h"
#include "lib/ring.bpf.h"
#include "lib/task.bpf.h"
#include "process.h"

#define IPPROTO_TCP 6
#define SIGNAL_GROUP_EXIT 4

const volatile u32 kinds = 0; /* a bit for each EVENT_ that is wanted */

EVENTS(events, 256 * 1024);
/* 328 B for each CPU: where an exec is put together before it goes out at its real length. */
MAP(PERCPU_ARRAY, scratch, u32, union event, 1, 0);
/* 40 B for each socket that connects or listens; a socket that is accepted gets its listener's. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct owner);
} owners SEC(".maps");

static __always_inline bool is_wanted(u32 kind)
{
	return kinds & (1 << kind);
}

static __always_inline void fill(struct event_head *head, struct task_struct *task, u32 kind)
{
	head->time = bpf_ktime_get_ns();
	head->cgroup = task_cgroup(task);
	process_comm(task, (u64 *)head->comm);
	head->pid = task->tgid;
	head->kind = kind;
}

static __always_inline int exec(void *ctx, struct task_struct *task, const char *path)
{
	struct exec_event *event;
	u32 zero = 0;
	long size = 0;

	if (is_filtered(task) || !is_sampled())
		return 0;
	event = bpf_map_lookup_elem(&scratch, &zero);
	if (!event)
		return 0;
	fill(&event->head, task, EVENT_EXEC);
	event->parent = task->real_parent->tgid;
	if (path)
		size = bpf_probe_read_kernel_str(event->path, sizeof(event->path), path);
	size = size > 0 ? size - 1 : 0;
	event->length = size;
	size &= sizeof(event->path) - 1;
	emit(ctx, &events, event, offsetof(struct exec_event, path) + size);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(sched_process_exec, struct task_struct *task, int before, struct linux_binprm *binary)
{
	return exec(ctx, task, binary->filename);
}

/* Where memory must not be read: without the path. */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(sched_process_exec__bare, struct task_struct *task)
{
	return exec(ctx, task, NULL);
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(sched_process_exit, struct task_struct *task)
{
	struct signal_struct *signal = task->signal;
	struct exit_event event = {};

	/* The last thread only; two that end at once may both be last, which user space tells. */
	if (signal->live.counter != 0 || is_filtered(task))
		return 0;
	event.started = task->group_leader->start_time;
	event.status = signal->flags & SIGNAL_GROUP_EXIT ? signal->group_exit_code : task->group_leader->exit_code;
	fill(&event.head, task, EVENT_OOM_KILL);
	/* What the kernel kills for memory ends soon; mark_victim itself has other arguments before 6.8. */
	if (is_wanted(EVENT_OOM_KILL) && signal->oom_mm)
		emit(ctx, &events, &event, sizeof(event));
	event.head.kind = EVENT_EXIT;
	if (is_wanted(EVENT_EXIT) && is_sampled())
		emit(ctx, &events, &event, sizeof(event));
	return 0;
}

static __always_inline void own(struct sock *sk, struct task_struct *task, u8 role)
{
	struct owner *owner = bpf_sk_storage_get(&owners, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

	if (!owner)
		return;
	owner->cgroup = task_cgroup(task);
	process_comm(task, (u64 *)owner->comm);
	owner->pid = task->tgid;
	owner->role = role;
	owner->filtered = is_filtered(task);
}

static __always_inline void addresses(struct connection_event *event, struct sock *sk)
{
	event->family = sk->__sk_common.skc_family;
	event->local_port = sk->__sk_common.skc_num;
	event->peer_port = __builtin_bswap16(sk->__sk_common.skc_dport);
	if (event->family == FAMILY_INET) {
		*(u32 *)event->local = sk->__sk_common.skc_rcv_saddr;
		*(u32 *)event->peer = sk->__sk_common.skc_daddr;
		return;
	}
	for (int word = 0; word < 4; word++) {
		((u32 *)event->local)[word] = sk->__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[word];
		((u32 *)event->peer)[word] = sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[word];
	}
}

static __always_inline u32 change(struct owner *owner, int before, int after)
{
	bool listens = !owner || owner->role == ROLE_LISTENS;

	if (after == TCP_ESTABLISHED && before == TCP_SYN_SENT)
		return EVENT_OPENED;
	if (after == TCP_ESTABLISHED && before == TCP_SYN_RECV)
		return listens ? EVENT_ACCEPTED : EVENT_OPENED;
	if (after == TCP_CLOSE && (before == TCP_SYN_SENT || (before == TCP_SYN_RECV && !listens)))
		return EVENT_FAILED;
	return 0;
}

static __always_inline u16 error_of(struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	return sk->sk_err || !tp || tp->segs_out ? sk->sk_err : ERROR_UNSENT;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(inet_sock_set_state, struct sock *sk, int before, int after)
{
	struct connection_event event = {};
	struct owner *owner;

	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	if (after == TCP_SYN_SENT || after == TCP_LISTEN) {
		own(sk, bpf_get_current_task_btf(), after == TCP_LISTEN ? ROLE_LISTENS : ROLE_CONNECTS);
		return 0;
	}
	if (before != TCP_SYN_SENT && before != TCP_SYN_RECV)
		return 0;
	owner = bpf_sk_storage_get(&owners, sk, NULL, 0);
	event.head.kind = change(owner, before, after);
	/* Nobody's sockets belong to no process that a filter could name. */
	if (!event.head.kind || !is_sampled() || (owner ? owner->filtered : comm_filter || cgroup_filter))
		return 0;
	event.head.time = bpf_ktime_get_ns();
	if (owner) {
		event.head.cgroup = owner->cgroup;
		event.head.pid = owner->pid;
		__builtin_memcpy(event.head.comm, owner->comm, sizeof(owner->comm));
	}
	addresses(&event, sk);
	event.error = event.head.kind == EVENT_FAILED ? error_of(sk) : 0;
	emit(ctx, &events, &event, sizeof(event));
	return 0;
}

/* Sockets that listened or connected before the program above was attached. */
SEC("iter/task_file")
int seed(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct socket *socket;
	struct sock *sk;

	socket = file ? bpf_sock_from_file(file) : NULL;
	sk = socket ? socket->sk : NULL;
	if (!task || !sk || sk->sk_protocol != IPPROTO_TCP)
		return 0;
	if (sk->__sk_common.skc_state == TCP_LISTEN)
		own(sk, task, ROLE_LISTENS);
	if (sk->__sk_common.skc_state == TCP_SYN_SENT)
		own(sk, task, ROLE_CONNECTS);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
