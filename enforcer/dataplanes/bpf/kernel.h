/* The kernel as the classifier sees it: types, helper functions, constants. */
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
static long (*for_each)(void *map, void *step, void *context, u64 flags) = (void *)BPF_FUNC_for_each_map_elem;
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

#define MOST_PAYLOAD 128

