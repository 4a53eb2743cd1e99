/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Reads DNS messages out of packets: one in a datagram, at once; any number in a
 * stream, where a message may be cut anywhere, its length included. A stream's
 * state lies in a map: the verifier then has one state to check for each step.
 */
#pragma once
#include "kernel.h"
#include "names.bpf.h"
#include "packet.bpf.h"
#include "../dns.h"

#define HEADER_SIZE 12

enum phase {
	LENGTH, /* of a message in a stream */
	HEADER,
	NAME, /* of the first question */
	TYPE, /* of the first question */
	REST,
};

/* A stream's present message as far as it has been read. */
struct message {
	u32 at; /* where to read on in the packet */
	u32 end;
	u32 left;     /* bytes of the message that are still to come */
	u32 question; /* where it begins in the packet; 0: in an earlier one */
	u16 id;
	u16 name; /* bytes of the name so far */
	u8 phase;
	u8 label;     /* bytes of the present label that are still to come */
	u8 have;      /* bytes of the present field that came in earlier segments */
	u8 field[17]; /* the present field */
};

/* What is wanted of a message. */
struct question {
	u32 at;   /* where its first question begins in the packet; 0: it has none, or not there */
	u32 end;  /* before which it ends */
	u32 code; /* the type of a query's question or a response's code */
	u32 id;
};

/* What has been found, and its code: the type of a query's question or a response's code. */
enum found {
	NOTHING,
	A_QUERY,
	A_RESPONSE,
};

/* Tells what a header begins. A query's code is its question's, if it has one. */
static __always_inline enum found tell(const u8 *header, u32 *code)
{
	*code = TYPE_OTHER;
	if (header[2] & 0x80) {
		*code = header[3] & (RCODE_COUNT - 1);
		return A_RESPONSE;
	}
	/* Only standard queries ask: notifications and updates are something else. */
	return header[2] & 0x78 ? NOTHING : A_QUERY;
}

/* Reads the beginning of a datagram's message. */
static __always_inline enum found read_datagram(struct __sk_buff *skb, u32 at, struct question *q)
{
	u8 header[HEADER_SIZE];
	enum found found;

	if (bpf_skb_load_bytes(skb, at, header, sizeof(header)))
		return NOTHING;
	found = tell(header, &q->code);
	q->id = word(header);
	q->at = word(header + 4) ? at + HEADER_SIZE : 0;
	q->end = skb->len;
	if (found == A_QUERY && q->at)
		q->code = question_type(skb, q->at);
	return found;
}

/* Reads a field, or the next byte of one that is cut in two. True: it is whole. */
static __always_inline bool read_field(struct __sk_buff *skb, struct message *m, u32 size)
{
	if (m->have == 0 && m->end - m->at >= size) {
		if (bpf_skb_load_bytes(skb, m->at, m->field, size))
			m->at = m->end;
		m->at += size;
		m->left -= size;
		return true;
	}
	if (bpf_skb_load_bytes(skb, m->at, &m->field[m->have & 15], 1))
		m->at = m->end;
	m->at += 1;
	m->left -= 1;
	m->have += 1;
	if (m->have < size)
		return false;
	m->have = 0;
	return true;
}

static __always_inline enum found read_header(struct message *m, u32 *code)
{
	enum found found = tell(m->field, code);

	m->id = word(m->field);
	m->name = 0;
	m->question = word(m->field + 4) ? m->at : 0;
	m->phase = REST;
	if (found != A_QUERY || word(m->field + 4) == 0)
		return found;
	m->phase = NAME;
	return NOTHING;
}

/* Reads up to the next label. False: it is no name. */
static __always_inline bool read_label(struct __sk_buff *skb, struct message *m)
{
	u8 length;

	if (bpf_skb_load_bytes(skb, m->at, &length, 1))
		return false;
	m->at += 1;
	m->left -= 1;
	m->name += 1 + length;
	if (length == 0) {
		m->phase = TYPE;
		return true;
	}
	if (length >= POINTER) {
		/* A pointer's second byte, then the name is at its end. */
		m->label = 1;
		m->phase = TYPE;
		return true;
	}
	m->label = length;
	return length <= LABEL_MAX && m->name < NAME_MAX;
}

/* Makes one step through a payload that is not at its end. */
static __always_inline enum found read_step(struct __sk_buff *skb, struct message *m, u32 *code)
{
	u32 here = m->end - m->at, size;

	if (m->phase == LENGTH) {
		m->left = 2;
		if (read_field(skb, m, 2)) {
			m->left = word(m->field);
			m->phase = HEADER;
			m->label = 0;
		}
		return NOTHING;
	}
	if (m->phase == REST || m->label) {
		size = m->phase == REST ? m->left : m->label;
		size = size < here ? size : here;
		m->at += size;
		m->left -= size;
		if (m->phase != REST)
			m->label -= size;
		else if (!m->left)
			m->phase = LENGTH;
		return NOTHING;
	}
	if (m->phase == HEADER) {
		if (m->left + m->have < HEADER_SIZE) {
			/* Too short for a message. */
			m->phase = m->left ? REST : LENGTH;
			return NOTHING;
		}
		if (!read_field(skb, m, HEADER_SIZE))
			return NOTHING;
		return read_header(m, code);
	}
	*code = TYPE_OTHER;
	if (m->phase == NAME) {
		if (m->left > 0 && read_label(skb, m) && m->label <= m->left)
			return NOTHING;
		m->label = 0;
	} else if (m->left + m->have >= 2) {
		if (!read_field(skb, m, 2))
			return NOTHING;
		*code = word(m->field);
	}
	m->phase = REST;
	return A_QUERY;
}
