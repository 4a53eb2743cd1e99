// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* tcp.bpf.c for kernels that lack what lib/fixes.bpf.h names: without sockets that are older than us, and without live round trips. */
#define LEGACY
#include "tcp.bpf.c"
