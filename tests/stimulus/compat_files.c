// SPDX-License-Identifier: Apache-2.0
// A 32-bit x86 program without a C library: does I/O on a new file where it is started, by i386 numbers, COUNT times each, and exits.

#define I386_READ 3
#define I386_WRITE 4
#define I386_CREAT 8
#define I386_OPENAT 295
#define I386_PREAD64 180
#define I386_FDATASYNC 148
#define I386_EXIT_GROUP 252
#define AT_FDCWD -100
#define PATH "compat-file"

static char data[256];

static long call(long number, long a, long b, long c, long d, long e)
{
	long result;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory");
	return result;
}

static void expect(long result, long expected)
{
	if (result != expected)
		call(I386_EXIT_GROUP, 1, 0, 0, 0, 0);
}

void _start(void)
{
	long to = call(I386_CREAT, (long)PATH, 0600, 0, 0, 0);
	long from = call(I386_OPENAT, AT_FDCWD, (long)PATH, 0, 0, 0);

	for (int i = 0; i < COUNT; i++) {
		expect(call(I386_WRITE, to, (long)data, 100, 0, 0), 100);
		expect(call(I386_READ, from, (long)data, 60, 0, 0), 60);
		expect(call(I386_PREAD64, from, (long)data, 7, 0, 0), 7);
		expect(call(I386_FDATASYNC, to, 0, 0, 0, 0), 0);
	}
	call(I386_EXIT_GROUP, 0, 0, 0, 0, 0);
	__builtin_unreachable();
}
