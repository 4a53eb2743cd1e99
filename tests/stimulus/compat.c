// SPDX-License-Identifier: Apache-2.0
// A 32-bit x86 program without a C library: calls getppid by its i386 number COUNT times and exits.

#define I386_GETPPID 64
#define I386_EXIT_GROUP 252

static long call(long number, long argument)
{
	long result;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(argument) : "memory");
	return result;
}

void _start(void)
{
	for (int i = 0; i < COUNT; i++)
		call(I386_GETPPID, 0);
	call(I386_EXIT_GROUP, 0);
	__builtin_unreachable();
}
