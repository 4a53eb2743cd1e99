// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* dns for kernels before 5.12: see lib/fixes.bpf.h. */
#define LEGACY
#include "dns.bpf.c"
