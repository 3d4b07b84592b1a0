/* What the classifier keeps: maps and what lies in them. enforcer/dataplanes/bpf_maps.py has the same, in Python. */
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

/* Network order. */
struct cell4_key {
	u32 shape, subscriber, endpoint;
	u16 port, unused;
};

struct cell6_key {
	u32 shape, subscriber[4], endpoint[4];
	u16 port, unused;
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
	u64 word; /* serial << 8 | whether any registration has a state << 3 | fallback << 1 | slot */
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
	struct cell4_key cell4_key;
	struct cell6_key cell6_key;
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
MAP(BPF_MAP_TYPE_HASH, struct cell4_key, struct versioned, 4096, BPF_F_NO_PREALLOC, cells4);
MAP(BPF_MAP_TYPE_HASH, struct cell6_key, struct versioned, 4096, BPF_F_NO_PREALLOC, cells6);
MAP(BPF_MAP_TYPE_HASH, u32, struct versioned, 4096, BPF_F_NO_PREALLOC, states);
MAP(BPF_MAP_TYPE_LRU_HASH, struct flow_key, struct flow, 4096, 0, flows);
MAP(BPF_MAP_TYPE_HASH, u32, u32, MOST_SWEPT, 0, sweeping);
MAP(BPF_MAP_TYPE_ARRAY, u32, struct shapes, 4, 0, shapes);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, u32, struct count, COUNTERS + 1, 0, counts);
MAP(BPF_MAP_TYPE_PERCPU_ARRAY, u32, struct work, 1, 0, works);
MAP(BPF_MAP_TYPE_HASH, u32, u32, 1024, BPF_F_NO_PREALLOC, insides);

struct {
	int(*type)[BPF_MAP_TYPE_RINGBUF];
	int(*max_entries)[1 << 20];
} events SECTION(".maps");

