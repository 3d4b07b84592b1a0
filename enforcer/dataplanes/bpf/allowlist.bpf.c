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
#include "kernel.h"
#include "state.h"

/* For policy.h. A byte that is not there has payload_length against it. */
#define HAS(p, offset, size) ((p)->payload_length >= (offset) + (size))
#define BYTE(p, offset) ((u32)(p)->payload[offset])
#define TWO(p, offset) (BYTE(p, offset) << 8 | BYTE(p, (offset) + 1))
#define FOUR(p, offset) (TWO(p, offset) << 16 | TWO(p, (offset) + 2))

#include "policy.h"
#include "packet.h"
#include "judge.h"

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

static long sweep_one(void *map, const struct flow_key *key, struct flow *flow, u32 *swept)
{
	u32 mark = flow->mark;
	if (mark && mark < CLEAR && lookup(&sweeping, &mark)) {
		flow->mark = REVOKED;
		++*swept;
	}
	return 0;
}

/* The agent runs it when registrations have ended: their flows, by the numbers in `sweeping`, get a mark that stops them. */
SECTION("syscall") int allowlist_sweep(void *context)
{
	u32 swept = 0;
	for_each(&flows, sweep_one, &swept, 0);
	return swept;
}

char licence[] SECTION("license") = "GPL";
