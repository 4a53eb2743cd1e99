// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/* network.bpf.c for kernels that lack what lib/fixes.bpf.h names: traffic without seeding, drops and later owners. */
#define LEGACY
#include "network.bpf.c"
