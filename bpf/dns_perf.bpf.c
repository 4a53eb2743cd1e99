// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* The same programs with a perf event array: see lib/ring.bpf.h. */
#define PERF
#include "dns.bpf.c"
