/* Faults of a machine: preloaded, this library lets a disk be full, or a clock jump, when it is told to.

   full_disk(folder, at, kind): of the calls that may need space in files under a folder, number `at` (from 1) fails with
   ENOSPC. Kind 0: that one alone; 1: that one and all after it; 2: as 1, but a write first puts half of its bytes on the
   disk, as a real one does. full_disk_calls() returns how many there have been.
   wrong_clock(seconds): the time of day is wrong by so much. Monotonic clocks go on as they are. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static char folder[PATH_MAX];
static long at, calls;
static int kind;

void full_disk(const char *path, long call, int how) {
    snprintf(folder, sizeof folder, "%s/", path);
    at = call;
    kind = how;
    calls = 0;
}

long full_disk_calls(void) { return calls; }

static int inside(const char *path) {
    char whole[PATH_MAX];
    if (!folder[0]) return 0;
    if (path[0] != '/') {
        if (!getcwd(whole, sizeof whole)) return 0;
        size_t length = strlen(whole);
        snprintf(whole + length, sizeof whole - length, "/%s", path);
        path = whole;
    }
    return strncmp(path, folder, strlen(folder)) == 0;
}

static int inside_file(int file) {
    char link[64], path[PATH_MAX];
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return inside(path);
}

/* Whether a call that is counted is to fail. */
static int full(void) {
    calls++;
    if (!at || (kind ? calls < at : calls != at)) return 0;
    errno = ENOSPC;
    return 1;
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define OPEN(name)                                                  \
    int name(const char *path, int flags, ...) {                    \
        mode_t mode = 0;                                            \
        va_list list;                                               \
        va_start(list, flags);                                      \
        if (flags & O_CREAT) mode = va_arg(list, mode_t);           \
        va_end(list);                                               \
        if ((flags & O_CREAT) && inside(path) && full()) return -1; \
        REAL(name);                \
        return real(path, flags, mode);                             \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                \
    int name(int place, const char *path, int flags, ...) {                         \
        mode_t mode = 0;                                                            \
        va_list list;                                                               \
        va_start(list, flags);                                                      \
        if (flags & O_CREAT) mode = va_arg(list, mode_t);                           \
        va_end(list);                                                               \
        if ((flags & O_CREAT) && place == AT_FDCWD && inside(path) && full()) return -1; \
        REAL(name);                           \
        return real(place, path, flags, mode);                                      \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int file, const void *bytes, size_t count) {
    REAL(write);
    if (count && inside_file(file) && full()) {
        if (kind == 2 && calls == at && count > 1) return real(file, bytes, count / 2);
        return -1;
    }
    return real(file, bytes, count);
}

#define PWRITE(name, offset_type)                                             \
    ssize_t name(int file, const void *bytes, size_t count, offset_type place) { \
        if (count && inside_file(file) && full()) return -1;                  \
        REAL(name);      \
        return real(file, bytes, count, place);                               \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int file, const struct iovec *parts, int count) {
    if (inside_file(file) && full()) return -1;
    REAL(writev);
    return real(file, parts, count);
}

#define SYNC(name)                                     \
    int name(int file) {                               \
        if (inside_file(file) && full()) return -1;    \
        REAL(name);                      \
        return real(file);                             \
    }
SYNC(fsync)
SYNC(fdatasync)

#define TWO(name)                                      \
    int name(const char *from, const char *to) {       \
        if (inside(to) && full()) return -1;           \
        REAL(name); \
        return real(from, to);                         \
    }
TWO(rename)
TWO(link)

int linkat(int a, const char *from, int b, const char *to, int flags) {
    if (inside(to) && full()) return -1;
    REAL(linkat);
    return real(a, from, b, to, flags);
}

int mkdir(const char *path, mode_t mode) {
    if (inside(path) && full()) return -1;
    REAL(mkdir);
    return real(path, mode);
}

static time_t wrong;

void wrong_clock(long seconds) { wrong = seconds; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(clock_gettime);
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME && !result) now->tv_sec += wrong;
    return result;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}
