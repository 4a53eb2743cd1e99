/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The system calls that read, write, flush, copy and open files: by number what
 * they do, and where their descriptors are. One look at one table, since most
 * calls of a machine are others.
 */
#pragma once
#include "kernel.h"
#include "../file_io.h"

/* sendfile names its descriptors the other way round: the target, then the source. */
#define FILE_SEND 6

#define NATIVE(what) (what)
#define COMPAT(what) ((what) << 4)

static const u8 file_calls[] = {
#if defined(__TARGET_ARCH_x86)
	[0] = NATIVE(FILE_READ),
	[1] = NATIVE(FILE_WRITE),
	[2] = NATIVE(FILE_OPEN),
	[17] = NATIVE(FILE_READ),   /* pread64 */
	[18] = NATIVE(FILE_WRITE),  /* pwrite64 */
	[19] = NATIVE(FILE_READ),   /* readv */
	[20] = NATIVE(FILE_WRITE),  /* writev */
	[40] = NATIVE(FILE_SEND),   /* sendfile */
	[74] = NATIVE(FILE_SYNC),   /* fsync */
	[75] = NATIVE(FILE_SYNC),   /* fdatasync */
	[85] = NATIVE(FILE_OPEN),   /* creat */
	[257] = NATIVE(FILE_OPEN),  /* openat */
	[275] = NATIVE(FILE_COPY),  /* splice */
	[295] = NATIVE(FILE_READ) | /* preadv */
		COMPAT(FILE_OPEN),  /* openat */
	[296] = NATIVE(FILE_WRITE), /* pwritev */
	[304] = NATIVE(FILE_OPEN),  /* open_by_handle_at */
	[326] = NATIVE(FILE_COPY),  /* copy_file_range */
	[327] = NATIVE(FILE_READ),  /* preadv2 */
	[328] = NATIVE(FILE_WRITE), /* pwritev2 */
	/* The x32 table's own; its other numbers are those above. */
	[515] = NATIVE(FILE_READ),  /* readv */
	[516] = NATIVE(FILE_WRITE), /* writev */
	[534] = NATIVE(FILE_READ),  /* preadv */
	[535] = NATIVE(FILE_WRITE), /* pwritev */
	[546] = NATIVE(FILE_READ),  /* preadv2 */
	[547] = NATIVE(FILE_WRITE), /* pwritev2 */
	[313] = COMPAT(FILE_COPY),  /* splice */
	[333] = COMPAT(FILE_READ),  /* preadv */
	[334] = COMPAT(FILE_WRITE), /* pwritev */
	[342] = COMPAT(FILE_OPEN),  /* open_by_handle_at */
	[377] = COMPAT(FILE_COPY),  /* copy_file_range */
	[378] = COMPAT(FILE_READ),  /* preadv2 */
	[379] = COMPAT(FILE_WRITE), /* pwritev2 */
#elif defined(__TARGET_ARCH_arm64)
	[56] = NATIVE(FILE_OPEN),   /* openat */
	[63] = NATIVE(FILE_READ),   /* read */
	[64] = NATIVE(FILE_WRITE),  /* write */
	[65] = NATIVE(FILE_READ),   /* readv */
	[66] = NATIVE(FILE_WRITE),  /* writev */
	[67] = NATIVE(FILE_READ),   /* pread64 */
	[68] = NATIVE(FILE_WRITE),  /* pwrite64 */
	[69] = NATIVE(FILE_READ),   /* preadv */
	[70] = NATIVE(FILE_WRITE),  /* pwritev */
	[71] = NATIVE(FILE_SEND),   /* sendfile */
	[76] = NATIVE(FILE_COPY),   /* splice */
	[82] = NATIVE(FILE_SYNC),   /* fsync */
	[83] = NATIVE(FILE_SYNC),   /* fdatasync */
	[265] = NATIVE(FILE_OPEN),  /* open_by_handle_at */
	[285] = NATIVE(FILE_COPY),  /* copy_file_range */
	[286] = NATIVE(FILE_READ),  /* preadv2 */
	[287] = NATIVE(FILE_WRITE), /* pwritev2 */
	[322] = COMPAT(FILE_OPEN),  /* openat */
	[340] = COMPAT(FILE_COPY),  /* splice */
	[361] = COMPAT(FILE_READ),  /* preadv */
	[362] = COMPAT(FILE_WRITE), /* pwritev */
	[371] = COMPAT(FILE_OPEN),  /* open_by_handle_at */
	[391] = COMPAT(FILE_COPY),  /* copy_file_range */
	[392] = COMPAT(FILE_READ),  /* preadv2 */
	[393] = COMPAT(FILE_WRITE), /* pwritev2 */
#endif
	/* The same on i386 and arm. */
	[3] = COMPAT(FILE_READ),
	[4] = COMPAT(FILE_WRITE),
	[5] = COMPAT(FILE_OPEN),
	[8] = COMPAT(FILE_OPEN),    /* creat */
	[118] = COMPAT(FILE_SYNC),  /* fsync */
	[145] = COMPAT(FILE_READ),  /* readv */
	[146] = COMPAT(FILE_WRITE), /* writev */
	[148] = COMPAT(FILE_SYNC),  /* fdatasync */
	[180] = COMPAT(FILE_READ),  /* pread64 */
	[181] = COMPAT(FILE_WRITE), /* pwrite64 */
	[187] = COMPAT(FILE_SEND),  /* sendfile */
	[239] = COMPAT(FILE_SEND),  /* sendfile64 */
	/* openat2 is the same everywhere. */
	[437] = NATIVE(FILE_OPEN) | COMPAT(FILE_OPEN),
};

/* What a call of this number may do, in any table; 0: nothing to a file. */
static __always_inline u32 file_call(u32 nr)
{
#if defined(__TARGET_ARCH_x86)
	nr &= ~X32_BIT;
#endif
	return nr < sizeof(file_calls) ? file_calls[nr] : 0;
}

#if defined(__TARGET_ARCH_x86)
static __always_inline u32 argument(struct pt_regs *regs, bool compat, u32 number)
{
	if (number == 0)
		return compat ? regs->bx : regs->di;
	if (number == 1)
		return compat ? regs->cx : regs->si;
	return regs->dx;
}
#elif defined(__TARGET_ARCH_arm64)
static __always_inline u32 argument(struct pt_regs *regs, bool compat, u32 number)
{
	/* The return value lies in the first register. */
	if (number == 0)
		return regs->orig_x0;
	return number == 1 ? regs->regs[1] : regs->regs[2];
}
#endif
