// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* connection.bpf.c for kernels that lack what lib/fixes.bpf.h names: the ends of connections are not seen. */
#define LEGACY
#include "connection.bpf.c"
