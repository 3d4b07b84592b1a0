/* The bpf dataplane's classifier. enforcer/decide.py is what it must agree with.
 *
 * Attached to clsact, both directions, of the inside interfaces: there each forwarded packet passes once with the addresses
 * the subscribers have, whatever NAT the gateway does. policy.h is generated from the policy and from enforcer/protocols.py:
 * recognise(), is_exempt() and the constants in capitals.
 *
 * What a packet sees of the tables is one `word` (serial, shape slot, fallback): cells and states carry what they were before and
 * what they are from a serial on, so one store of the word makes a whole delta visible; a packet during whose judgement the word
 * changed is judged again.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static __attribute__((always_inline)) inline
#define APART static __attribute__((noinline))

static void *(*lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*update)(void *map, const void *key, const void *value, u64 flags) = (void *)BPF_FUNC_map_update_elem;
static u64 (*monotonic_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;
static u64 (*coarse_ns)(void) = (void *)BPF_FUNC_ktime_get_coarse_ns;
static long (*load)(const void *skb, u32 offset, void *to, u32 size, u32 base) = (void *)BPF_FUNC_skb_load_bytes_relative;
static long (*route)(void *skb, struct bpf_fib_lookup *params, int size, u32 flags) = (void *)BPF_FUNC_fib_lookup;
static void (*lock)(struct bpf_spin_lock *lock) = (void *)BPF_FUNC_spin_lock;
static void (*unlock)(struct bpf_spin_lock *lock) = (void *)BPF_FUNC_spin_unlock;
static void *(*reserve)(void *ring, u64 size, u64 flags) = (void *)BPF_FUNC_ringbuf_reserve;
static void (*submit)(void *data, u64 flags) = (void *)BPF_FUNC_ringbuf_submit;
static long (*loop)(u32 count, void *step, void *context, u64 flags) = (void *)BPF_FUNC_loop;

#define SWAP16(x) __builtin_bswap16(x)
#define SWAP32(x) __builtin_bswap32(x)

enum { TCP = 6, UDP = 17, GRE = 47, ICMP = 1, ICMPV6 = 58, NO_PROTOCOL = 255 };
enum { FIN = 1, SYN = 2, RST = 4, ACK = 16 };
enum { IPV4 = 0x0800, IPV6 = 0x86DD, VLAN = 0x8100, QINQ = 0x88A8 };

/* Marks: decide.py. */
#define CLEAR 0x80000000u
#define EXEMPT 0x80000001u
#define OBSERVED 0x80000003u
#define FAIL_OPEN 0x80000004u
#define REVOKED 0x80000005u

/* Counters: bpf_maps.py has the same order. */
enum { NOT_VPN, NOT_YET, IS_FRAGMENT, REGISTERED, FINISHING, IS_EXEMPT, PASSED_OPEN, STOPS };
enum { STOP_UNREGISTERED, STOP_REVOKED, STOP_FAIL_CLOSED };
enum { KEEP, ALLOW, BLOCK };
enum { STATE_ACTIVE, STATE_CUT, STATE_FINISHING };

#include "constants.h"

#define MOST_SHAPES 256
#define MOST_PAYLOAD 128

struct packet {
	u32 version, length, offset, available; /* offset: of the transport header; available: bytes from there */
	u32 src[4], dst[4];                     /* network order, IPv4 in the first word */
	u32 protocol, is_fragment, tcp_flags, udp_length, payload_length, loaded, ttl;
	u16 src_port, dst_port;
	u8 payload[MOST_PAYLOAD];
};

struct flow_key {
	u32 a[4], b[4];
	u16 a_port, b_port;
	u8 version, protocol, unused[2];
};

struct flow {
	u32 mark, seen_s, is_closed;
};

struct cell_key {
	u32 shape, port, subscriber[4], endpoint[4]; /* network order */
};

/* Until serial `since` it is `before`, from then on `after`; 0 is not there. */
struct versioned {
	struct bpf_spin_lock lock;
	u32 before, after, unused;
	u64 since;
};

struct shape {
	u32 number, has_port, subscriber_mask[4], endpoint_mask[4];
};

struct shapes {
	u32 count, unused;
	struct shape each[MOST_SHAPES];
};

struct control {
	u64 word; /* serial << 8 | fallback << 1 | slot */
	u64 alive_until_ns;
};

struct count {
	u64 packets, bytes, second, reported;
};

struct event {
	u64 time_ns;
	u32 src[4], dst[4], inside, outside;
	u16 src_port, dst_port;
	u8 version, protocol, reason, vpn;
};

struct verdict {
	u32 counter, is_dropped, mark;
};

struct work {
	struct packet packet;
	struct flow_key flow_key;
	struct cell_key cell_key;
	struct verdict verdict;
	u32 mark;
};

#define MAP(kind, key_type, value_type, most, flags, name) \
	struct { \
		int(*type)[kind]; \
		int(*max_entries)[most]; \
		int(*map_flags)[flags]; \
		key_type *key; \
		value_type *value; \
	} name SECTION(".maps")

MAP(BPF_MAP_TYPE_ARRAY, u32, struct control, 1, BPF_F_MMAPABLE, control);
MAP(BPF_MAP_TYPE_HASH, struct cell_key, struct versioned, 4096, BPF_F_NO_PREALLOC, cells);
MAP(BPF_MAP_TYPE_HASH, u32, struct versioned, 4096, BPF_F_NO_PREALLOC, states);
MAP(BPF_MAP_TYPE_LRU_HASH, struct flow_key, struct flow, 4096, 0, flows);
MAP(BPF_MAP_TYPE_ARRAY, u32, struct shapes, 4, 0, shapes);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, u32, struct count, COUNTERS + 1, 0, counts);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, u32, struct work, 1, 0, works);
MAP(BPF_MAP_TYPE_HASH, u32, u32, 1024, BPF_F_NO_PREALLOC, insides);

struct {
	int(*type)[BPF_MAP_TYPE_RINGBUF];
	int(*max_entries)[1 << 20];
} events SECTION(".maps");

/* For policy.h. A byte that is not there has payload_length against it. */
#define HAS(p, offset, size) ((p)->payload_length >= (offset) + (size))
#define BYTE(p, offset) ((u32)(p)->payload[offset])
#define TWO(p, offset) (BYTE(p, offset) << 8 | BYTE(p, (offset) + 1))
#define FOUR(p, offset) (TWO(p, offset) << 16 | TWO(p, (offset) + 2))

#include "policy.h"

struct extensions {
	void *skb;
	struct packet *packet;
	u32 at, end;
};

/* One IPv6 extension header (RFC 8200 section 4); 1 when there is no further one. */
static long one_extension(u32 index, struct extensions *on)
{
	struct packet *p = on->packet;
	u8 head[4];
	if (p->protocol != 0 && p->protocol != 43 && p->protocol != 44 && p->protocol != 60)
		return 1;
	if (on->at + 8 > on->end || load(on->skb, on->at, head, 4, BPF_HDR_START_NET)) {
		p->protocol = NO_PROTOCOL;
		return 1;
	}
	if (p->protocol == 44) {
		p->is_fragment = head[2] || (head[3] & 0xF8);
		on->at += 8;
	} else {
		on->at += (head[1] + 1u) * 8;
	}
	p->protocol = head[0];
	return p->is_fragment ? 1 : 0;
}

/* Fills in everything but the payload. 0 when it is no IP packet. */
APART int parse(struct __sk_buff *skb, struct packet *p)
{
	u8 head[40];
	u32 at = 0, end, kind = SWAP16((u16)skb->protocol);
	for (int tags = 0; tags < 2 && (kind == VLAN || kind == QINQ); tags++) {
		u8 tag[4];
		if (load(skb, at, tag, 4, BPF_HDR_START_NET))
			return 0;
		kind = tag[2] << 8 | tag[3];
		at += 4;
	}
	p->is_fragment = p->tcp_flags = p->udp_length = p->payload_length = p->loaded = 0;
	p->src_port = p->dst_port = 0;
	if (kind == IPV4) {
		if (load(skb, at, head, 20, BPF_HDR_START_NET))
			return 0;
		u32 header = (head[0] & 15) * 4, total = head[2] << 8 | head[3];
		if (head[0] >> 4 != 4 || header < 20)
			return 0;
		p->version = 4;
		p->protocol = head[9];
		p->ttl = head[8];
		p->is_fragment = (head[6] & 0x1F) || head[7];
		__builtin_memset(p->src, 0, 32);
		__builtin_memcpy(p->src, head + 12, 4);
		__builtin_memcpy(p->dst, head + 16, 4);
		p->length = total >= header ? total : skb->len;
		end = at + p->length;
		at += header;
	} else if (kind == IPV6) {
		if (load(skb, at, head, 40, BPF_HDR_START_NET) || head[0] >> 4 != 6)
			return 0;
		u32 length = head[4] << 8 | head[5];
		p->version = 6;
		p->protocol = head[6];
		p->ttl = head[7];
		__builtin_memcpy(p->src, head + 8, 16);
		__builtin_memcpy(p->dst, head + 24, 16);
		p->length = length ? length + 40 : skb->len;
		end = at + p->length;
		at += 40;
		if (p->protocol == 0 || p->protocol == 43 || p->protocol == 44 || p->protocol == 60) {
			struct extensions on = {skb, p, at, end};
			loop(32, one_extension, &on, 0);
			at = on.at;
		}
		if (p->protocol == 59)
			p->protocol = NO_PROTOCOL;
	} else {
		return 0;
	}
	p->offset = at;
	p->available = end > at ? end - at : 0;
	if (p->is_fragment)
		return 1;
	if (p->protocol == UDP && p->available >= 8 && !load(skb, at, head, 8, BPF_HDR_START_NET)) {
		u32 length = head[4] << 8 | head[5];
		p->src_port = head[0] << 8 | head[1];
		p->dst_port = head[2] << 8 | head[3];
		p->udp_length = length > 8 ? length - 8 : 0;
		if (skb->gso_size && p->udp_length > skb->gso_size)
			p->udp_length = skb->gso_size; /* merged datagrams: the first one's length, as it was on the wire */
		p->offset += 8;
		p->payload_length = p->available - 8;
	} else if (p->protocol == TCP && p->available >= 20 && !load(skb, at, head, 20, BPF_HDR_START_NET)) {
		u32 header = (head[12] >> 4) * 4;
		p->src_port = head[0] << 8 | head[1];
		p->dst_port = head[2] << 8 | head[3];
		p->tcp_flags = head[13];
		p->offset += header;
		p->payload_length = p->available > header ? p->available - header : 0;
	} else if (p->protocol == GRE) {
		p->payload_length = p->available;
		if (p->available >= 8 && !load(skb, at, head, 8, BPF_HDR_START_NET) && (head[1] & 7) == 1)
			p->dst_port = head[6] << 8 | head[7]; /* the call id, for the flow's key; taken back by read_payload */
	}
	return 1;
}

/* The first bytes of the payload, once. */
INLINE void read_payload(struct __sk_buff *skb, struct packet *p)
{
	if (p->loaded)
		return;
	p->loaded = 1;
	if (p->protocol == GRE)
		p->dst_port = 0;
	u32 size = p->payload_length;
	if (size > MOST_PAYLOAD - 1)
		size = MOST_PAYLOAD - 1;
	asm volatile("" : "+r"(size));
	size &= MOST_PAYLOAD - 1;
	if (size == 0 || load(skb, p->offset, p->payload, size, BPF_HDR_START_NET))
		p->payload_length = 0;
}

INLINE void make_flow_key(const struct packet *p, struct flow_key *key)
{
	int turned = 0;
	if (p->protocol != GRE || !p->dst_port) { /* a PPTP call's id names one direction */
#pragma unroll
		for (int word = 0; word < 4; word++)
			if (!turned && p->src[word] != p->dst[word])
				turned = p->src[word] > p->dst[word] ? 1 : -1;
		if (!turned)
			turned = p->src_port > p->dst_port ? 1 : -1;
	}
	__builtin_memcpy(key->a, turned == 1 ? p->dst : p->src, 16);
	__builtin_memcpy(key->b, turned == 1 ? p->src : p->dst, 16);
	key->a_port = turned == 1 ? p->dst_port : p->src_port;
	key->b_port = turned == 1 ? p->src_port : p->dst_port;
	key->version = p->version;
	key->protocol = p->protocol;
	key->unused[0] = key->unused[1] = 0;
}

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

static long one_shape(u32 index, struct search *on)
{
	struct packet *p = &on->work->packet;
	struct cell_key *key = &on->work->cell_key;
	if (index >= MOST_SHAPES)
		return 1;
	struct shape *shape = &on->shapes->each[index];
	key->shape = shape->number;
	for (int turned = 0; turned < 2; turned++) {
		u32 *subscriber = turned ? p->dst : p->src, *endpoint = turned ? p->src : p->dst;
		u16 port = turned ? p->src_port : p->dst_port;
#pragma unroll
		for (int word = 0; word < 4; word++) {
			key->subscriber[word] = subscriber[word] & shape->subscriber_mask[word];
			key->endpoint[word] = endpoint[word] & shape->endpoint_mask[word];
		}
		key->port = shape->has_port ? SWAP32((u32)port) : 0;
		on->found = current(lookup(&cells, key), on->serial);
		if (on->found)
			return 1;
	}
	return 0;
}

/* The registration that covers the packet's two ends, in either direction; 0 without one. */
INLINE u32 covering(struct work *work, int kind, u64 word)
{
	u32 list = ((word & 1) * 2 + (work->packet.version == 6)) * KINDS + kind;
	struct search on = {work, lookup(&shapes, &list), word >> 8, 0};
	if (on.shapes)
		loop(on.shapes->count, one_shape, &on, 0);
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
		u32 state = current(lookup(&states, &work->mark), word >> 8);
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

/* Whether the kernel will forward it: only then has the forward path anything to say about it. */
APART int is_forwarded(struct __sk_buff *skb, struct packet *p)
{
	struct bpf_fib_lookup params = {};
	params.family = p->version == 4 ? 2 : 10;
	params.ifindex = skb->ifindex;
	params.l4_protocol = p->protocol;
	params.sport = SWAP16(p->src_port);
	params.dport = SWAP16(p->dst_port);
	if (p->version == 4) {
		params.ipv4_src = p->src[0];
		params.ipv4_dst = p->dst[0];
	} else {
		__builtin_memcpy(params.ipv6_src, p->src, 16);
		__builtin_memcpy(params.ipv6_dst, p->dst, 16);
	}
	long found = route(skb, &params, sizeof params, 0);
	return found == BPF_FIB_LKUP_RET_SUCCESS || found == BPF_FIB_LKUP_RET_NO_NEIGH ||
	       found == BPF_FIB_LKUP_RET_FRAG_NEEDED || found == BPF_FIB_LKUP_RET_UNSUPP_LWT;
}

INLINE void report(struct __sk_buff *skb, const struct packet *p, struct count *c, u32 counter, int is_egress)
{
	u64 now = monotonic_ns(), second = now / 1000000000;
	if (c->second != second) {
		c->second = second;
		c->reported = 0;
	}
	if (c->reported >= MOST_REPORTS)
		return;
	c->reported++;
	struct event *event = reserve(&events, sizeof *event, 0);
	if (!event) {
		u32 lost = COUNTERS;
		struct count *losses = lookup(&counts, &lost);
		if (losses)
			losses->packets++;
		return;
	}
	event->time_ns = now;
	__builtin_memcpy(event->src, p->src, 16);
	__builtin_memcpy(event->dst, p->dst, 16);
	event->inside = is_egress ? skb->ingress_ifindex : skb->ifindex;
	event->outside = is_egress ? skb->ifindex : 0;
	event->src_port = p->protocol == GRE ? 0 : p->src_port;
	event->dst_port = p->protocol == GRE ? 0 : p->dst_port;
	event->version = p->version;
	event->protocol = p->protocol;
	event->reason = (counter - STOPS) / (PROTOCOLS + 1);
	event->vpn = (counter - STOPS) % (PROTOCOLS + 1);
	submit(event, 0);
}

/* What is remembered of the flow; a registration's number never outlives idleness that conntrack would not forgive either. */
INLINE u32 idle_limit_s(const struct packet *p, const struct flow *flow)
{
	if (p->protocol == UDP)
		return 300; /* RFC 4787 REQ-5 */
	if (p->protocol == TCP)
		return flow->is_closed ? 120 : 432000; /* nf_conntrack_tcp_timeout_time_wait, _established */
	return 600; /* nf_conntrack_generic_timeout */
}

INLINE int classify(struct __sk_buff *skb, int is_egress)
{
	u32 zero = 0;
	struct work *work = lookup(&works, &zero);
	struct control *now = lookup(&control, &zero);
	if (!work || !now)
		return TC_ACT_UNSPEC;
	struct packet *p = &work->packet;
	if (is_egress) {
		u32 from = skb->ingress_ifindex;
		if (!from || lookup(&insides, &from)) /* the router's own; seen already when it came in */
			return TC_ACT_UNSPEC;
	} else if (skb->pkt_type != 0) {
		return TC_ACT_UNSPEC;
	}
	if (!parse(skb, p) || (!is_egress && p->ttl <= 1))
		return TC_ACT_UNSPEC;
	struct verdict *v = &work->verdict;
	make_flow_key(p, &work->flow_key);
	struct flow *flow = lookup(&flows, &work->flow_key);
	u32 seen_s = coarse_ns() / 1000000000;
	work->mark = 0;
	if (flow) {
		int is_anew = p->protocol == TCP && (p->tcp_flags & (SYN | ACK)) == SYN && flow->is_closed;
		if (is_anew || seen_s - flow->seen_s > idle_limit_s(p, flow)) {
			flow->mark = 0;
			flow->is_closed = 0;
		}
		work->mark = flow->mark;
		if (flow->seen_s != seen_s)
			flow->seen_s = seen_s;
		if (p->protocol == TCP && p->tcp_flags & (FIN | RST) && !flow->is_closed)
			flow->is_closed = 1;
	}
	if (work->mark == CLEAR) {
		passes(v, NOT_VPN, CLEAR);
	} else if (work->mark == EXEMPT) {
		passes(v, IS_EXEMPT, EXEMPT);
	} else {
		if (!work->mark && !is_egress && !is_forwarded(skb, p))
			return TC_ACT_UNSPEC;
		if (p->protocol == ICMP || p->protocol == ICMPV6) {
			passes(v, NOT_VPN, work->mark);
		} else {
			for (int attempt = 0; attempt < 4; attempt++) {
				u64 word = *(volatile u64 *)&now->word;
				u32 fallback = word >> 1 & 3;
				if (AGENT_DEAD != KEEP && fallback != BLOCK && monotonic_ns() > *(volatile u64 *)&now->alive_until_ns)
					fallback = AGENT_DEAD == BLOCK || fallback == BLOCK ? BLOCK : ALLOW;
				judge(skb, work, word, fallback);
				if (*(volatile u64 *)&now->word == word)
					break;
			}
		}
	}
	if (!v->is_dropped && v->mark != work->mark) {
		struct flow fresh = {v->mark, seen_s, 0};
		update(&flows, &work->flow_key, &fresh, BPF_ANY);
	}
	u32 counter = v->counter;
	struct count *c = lookup(&counts, &counter);
	if (!c)
		return TC_ACT_UNSPEC;
	c->packets++;
	c->bytes += p->length;
	if (counter >= STOPS)
		report(skb, p, c, counter, is_egress);
	return v->is_dropped ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

SECTION("tc") int allowlist_in(struct __sk_buff *skb)
{
	return classify(skb, 0);
}

SECTION("tc") int allowlist_out(struct __sk_buff *skb)
{
	return classify(skb, 1);
}

char licence[] SECTION("license") = "GPL";
