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

#define REQ_OP_MASK 0xff
#define REQ_OP_READ 0
#define REQ_OP_WRITE 1

/* Before enum req_op (ff07a02e9e8e, 6.0) and its other numbers (5.10 on). */
enum req_opf___old {
	REQ_OP_ZONE_APPEND___old = 13,
};

static __always_inline bool is_zone_append(u32 op)
{
	if (bpf_core_enum_value_exists(enum req_op, REQ_OP_ZONE_APPEND))
		return op == bpf_core_enum_value(enum req_op, REQ_OP_ZONE_APPEND);
	if (bpf_core_enum_value_exists(enum req_opf___old, REQ_OP_ZONE_APPEND___old))
		return op == bpf_core_enum_value(enum req_opf___old, REQ_OP_ZONE_APPEND___old);
	return false;
}

/* The request's own pointer went in f3fa33acca9f (5.17), the queue's came in d152c682f03c (5.15). */
struct request___rq_disk {
	struct gendisk *rq_disk;
} __attribute__((preserve_access_index));

static __always_inline struct gendisk *request_disk(struct request *rq)
{
	struct request___rq_disk *old = (void *)rq;

	return bpf_core_field_exists(old->rq_disk) ? old->rq_disk : rq->q->disk;
}
