// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Bytes that disks read and wrote, and how long each request took, by the cgroup
 * that its bio is charged to, disk and direction.
 * Hook: block_rq_complete alone. The kernel itself notes when a request was made
 * (as long as the queue's iostats is on), so latency includes the time in the
 * I/O scheduler, as iostat's await does, and nothing is kept from issue on.
 * Not seen: drivers without requests (dm, md, zram), whose disks below are; flush,
 * discard and what else transfers no data.
 */
#include "lib/kernel.h"
#include "block.h"
#include "lib/cost.bpf.h"
#include "lib/fixes.bpf.h"
#include "lib/maps.bpf.h"
#include "lib/histogram.bpf.h"

/* A full map takes 144 B an entry and 8 B for each CPU. */
MAP(PERCPU_HASH, block_bytes, struct transfer, u64, 1024, ON_DEMAND);
/* 144 B an entry and 432 B at the default scale, whatever the number of CPUs. */
SHARED_HISTOGRAM(block_latency, struct transfer, 512);
/* One cell of 32 B for each CPU. */
MAP(PERCPU_ARRAY, losses, u32, struct loss, 1, 0);

static __always_inline struct loss *loss(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&losses, &zero);
}

/* The root's own are kernel threads and write-back that no cgroup is charged for. */
static __always_inline u64 bio_cgroup(struct bio *bio)
{
	struct cgroup *cgroup;
	struct blkcg_gq *group;

	if (!bpf_core_field_exists(bio->bi_blkg))
		return 0;
	group = bio->bi_blkg;
	if (!group)
		return 0;
	cgroup = group->blkcg->css.cgroup;
	return cgroup->self.parent ? cgroup->kn->id : 0;
}

static __always_inline void add_bytes(struct transfer *transfer, u32 bytes)
{
	struct loss *lost;

	if (add(&block_bytes, transfer, bytes))
		return;
	lost = loss();
	if (!lost)
		return;
	lost->transfers += 1;
	if (transfer->direction == BLOCK_READ)
		lost->read += bytes;
	else
		lost->written += bytes;
}

static __always_inline void add_latency(struct request *rq, struct transfer *transfer)
{
	u64 start = rq->start_time_ns, now = bpf_ktime_get_ns();
	struct loss *lost;

	if (!start)
		start = rq->io_start_time_ns;
	if (start) {
		/* The kernel's own clock may be read ahead of ours. */
		shared_histogram_add(block_latency, transfer, now > start ? now - start : 0);
		return;
	}
	lost = loss();
	if (lost)
		lost->untimed += 1;
}

static __always_inline void completed(struct request *rq, int error, unsigned int nr_bytes)
{
	u32 op = rq->cmd_flags & REQ_OP_MASK, left = rq->__data_len;
	struct bio *bio = rq->bio;
	struct gendisk *disk;
	struct transfer transfer = {};

	/* After a flush of what it wrote, a request completes once more, with nothing. */
	if (!bio || !nr_bytes || (op != REQ_OP_READ && op != REQ_OP_WRITE && !is_zone_append(op)))
		return;
	disk = request_disk(rq);
	if (!disk)
		return;
	transfer.cgroup = bio_cgroup(bio);
	transfer.direction = op == REQ_OP_READ ? BLOCK_READ : BLOCK_WRITE;
	*(u64 *)&transfer.device[0] = *(u64 *)&disk->disk_name[0];
	*(u64 *)&transfer.device[8] = *(u64 *)&disk->disk_name[8];
	*(u64 *)&transfer.device[16] = *(u64 *)&disk->disk_name[16];
	*(u64 *)&transfer.device[24] = *(u64 *)&disk->disk_name[24];
	if (!error)
		add_bytes(&transfer, nr_bytes < left ? nr_bytes : left);
	if (nr_bytes >= left && timed_every())
		add_latency(rq, &transfer);
}

/* It fires for each part of a request that completes; what remains of it is in __data_len. */
SEC("tp_btf/block_rq_complete")
int BPF_PROG(block_rq_complete, struct request *rq, int error, unsigned int nr_bytes)
{
	MEASURED(completed(rq, error, nr_bytes));
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
