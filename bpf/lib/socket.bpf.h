/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Which sockets are of IP. */
#pragma once
#include "kernel.h"

static __always_inline bool is_inet(struct sock *sk)
{
	u16 family = sk->__sk_common.skc_family;

	return family == AF_INET || family == AF_INET6;
}
