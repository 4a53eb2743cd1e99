/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Which kind of file system the file of a descriptor is on. The table of
 * descriptors is an array of pointers, which the verifier does not follow: see
 * FIND_DIRECT, FIND_PROBE and FIND_NEAR. What cannot be looked up is counted in
 * `far` of a struct loss, which the program defines before it includes this.
 */
#pragma once
#include "kernel.h"
#include "fixes.bpf.h"

/* Loads through pointers that nobody vouches for: a parameter tagged arg:untrusted, and what a walk ends at (6.17). */
#define FIND_DIRECT 0
/* Five bpf_probe_read_kernel() calls, which stock lockdown=confidentiality refuses. */
#define FIND_PROBE 1
/* Of the table that most processes begin with each place by a load of its own; a larger table is lost. */
#define FIND_NEAR 2

#define S_IFMT 0170000
#define S_IFREG 0100000
/* eventfd, epoll, timerfd and their like: regular files to the kernel since 6.16. */
#define ANON_INODE_FS_MAGIC 0x09041934

#define NO_FILE 0

#define __untrusted __attribute__((btf_decl_tag("arg:untrusted")))

static __always_inline u32 regular(u16 mode, u32 magic)
{
	return (mode & S_IFMT) == S_IFREG && magic != ANON_INODE_FS_MAGIC ? magic : NO_FILE;
}

#ifndef LEGACY
/* A function of its own, since only so an address becomes a file: the verifier takes its parameter's type on trust. */
__attribute__((noinline)) u32 file_system_direct(struct file *file __untrusted)
{
	struct inode *inode = file->f_inode;

	return regular(inode->i_mode, inode->i_sb->s_magic);
}
#endif

#ifndef LEGACY
#define NEAR_TABLE 64

/* No two loads may be joined into one with a variable offset, which the verifier refuses. */
#define NEAR(n)                                \
	case n:                                \
		file = files->fd_array[n];     \
		asm volatile("" : "+r"(file)); \
		break
#define NEAR_4(n)    \
	NEAR(n);     \
	NEAR(n + 1); \
	NEAR(n + 2); \
	NEAR(n + 3)
#define NEAR_16(n)     \
	NEAR_4(n);     \
	NEAR_4(n + 4); \
	NEAR_4(n + 8); \
	NEAR_4(n + 12)

static __attribute__((noinline)) u32 file_system_near(struct files_struct *files, u32 fd)
{
	struct file *file = NULL;
	struct inode *inode;

	switch (fd) {
		NEAR_16(0);
		NEAR_16(16);
		NEAR_16(32);
		NEAR_16(48);
	}
	if (!file)
		return NO_FILE;
	inode = file->f_inode;
	return regular(inode->i_mode, inode->i_sb->s_magic);
}
#endif

static __always_inline u32 file_system_probe(struct file *file)
{
	struct inode *inode = BPF_CORE_READ(file, f_inode);

	return regular(BPF_CORE_READ(inode, i_mode), BPF_CORE_READ(inode, i_sb, s_magic));
}

/* The magic number of the superblock of a regular file, else NO_FILE. */
static __always_inline u32 file_system(struct task_struct *task, u32 fd, u32 how)
{
	struct file *file = NULL;
	struct fdtable *table;
#ifndef LEGACY
	struct loss *lost;
#endif

#ifdef LEGACY
	table = BPF_CORE_READ(task, files, fdt);
	if (fd >= BPF_CORE_READ(table, max_fds))
		return NO_FILE;
	bpf_probe_read_kernel(&file, sizeof(file), BPF_CORE_READ(table, fd) + fd);
	return file ? file_system_probe(file) : NO_FILE;
#else
	table = task->files->fdt;
	if (fd >= table->max_fds)
		return NO_FILE;
	if (how == FIND_DIRECT) {
		file = table->fd[fd];
		return file ? file_system_direct(file) : NO_FILE;
	}
	if (how == FIND_NEAR) {
		if (table->max_fds <= NEAR_TABLE)
			return file_system_near(task->files, fd);
		lost = loss();
		if (lost)
			lost->far += 1;
		return NO_FILE;
	}
	bpf_probe_read_kernel(&file, sizeof(file), table->fd + fd);
	return file ? file_system_probe(file) : NO_FILE;
#endif
}
