/* LD_PRELOAD: the wall clock of one process is ahead by so many nanoseconds as the file $CLOCK_AHEAD holds (8 bytes, this machine's
 * order), and changes when the file does. No other clock is touched. (libfaketime breaks clock_nanosleep or deadlocks in threads.) */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t none, *ahead = &none;

__attribute__((constructor)) static void find_file(void)
{
	const char *path = getenv("CLOCK_AHEAD");
	int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	void *page = file < 0 ? MAP_FAILED : mmap(NULL, sizeof(*ahead), PROT_READ, MAP_SHARED, file, 0);

	if (page != MAP_FAILED)
		ahead = page;
}

int clock_gettime(clockid_t which, struct timespec *out)
{
	int64_t ns;
	int failed = syscall(SYS_clock_gettime, which, out);

	if (failed || (which != CLOCK_REALTIME && which != CLOCK_REALTIME_COARSE))
		return failed;
	ns = out->tv_sec * INT64_C(1000000000) + out->tv_nsec + *ahead;
	out->tv_sec = ns / 1000000000;
	out->tv_nsec = ns % 1000000000;
	return 0;
}
