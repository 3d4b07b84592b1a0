/*
 * Are a thread's vector and x87 registers its own? Every thread fills them with values of its own, calls the kernel so that others run,
 * faults pages, forks, is interrupted by handlers that clobber them, and looks whether all are still there. Prints "ok", or what was lost.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

enum { NOTHING, YIELD, SLEEP, FAULT, KILL, FORK, VFORK, THREAD, EXEC, ALARM, SEGV, HOWS };
static const char *const names[] = { "nothing", "yield", "sleep", "fault", "kill", "fork", "vfork", "thread", "exec", "alarm", "segv" };

struct state {			/* what the registers hold, and what was found */
	uint64_t zmm[32][8];
	uint64_t k[8];
	double x87;
	uint32_t mxcsr;
	uint16_t cwd;
};
static int has_avx, has_512;
static volatile int handled;

static void fill(struct state *s, uint64_t seed)
{
	uint64_t z = seed;
	memset(s, 0, sizeof *s);
	for (int i = 0; i < 32; i++)
		for (int j = 0; j < 8; j++) {
			z = z * 6364136223846793005ull + 1442695040888963407ull;
			s->zmm[i][j] = z;
		}
	for (int i = 0; i < 8; i++)
		s->k[i] = seed * 77 + i;
	s->x87 = seed + 0.5;
	s->mxcsr = 0x1f80 | (seed % 4) << 13;	/* rounding mode */
	s->cwd = 0x37f | (seed % 4) << 10;
}

#define X(i) "vmovdqu64 " #i "*64(%0), %%zmm" #i "\n"
#define Y(i) "vmovdqu64 %%zmm" #i ", " #i "*64(%0)\n"
#define X2(i) "vmovdqu " #i "*64(%0), %%ymm" #i "\n"
#define Y2(i) "vmovdqu %%ymm" #i ", " #i "*64(%0)\n"
#define X1(i) "movdqu " #i "*64(%0), %%xmm" #i "\n"
#define Y1(i) "movdqu %%xmm" #i ", " #i "*64(%0)\n"
#define LOW(m) m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7) m(8) m(9) m(10) m(11) m(12) m(13) m(14) m(15)
#define HIGH(m) m(16) m(17) m(18) m(19) m(20) m(21) m(22) m(23) m(24) m(25) m(26) m(27) m(28) m(29) m(30) m(31)
#define CLOBBER "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", \
	"xmm12", "xmm13", "xmm14", "xmm15", "rax", "rcx", "r11"

static inline __attribute__((always_inline)) void load(const struct state *s)
{
	const void *k = s->k;
	if (has_512)
		__asm__ volatile(LOW(X) HIGH(X) "kmovq 8(%1),%%k1\nkmovq 16(%1),%%k2\nkmovq 24(%1),%%k3\nkmovq 56(%1),%%k7\n"
				 :: "r"(s->zmm), "r"(k) : CLOBBER);
	else if (has_avx)
		__asm__ volatile(LOW(X2) :: "r"(s->zmm) : CLOBBER);
	else
		__asm__ volatile(LOW(X1) :: "r"(s->zmm) : CLOBBER);
	__asm__ volatile("fninit\nfldcw %1\nfldl %0\nldmxcsr %2\n" :: "m"(s->x87), "m"(s->cwd), "m"(s->mxcsr) : "memory");
}

static inline __attribute__((always_inline)) void store(struct state *s)
{
	void *k = s->k;
	if (has_512)
		__asm__ volatile(LOW(Y) HIGH(Y) "kmovq %%k1,8(%1)\nkmovq %%k2,16(%1)\nkmovq %%k3,24(%1)\nkmovq %%k7,56(%1)\n"
				 :: "r"(s->zmm), "r"(k) : "memory");
	else if (has_avx)
		__asm__ volatile(LOW(Y2) :: "r"(s->zmm) : "memory");
	else
		__asm__ volatile(LOW(Y1) :: "r"(s->zmm) : "memory");
	__asm__ volatile("fnstcw %1\nfstpl %0\nstmxcsr %2\nfninit\n" : "=m"(s->x87), "=m"(s->cwd), "=m"(s->mxcsr) :: "memory");
	uint32_t usual = 0x1f80;
	__asm__ volatile("ldmxcsr %0" :: "m"(usual));
}

static int differs(const struct state *a, const struct state *b)
{
	int words = has_512 ? 8 : has_avx ? 4 : 2, count = has_512 ? 32 : 16;
	for (int i = 0; i < count; i++)
		if (memcmp(a->zmm[i], b->zmm[i], words * 8))
			return 1 + i;
	if (has_512)
		for (int i = 1; i < 8; i++)
			if ((i < 4 || i == 7) && a->k[i] != b->k[i])
				return 64 + i;
	return a->x87 != b->x87 ? 80 : a->cwd != b->cwd ? 81 : (a->mxcsr ^ b->mxcsr) & 0xffc0 ? 82 : 0;
}

static inline __attribute__((always_inline)) long call(long n, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e;
	long r;
	__asm__ volatile("syscall" : "=a"(r) : "0"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
	return r;
}

static void *idle(void *x)
{
	struct state s;
	fill(&s, 4242);
	load(&s);
	return x;
}

static void handler(int sig, siginfo_t *info, void *context)
{
	struct state s;
	(void)sig;
	fill(&s, 999);
	load(&s);
	call(SYS_sched_yield, 0, 0, 0, 0, 0);
	handled++;
	if (sig == SIGSEGV)	/* let the access succeed */
		mprotect((void *)((uintptr_t)info->si_addr & ~4095ul), 4096, PROT_READ | PROT_WRITE);
	(void)context;
	load(&s);
}

static int child_ok(struct state *want)	/* called by a fork's child: its registers are the parent's */
{
	struct state got;
	store(&got);
	return differs(want, &got);
}

static int one(int how, uint64_t seed)
{
	static __thread char *pages;
	struct state want, got;
	struct timespec ms = { 0, 1000000 };
	struct itimerval soon = { { 0, 0 }, { 0, 1000 } };
	int before, status = 0;
	long pid = 0;
	char *page = 0;
	pthread_t other;

	fill(&want, seed);
	if (how == FAULT || how == SEGV)
		page = pages = mmap(0, 1 << 20, how == FAULT ? 3 : 0, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	switch (how) {
	case NOTHING: load(&want); break;
	case YIELD: load(&want); for (int i = 0; i < 3; i++) call(SYS_sched_yield, 0, 0, 0, 0, 0); break;
	case SLEEP: load(&want); call(SYS_nanosleep, (long)&ms, 0, 0, 0, 0); break;
	case FAULT: load(&want); for (int i = 0; i < 1 << 20; i += 8192) *(volatile char *)(page + i) = 1; break;
	case KILL: load(&want); call(SYS_tgkill, getpid(), call(SYS_gettid, 0, 0, 0, 0, 0), SIGUSR1, 0, 0); break;
	case FORK: load(&want); pid = call(SYS_fork, 0, 0, 0, 0, 0); if (!pid) _exit(child_ok(&want) != 0); break;
	case VFORK: load(&want); pid = call(SYS_clone, 0x4100 | SIGCHLD, 0, 0, 0, 0);	/* VM, VFORK */
		if (!pid) { load(&(struct state){ .cwd = 0x37f, .mxcsr = 0x1f80 }); call(SYS_exit, 0, 0, 0, 0, 0); } break;
	case THREAD: pthread_create(&other, 0, idle, 0); load(&want); call(SYS_sched_yield, 0, 0, 0, 0, 0); break;
	case EXEC: load(&want); pid = call(SYS_fork, 0, 0, 0, 0, 0); if (!pid) { execl("/proc/self/exe", "fp", "fresh", (char *)0); _exit(9); }
		call(SYS_wait4, pid, (long)&status, 0, 0, 0); break;
	case ALARM: before = handled; setitimer(ITIMER_REAL, &soon, 0); load(&want); while (handled == before) call(SYS_nanosleep, (long)&ms, 0, 0, 0, 0); break;
	case SEGV: load(&want); *(volatile char *)(page + 4096 * 3) = 1; break;
	}
	store(&got);
	if (how == FORK || how == VFORK)
		waitpid(pid, &status, __WALL);
	if (how == THREAD)
		pthread_join(other, 0);
	if (page)
		munmap(page, 1 << 20);
	int lost = differs(&want, &got);
	if (lost || (pid && status))
		printf("%s: register %d lost in the caller, status %x of the child\n", names[how], lost, status);
	return lost || (pid && status);
}

static void *worker(void *arg)
{
	long bad = 0, number = (long)arg;
	sigset_t alarms;
	sigemptyset(&alarms);
	sigaddset(&alarms, SIGALRM);
	if (number)
		pthread_sigmask(SIG_BLOCK, &alarms, 0);
	for (int i = 0; i < 20; i++)
		for (int how = 0; how < HOWS; how++)
			if (how != ALARM || !number)
				bad += one(how, number * 1000 + i * 31 + how * 7 + 1);
	return (void *)bad;
}

static int traced(void)		/* a debugger sees and changes the registers of the one it traces, not its own */
{
	struct state want, got;
	struct user_fpregs_struct regs;
	int status;
	fill(&want, 5);
	pid_t pid = fork();
	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		load(&want);
		call(SYS_kill, getpid(), SIGSTOP, 0, 0, 0);
		store(&got);
		want.zmm[3][1] = 12345;
		_exit(differs(&want, &got));
	}
	load(&(struct state){ .cwd = 0x37f, .mxcsr = 0x1f80 });
	waitpid(pid, &status, 0);
	if (ptrace(PTRACE_GETFPREGS, pid, 0, &regs) || memcmp((char *)regs.xmm_space + 3 * 16, want.zmm[3], 16)) {
		printf("traced: the debugger reads other registers\n");
		return 1;
	}
	memcpy((char *)regs.xmm_space + 3 * 16 + 8, &(uint64_t){ 12345 }, 8);
	ptrace(PTRACE_SETFPREGS, pid, 0, &regs);
	ptrace(PTRACE_CONT, pid, 0, 0);
	waitpid(pid, &status, 0);
	if (status)
		printf("traced: status %x: what the debugger wrote did not arrive\n", status);
	return status != 0;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART | SA_NODEFER };
	pthread_t threads[4];
	void *bad;
	long sum = 0;
	uint32_t mxcsr;
	uint16_t cwd;

	(void)argv;
	__asm__ volatile("stmxcsr %0\nfnstcw %1" : "=m"(mxcsr), "=m"(cwd));
	if (mxcsr != 0x1f80 || cwd != 0x37f) {
		printf("a program begins with mxcsr %x, control word %x\n", mxcsr, cwd);
		return 1;
	}
	if (argc > 1 && !strcmp(argv[1], "fresh"))
		return 0;
	has_avx = __builtin_cpu_supports("avx");
	has_512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
	sigaction(SIGUSR1, &action, 0);
	sigaction(SIGALRM, &action, 0);
	sigaction(SIGSEGV, &action, 0);
	for (long i = 1; i < 4; i++)
		pthread_create(&threads[i], 0, worker, (void *)i);
	sum = (long)worker(0);
	for (int i = 1; i < 4; i++) {
		pthread_join(threads[i], &bad);
		sum += (long)bad;
	}
	sum += traced();
	if (!handled)
		sum++, printf("no signal was handled\n");
	printf(sum ? "%ld lost\n" : "ok\n", sum);
	return sum != 0;
}
