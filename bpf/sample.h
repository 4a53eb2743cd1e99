/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The ABI of lib/sample.bpf.h. */
#pragma once

/* Values of the constant `timing`. */
#define TIME_NONE 0
#define TIME_EVERY 1
#define TIME_SAMPLE 2
