/* decide.py, in the kernel: which registration covers a packet, and what becomes of it. */
INLINE u32 current(struct versioned *found, u64 serial)
{
	if (!found)
		return 0;
	lock(&found->lock);
	u32 value = serial >= found->since ? found->after : found->before;
	unlock(&found->lock);
	return value;
}

struct search {
	struct work *work;
	struct shapes *shapes;
	u64 serial;
	u32 found;
};

INLINE struct shape *shape_at(struct search *on, u32 index)
{
	return index < MOST_SHAPES ? &on->shapes->each[index] : 0;
}

INLINE u32 port_at(struct shape *shape, struct packet *p, int turned)
{
	return shape->has_port ? SWAP16(turned ? p->src_port : p->dst_port) : 0;
}

INLINE int is_in(struct versioned *cell, struct search *on)
{
	on->found = current(cell, on->serial);
	return on->found != 0;
}

static long one_shape4(u32 index, struct search *on)
{
	struct packet *p = &on->work->packet;
	struct shape *shape = shape_at(on, index);
	if (!shape)
		return 1;
	struct cell4_key *key = &on->work->cell4_key;
	key->shape = shape->number;
	key->unused = 0;
	for (int turned = 0; turned < 2; turned++) {
		key->subscriber = (turned ? p->dst[0] : p->src[0]) & shape->subscriber_mask[0];
		key->endpoint = (turned ? p->src[0] : p->dst[0]) & shape->endpoint_mask[0];
		key->port = port_at(shape, p, turned);
		if (is_in(lookup(&cells4, key), on))
			return 1;
	}
	return 0;
}

static long one_shape6(u32 index, struct search *on)
{
	struct packet *p = &on->work->packet;
	struct shape *shape = shape_at(on, index);
	if (!shape)
		return 1;
	struct cell6_key *key = &on->work->cell6_key;
	key->shape = shape->number;
	key->unused = 0;
	for (int turned = 0; turned < 2; turned++) {
		u32 *subscriber = turned ? p->dst : p->src, *endpoint = turned ? p->src : p->dst;
#pragma unroll
		for (int word = 0; word < 4; word++) {
			key->subscriber[word] = subscriber[word] & shape->subscriber_mask[word];
			key->endpoint[word] = endpoint[word] & shape->endpoint_mask[word];
		}
		key->port = port_at(shape, p, turned);
		if (is_in(lookup(&cells6, key), on))
			return 1;
	}
	return 0;
}

/* The registration that covers the packet's two ends, in either direction; 0 without one. */
INLINE u32 covering(struct work *work, int kind, u64 word)
{
	u32 list = ((word & 1) * 2 + (work->packet.version == 6)) * KINDS + kind;
	struct search on = {work, lookup(&shapes, &list), word >> 8, 0};
	if (on.shapes && work->packet.version == 4)
		loop(on.shapes->count, one_shape4, &on, 0);
	else if (on.shapes)
		loop(on.shapes->count, one_shape6, &on, 0);
	return on.found;
}

INLINE void passes(struct verdict *v, u32 counter, u32 mark)
{
	v->counter = counter;
	v->is_dropped = 0;
	v->mark = mark;
}

INLINE void stopped(struct verdict *v, u32 reason, u32 vpn, u32 mark)
{
	v->counter = STOPS + reason * (PROTOCOLS + 1) + vpn;
	v->is_dropped = !IS_OBSERVING;
	v->mark = mark ? mark : IS_OBSERVING ? OBSERVED : 0;
}

INLINE u32 standing(u32 mark)
{
	return mark == 0 || (mark > EXEMPT && mark != REVOKED) ? STOP_UNREGISTERED : STOP_REVOKED;
}

/* decide(). The verdict is in work->verdict. */
APART int judge(struct __sk_buff *skb, struct work *work, u64 word, u32 fallback)
{
	struct packet *p = &work->packet;
	struct verdict *v = &work->verdict;
	u32 mark = work->mark;
	if (mark && mark < CLEAR) {
		u32 state = word & 8 ? current(lookup(&states, &work->mark), word >> 8) : STATE_ACTIVE;
		if (state != STATE_CUT) {
			if (fallback == BLOCK)
				stopped(v, STOP_FAIL_CLOSED, PROTOCOLS, mark);
			else
				passes(v, state == STATE_FINISHING ? FINISHING : REGISTERED, mark);
			return 0;
		}
	}
	if (p->is_fragment) {
		passes(v, IS_FRAGMENT, mark);
		return 0;
	}
	read_payload(skb, p);
	int kind = recognise(p);
	if (kind < 0) {
		if (mark == 0 && p->protocol == TCP && p->payload_length == 0)
			passes(v, NOT_YET, 0);
		else if (mark == 0)
			passes(v, NOT_VPN, CLEAR);
		else if (fallback == ALLOW)
			passes(v, PASSED_OPEN, mark);
		else
			stopped(v, fallback == BLOCK ? STOP_FAIL_CLOSED : standing(mark), PROTOCOLS, mark);
		return 0;
	}
	u32 vpn = protocol_of(kind);
	if (is_exempt(p, kind)) {
		passes(v, IS_EXEMPT, EXEMPT);
		return 0;
	}
	if (fallback == BLOCK) {
		stopped(v, STOP_FAIL_CLOSED, vpn, mark);
		return 0;
	}
	u32 number = covering(work, kind, word);
	if (number)
		passes(v, REGISTERED, number);
	else if (fallback == ALLOW)
		passes(v, PASSED_OPEN, mark ? mark : FAIL_OPEN);
	else
		stopped(v, standing(mark), vpn, mark);
	return 0;
}

