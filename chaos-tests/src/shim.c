/* What a program under test gets to see of its disk and its clock, through LD_PRELOAD.
 *
 * The harness and the program share one page: a file that both map. The harness writes what shall go wrong, the shim
 * counts how often it did. Everything is zero at first, and then nothing is changed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

struct controls {
    _Atomic int64_t sync_error;    /* errno of every sync: fsync, fdatasync, a write that is durable (O_DSYNC); 0 = none */
    _Atomic int64_t sync_delay_ms; /* how much longer each of them takes */
    _Atomic int64_t clock_shift_s; /* how far CLOCK_REALTIME is off */
    _Atomic uint64_t syncs_failed;
    _Atomic uint64_t syncs_delayed;
    _Atomic uint64_t clocks_shifted;
};

static struct controls nothing;
static struct controls *controls = &nothing;
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static ssize_t (*real_pwrite64)(int, const void *, size_t, off64_t);
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    real_fsync = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    real_pwrite64 = (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    real_clock_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("PANGOLIN_CHAOS_CONTROLS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *page = mmap(NULL, sizeof(struct controls), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (page != MAP_FAILED)
        controls = page;
}

/* What happens to a sync before it is done; not 0 if it fails. */
static int sync_fault(void) {
    int64_t delay = controls->sync_delay_ms;
    if (delay > 0) {
        struct timespec time = {.tv_sec = delay / 1000, .tv_nsec = (delay % 1000) * 1000000};
        controls->syncs_delayed++;
        nanosleep(&time, NULL);
    }
    int64_t error = controls->sync_error;
    if (error != 0) {
        controls->syncs_failed++;
        errno = (int)error;
    }
    return error != 0;
}

int fsync(int fd) { return sync_fault() ? -1 : real_fsync(fd); }

int fdatasync(int fd) { return sync_fault() ? -1 : real_fdatasync(fd); }

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    if (real_pwrite64 == NULL) /* somebody writes before this library has begun */
        real_pwrite64 = (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    int durable = (fcntl(fd, F_GETFL) & O_DSYNC) != 0;
    return durable && sync_fault() ? -1 : real_pwrite64(fd, bytes, count, at);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (real_clock_gettime == NULL) /* somebody asks before this library has begun */
        real_clock_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real_clock_gettime(clock, time);
    int64_t shift = controls->clock_shift_s;
    if (result == 0 && shift != 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        controls->clocks_shifted++;
        time->tv_sec += shift;
    }
    return result;
}
