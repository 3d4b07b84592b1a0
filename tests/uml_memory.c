/*
 * Is memory what it should be, where the kernel guesses what an access was and gives pages before they are asked for? Mappings private,
 * shared, write-only and read-only, of files and of none, through forks and faults. Prints "ok", or what was wrong.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 64 };
static sigjmp_buf back;
static volatile int code;
static void *volatile where;
static int wrong;

static void check(int right, const char *what)
{
	if (!right)
		wrong++, printf("%s\n", what);
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
	(void)context;
	code = sig * 100 + info->si_code;
	where = info->si_addr;
	siglongjmp(back, 1);
}

/* What an access to address gives: 0, or the signal and its code. */
static int touch(volatile char *address, int write)
{
	code = 0;
	if (!sigsetjmp(back, 1)) {
		if (write)
			*address = 'w';
		else
			(void)*address;
	} else if (where != address)
		check(0, "a fault names another address");
	return code;
}

static char *map(int prot, int flags, int fd)
{
	char *at = mmap(0, PAGES * PAGE, prot, flags, fd, 0);
	if (at == MAP_FAILED)
		perror("mmap"), exit(1);
	return at;
}

static int in_child(char *memory)	/* sees what its parent wrote, and what it writes itself stays its own */
{
	for (int i = 0; i < PAGES; i++)
		if (memory[i * PAGE] != 'a' + i % 26)
			return 1;
	for (int i = 0; i < PAGES; i += 3)
		memory[i * PAGE] = 'C';
	for (int i = 0; i < PAGES; i++)
		if (memory[i * PAGE] != (i % 3 ? 'a' + i % 26 : 'C'))
			return 2;
	return 0;
}

static void forks(void)
{
	char *memory = map(3, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	int status;
	for (int i = 0; i < PAGES; i++)
		memory[i * PAGE] = 'a' + i % 26;
	for (int round = 0; round < 3; round++) {
		pid_t child = fork();
		if (!child) {
			pid_t grandchild = fork();
			if (!grandchild)
				_exit(in_child(memory));
			waitpid(grandchild, &status, 0);
			_exit(status || in_child(memory));
		}
		memory[7 * PAGE + 1] = round;	/* between the child's first run and its end */
		waitpid(child, &status, 0);
		check(!status, "a child sees other memory than its parent wrote, or loses its own");
	}
	for (int i = 0; i < PAGES; i++)
		check(memory[i * PAGE] == 'a' + i % 26, "a child's write is seen by its parent");
}

static void files(const char *path)
{
	char buffer[PAGES * PAGE], *shared, *own, *reading, *writing;
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	memset(buffer, 'f', sizeof buffer);
	if (fd < 0 || write(fd, buffer, sizeof buffer) != sizeof buffer)
		perror(path), exit(1);
	own = map(3, MAP_PRIVATE, fd);
	for (int i = 0; i < PAGES; i += 2)
		own[i * PAGE] = 'p';
	for (int i = 0; i < PAGES; i++)
		check(own[i * PAGE] == (i % 2 ? 'f' : 'p') && own[i * PAGE + 1] == 'f', "a private mapping has lost a write or its file");
	shared = map(3, MAP_SHARED, fd);
	check(shared[0] == 'f' && shared[5 * PAGE] == 'f', "a private mapping's write is in its file");
	shared[5 * PAGE] = 's';
	writing = map(PROT_WRITE, MAP_SHARED, fd);
	check(touch(writing + 9 * PAGE, 1) == 0, "a mapping for writing alone cannot be written");
	check(pread(fd, buffer, sizeof buffer, 0) == sizeof buffer && buffer[5 * PAGE] == 's' && buffer[9 * PAGE] == 'w',
	      "a shared mapping's write is not in its file");
	reading = map(PROT_READ, MAP_SHARED, fd);
	check(reading[5 * PAGE] == 's', "a mapping for reading sees something else");
	check(touch(reading + 5 * PAGE, 1) == SIGSEGV * 100 + SEGV_ACCERR, "what is there for reading can be written");
	mprotect(reading, PAGE, PROT_READ | PROT_WRITE);
	check(touch(reading, 1) == 0, "what was made writable cannot be written");
	check(!ftruncate(fd, 32 * PAGE) && touch(shared + 40 * PAGE, 0) == SIGBUS * 100 + BUS_ADRERR,
	      "beyond a file's end there is no bus error");
	unlink(path);
}

static int deep(int depth)	/* the stack grows */
{
	volatile char room[3000];
	room[0] = depth;
	return depth ? deep(depth - 1) + (room[0] == (char)depth) : 0;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	char *memory;

	sigaction(SIGSEGV, &action, 0);
	sigaction(SIGBUS, &action, 0);
	forks();
	files(argc > 1 ? argv[1] : "memory.tmp");
	check(deep(1000) == 1000, "the stack has lost something");
	memory = map(3, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	for (int i = 0; i < PAGES * PAGE; i += 512)
		check(!memory[i], "fresh memory is not empty");
	memory[20 * PAGE] = 'x';
	madvise(memory, PAGES * PAGE, MADV_DONTNEED);
	check(!memory[20 * PAGE], "memory that was given back is not empty");
	munmap(memory + 8 * PAGE, PAGE);
	check(touch(memory + 7 * PAGE, 1) == 0 && touch(memory + 9 * PAGE, 1) == 0, "memory beside a hole is gone");
	check(touch(memory + 8 * PAGE, 0) == SIGSEGV * 100 + SEGV_MAPERR, "memory that was unmapped is there");
	mprotect(memory + 16 * PAGE, PAGE, PROT_NONE);
	check(touch(memory + 16 * PAGE, 0) == SIGSEGV * 100 + SEGV_ACCERR, "memory without any right can be read");
	check(touch((char *)8, 1) == SIGSEGV * 100 + SEGV_MAPERR, "the first page is there");
	printf(wrong ? "%d wrong\n" : "ok\n", wrong);
	return wrong != 0;
}
