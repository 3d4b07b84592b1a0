/* Reading a packet: headers, the first bytes of its payload, the key of its flow. */
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
	if (!p->payload_length)
		return;
	/* The size is said as 1 + something: before Linux 6.8 the verifier does not follow from "size != 0" that it is at least 1. */
	u32 more = p->payload_length - 1;
	if (more > MOST_PAYLOAD - 2)
		more = MOST_PAYLOAD - 2;
	asm volatile("" : "+r"(more));
	more &= MOST_PAYLOAD - 1;
	if (load(skb, p->offset, p->payload, more + 1, BPF_HDR_START_NET))
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

