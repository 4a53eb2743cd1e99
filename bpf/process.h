/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The ABI of process.bpf.c and flood.bpf.c. */
#pragma once
#include "event.h"

#define EVENT_EXEC 1
#define EVENT_EXIT 2
#define EVENT_OOM_KILL 3
#define EVENT_OPENED 4   /* we connected */
#define EVENT_ACCEPTED 5 /* a peer connected */
#define EVENT_FAILED 6   /* we tried to connect */

#define EVENT_PATH_BYTES 256

struct exec_event {
	struct event_head head;
	u32 parent;
	u32 length; /* of the path, without a NUL; 0: not known */
	char path[EVENT_PATH_BYTES];
};

/* Of an exit and of an OOM kill. */
struct exit_event {
	struct event_head head;
	u64 started; /* with the process it tells a repeated report */
	u32 status;  /* as wait(2) gives it */
	u32 padding;
};

#define ERROR_UNSENT 0xffff /* no errno: no segment left */

/* An address of the family INET is in the first four bytes. */
struct connection_event {
	struct event_head head;
	u8 local[16];
	u8 peer[16];
	u16 local_port; /* 0: none any more */
	u16 peer_port;
	u16 family;
	u16 error; /* the errno of a failure; 0: given up by the process */
};

/* Whatever leaves: it puts all of them into the object's types, which a test compares with their mirrors. */
union event {
	struct exec_event exec;
	struct exit_event exit;
	struct connection_event connection;
};

/* What a socket remembers of who connects or listens. */
struct owner {
	u64 cgroup;
	u8 comm[16];
	u32 pid;
	u8 role;
	u8 filtered; /* the process is not observed */
	u16 padding;
};

#define ROLE_CONNECTS 1
#define ROLE_LISTENS 2
