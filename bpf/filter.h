/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The ABI of lib/filter.bpf.h: values of `comms` and of the constant `comm_filter`. */
#pragma once

#define COMM_INCLUDE 1
#define COMM_EXCLUDE 2
