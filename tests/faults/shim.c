/* Faults under a program's file operations, preloaded (LD_PRELOAD) before the C library.
 *
 * One rule: nothing happens before fault_arm is called, and then only to operations on paths below `root` that contain
 * `match` (or, where it begins with `!`, do not contain the rest of it). Each of those that changes a file or a folder, or brings it to disk, is counted from 1 and written to a log
 * before it is done, one line each: number, milliseconds of the monotonic clock, thread, operation, bytes, path.
 * Operations on other paths below `root` are in the log too, with number 0.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum mode { COUNT, KILL, TEAR, FAIL, SHORT, SLOW, SIGNAL, CLOCK };
enum kind { OTHER, CREATES, WRITES }; /* what a full disk refuses is any but OTHER: room is taken when it is asked for */

static int armed;
static enum mode mode;
static long at, times, value;
static int log_fd = -1;
static long counted;
static char root[PATH_MAX], match[256];

#define REAL(type, name, ...)                                   \
  static type (*real)(__VA_ARGS__);                             \
  if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

/* mode: see the enum. at: the operation that it begins with. times: how many operations fail (0: all from then on), or,
 * for signals, after how many operations a second one follows (0: none). value: errno, milliseconds, signal, seconds. */
void fault_arm(const char *below, const char *containing, int what, long first, long many, long amount, int log) {
  snprintf(root, sizeof root, "%s/", below);
  snprintf(match, sizeof match, "%s", containing);
  mode = what, at = first, times = many, value = amount, log_fd = log, counted = 0;
  __atomic_store_n(&armed, 1, __ATOMIC_SEQ_CST);
}

long fault_counted(void) { return __atomic_load_n(&counted, __ATOMIC_SEQ_CST); }

static void path_of_fd(int fd, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t size = readlink(link, path, PATH_MAX - 1);
  path[size < 0 ? 0 : size] = 0;
}

static void path_at(int folder, const char *name, char *path) {
  if (name[0] == '/') {
    snprintf(path, PATH_MAX, "%s", name);
    return;
  }
  char base[PATH_MAX];
  if (folder == AT_FDCWD) {
    if (!getcwd(base, sizeof base)) base[0] = 0;
  } else {
    path_of_fd(folder, base);
  }
  if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) path[0] = 0;
}

static void note(long number, const char *operation, long bytes, const char *path) {
  if (log_fd < 0) return;
  struct timespec now;
  syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
  char line[PATH_MAX + 128];
  int size = snprintf(line, sizeof line, "%ld %ld %ld %s %ld %s\n", number,
                      now.tv_sec * 1000L + now.tv_nsec / 1000000L, (long)syscall(SYS_gettid), operation, bytes, path);
  syscall(SYS_write, log_fd, line, (size_t)size);
}

/* Count an operation; die, wait, or raise a signal where it is its turn. Returns its number, 0 where it has none. */
static long met(const char *operation, long bytes, const char *path) {
  size_t length = strlen(root);
  if (strncmp(path, root, length) != 0 && (strncmp(path, root, length - 1) != 0 || path[length - 1] != 0)) return 0;
  int wanted = match[0] == '!' ? strstr(path, match + 1) == NULL : strstr(path, match) != NULL;
  long number = wanted ? __atomic_add_fetch(&counted, 1, __ATOMIC_SEQ_CST) : 0;
  note(number, operation, bytes, path);
  if (!number) return 0;
  if (mode == KILL && number == at) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
  }
  if (mode == SIGNAL && (number == at || (times && number == at + times))) kill(getpid(), (int)value);
  if (mode == SLOW && number >= at) {
    struct timespec wait = {value / 1000, value % 1000 * 1000000L};
    syscall(SYS_nanosleep, &wait, NULL);
  }
  return number;
}

static int fails(long number, enum kind kind) {
  if (mode != FAIL || number < at || number == 0 || (times && number >= at + times)) return 0;
  if ((value == ENOSPC || value == EDQUOT) && kind == OTHER) return 0;
  errno = (int)value;
  return 1;
}

/* Give a file or a folder the time of the shifted clock: the kernel's own is not shifted. */
static void stamp(long number, int fd, const char *path) {
  if (mode != CLOCK || number < at || number == 0) return;
  struct timespec now;
  syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
  now.tv_sec += value;
  struct timespec both[2] = {now, now};
  int before = errno;
  if (path) utimensat(AT_FDCWD, path, both, AT_SYMLINK_NOFOLLOW);
  else futimens(fd, both);
  errno = before;
}

/* ── opening ─────────────────────────────────────────────────────────────────────────────────────────────────── */

static int changes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC)); }

#define OPENED(call)                                                    \
  if (!__atomic_load_n(&armed, __ATOMIC_SEQ_CST) || !changes(flags)) return call; \
  char path[PATH_MAX];                                                  \
  path_at(folder, name, path);                                          \
  long number = met("open", 0, path);                                   \
  if (fails(number, flags & O_CREAT ? CREATES : OTHER)) return -1;      \
  int fd = call;                                                        \
  if (fd >= 0) stamp(number, fd, NULL);                                 \
  return fd;

#define FLAGS_MODE                                   \
  mode_t bits = 0;                                   \
  if (flags & (O_CREAT | O_TMPFILE)) {               \
    va_list rest;                                    \
    va_start(rest, flags);                           \
    bits = va_arg(rest, mode_t);                     \
    va_end(rest);                                    \
  }

#define OPEN(function)                                        \
  int function(const char *name, int flags, ...) {            \
    REAL(int, function, const char *, int, ...);              \
    FLAGS_MODE                                                \
    int folder = AT_FDCWD;                                    \
    OPENED(real(name, flags, bits))                           \
  }
#define OPENAT(function)                                      \
  int function(int folder, const char *name, int flags, ...) { \
    REAL(int, function, int, const char *, int, ...);         \
    FLAGS_MODE                                                \
    OPENED(real(folder, name, flags, bits))                   \
  }
#define CREAT(function)                                       \
  int function(const char *name, mode_t bits) {               \
    REAL(int, function, const char *, mode_t);                \
    int flags = O_CREAT | O_WRONLY | O_TRUNC, folder = AT_FDCWD; \
    OPENED(real(name, bits))                                  \
  }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
CREAT(creat)
CREAT(creat64)

/* ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────── */

/* `call(size)` writes that many of the bytes; a torn write, the first from `at` on that has two, does half and dies. */
#define WRITTEN(label, fd, bytes, call)                                            \
  if (!__atomic_load_n(&armed, __ATOMIC_SEQ_CST)) return call(bytes);              \
  char path[PATH_MAX];                                                             \
  path_of_fd(fd, path);                                                            \
  long number = met(label, (long)(bytes), path);                                   \
  if (number && mode == TEAR && number >= at && (bytes) > 1) {                     \
    (void)!call((bytes) / 2);                                                      \
    kill(getpid(), SIGKILL);                                                       \
    for (;;) pause();                                                              \
  }                                                                                \
  if (fails(number, WRITES)) return -1;                                            \
  ssize_t done = number && mode == SHORT && number >= at && (bytes) > 1 ? call((bytes) / 2) : call(bytes); \
  if (done >= 0) stamp(number, fd, NULL);                                          \
  return done;

ssize_t write(int fd, const void *data, size_t bytes) {
  REAL(ssize_t, write, int, const void *, size_t);
#define CALL(size) real(fd, data, size)
  WRITTEN("write", fd, bytes, CALL)
#undef CALL
}
#define PWRITE(function, offset_type)                                              \
  ssize_t function(int fd, const void *data, size_t bytes, offset_type offset) {   \
    REAL(ssize_t, function, int, const void *, size_t, offset_type);               \
    WRITTEN("write", fd, bytes, PWRITE_CALL)                                       \
  }
#define PWRITE_CALL(size) real(fd, data, size, offset)
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)
#undef PWRITE_CALL

static size_t total(const struct iovec *parts, int count) {
  size_t sum = 0;
  for (int i = 0; i < count; i++) sum += parts[i].iov_len;
  return sum;
}

/* Cut the parts down to `size` bytes; returns how many parts are left. */
static int cut(const struct iovec *parts, int count, size_t size, struct iovec *out) {
  int used = 0;
  for (int i = 0; i < count && size; i++) {
    out[used] = parts[i];
    if (out[used].iov_len > size) out[used].iov_len = size;
    size -= out[used++].iov_len;
  }
  return used;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  REAL(ssize_t, writev, int, const struct iovec *, int);
  struct iovec some[IOV_MAX];
  size_t bytes = total(parts, count);
#define CALL(size) ((size) == bytes ? real(fd, parts, count) : real(fd, some, cut(parts, count, size, some)))
  WRITTEN("write", fd, bytes, CALL)
#undef CALL
}
#define PWRITEV(function, offset_type)                                                        \
  ssize_t function(int fd, const struct iovec *parts, int count, offset_type offset) {        \
    REAL(ssize_t, function, int, const struct iovec *, int, offset_type);                     \
    struct iovec some[IOV_MAX];                                                               \
    size_t bytes = total(parts, count);                                                       \
    WRITTEN("write", fd, bytes, PWRITEV_CALL)                                                 \
  }
#define PWRITEV_CALL(size) \
  ((size) == bytes ? real(fd, parts, count, offset) : real(fd, some, cut(parts, count, size, some), offset))
PWRITEV(pwritev, off_t)
PWRITEV(pwritev64, off64_t)
#undef PWRITEV_CALL

#define SENDFILE(function, offset_type)                                          \
  ssize_t function(int fd, int from, offset_type *offset, size_t bytes) {        \
    REAL(ssize_t, function, int, int, offset_type *, size_t);                    \
    WRITTEN("write", fd, bytes, SENDFILE_CALL)                                   \
  }
#define SENDFILE_CALL(size) real(fd, from, offset, size)
SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)
#undef SENDFILE_CALL

ssize_t copy_file_range(int from, off64_t *from_offset, int fd, off64_t *to_offset, size_t bytes, unsigned flags) {
  REAL(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned);
#define CALL(size) real(from, from_offset, fd, to_offset, size, flags)
  WRITTEN("write", fd, bytes, CALL)
#undef CALL
}

/* ── what is done to an open file ────────────────────────────────────────────────────────────────────────────── */

#define ON_FD(type, label, kind, function, call, failure, ...) \
  type function(__VA_ARGS__) {                                 \
    REAL(type, function, __VA_ARGS__);                         \
    if (!__atomic_load_n(&armed, __ATOMIC_SEQ_CST)) return call; \
    char path[PATH_MAX];                                       \
    path_of_fd(fd, path);                                      \
    if (fails(met(label, 0, path), kind)) return failure;      \
    return call;                                               \
  }
ON_FD(int, "fsync", OTHER, fsync, real(fd), -1, int fd)
ON_FD(int, "fsync", OTHER, fdatasync, real(fd), -1, int fd)
ON_FD(int, "fsync", OTHER, syncfs, real(fd), -1, int fd)
ON_FD(int, "fsync", OTHER, sync_file_range, real(fd, offset, bytes, flags), -1, int fd, off64_t offset, off64_t bytes,
      unsigned flags)
ON_FD(int, "truncate", OTHER, ftruncate, real(fd, size), -1, int fd, off_t size)
ON_FD(int, "truncate", OTHER, ftruncate64, real(fd, size), -1, int fd, off64_t size)
ON_FD(int, "allocate", WRITES, fallocate, real(fd, bits, offset, size), -1, int fd, int bits, off_t offset, off_t size)
ON_FD(int, "allocate", WRITES, fallocate64, real(fd, bits, offset, size), -1, int fd, int bits, off64_t offset,
      off64_t size)
ON_FD(int, "allocate", WRITES, posix_fallocate, real(fd, offset, size), (int)value, int fd, off_t offset, off_t size)
ON_FD(int, "allocate", WRITES, posix_fallocate64, real(fd, offset, size), (int)value, int fd, off64_t offset,
      off64_t size)

/* ── names ───────────────────────────────────────────────────────────────────────────────────────────────────── */

/* `changed` is the name that there is afterwards, or "" where none is of interest. */
#define ON_NAME(label, kind, folder, name, call, changed)                \
  if (!__atomic_load_n(&armed, __ATOMIC_SEQ_CST)) return call;           \
  char path[PATH_MAX];                                                   \
  path_at(folder, name, path);                                           \
  long number = met(label, 0, path);                                     \
  if (fails(number, kind)) return -1;                                    \
  int done = call;                                                       \
  if (done == 0 && *(changed)) stamp(number, -1, changed);                \
  return done;

int rename(const char *from, const char *to) {
  REAL(int, rename, const char *, const char *);
  ON_NAME("rename", OTHER, AT_FDCWD, from, real(from, to), to)
}
int renameat(int from_folder, const char *from, int to_folder, const char *to) {
  REAL(int, renameat, int, const char *, int, const char *);
  ON_NAME("rename", OTHER, from_folder, from, real(from_folder, from, to_folder, to), "")
}
int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
  REAL(int, renameat2, int, const char *, int, const char *, unsigned);
  ON_NAME("rename", OTHER, from_folder, from, real(from_folder, from, to_folder, to, flags), "")
}
int mkdir(const char *name, mode_t bits) {
  REAL(int, mkdir, const char *, mode_t);
  ON_NAME("mkdir", CREATES, AT_FDCWD, name, real(name, bits), name)
}
int mkdirat(int folder, const char *name, mode_t bits) {
  REAL(int, mkdirat, int, const char *, mode_t);
  ON_NAME("mkdir", CREATES, folder, name, real(folder, name, bits), "")
}
int unlink(const char *name) {
  REAL(int, unlink, const char *);
  ON_NAME("unlink", OTHER, AT_FDCWD, name, real(name), "")
}
int unlinkat(int folder, const char *name, int flags) {
  REAL(int, unlinkat, int, const char *, int);
  ON_NAME(flags & AT_REMOVEDIR ? "rmdir" : "unlink", OTHER, folder, name, real(folder, name, flags), "")
}
int rmdir(const char *name) {
  REAL(int, rmdir, const char *);
  ON_NAME("rmdir", OTHER, AT_FDCWD, name, real(name), "")
}
int link(const char *from, const char *to) {
  REAL(int, link, const char *, const char *);
  ON_NAME("link", CREATES, AT_FDCWD, to, real(from, to), "")
}
int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
  REAL(int, linkat, int, const char *, int, const char *, int);
  ON_NAME("link", CREATES, to_folder, to, real(from_folder, from, to_folder, to, flags), "")
}
int symlink(const char *target, const char *name) {
  REAL(int, symlink, const char *, const char *);
  ON_NAME("symlink", CREATES, AT_FDCWD, name, real(target, name), "")
}
int symlinkat(const char *target, int folder, const char *name) {
  REAL(int, symlinkat, const char *, int, const char *);
  ON_NAME("symlink", CREATES, folder, name, real(target, folder, name), "")
}
#define TRUNCATE(function, offset_type)                                   \
  int function(const char *name, offset_type size) {                     \
    REAL(int, function, const char *, offset_type);                      \
    ON_NAME("truncate", OTHER, AT_FDCWD, name, real(name, size), name)   \
  }
TRUNCATE(truncate, off_t)
TRUNCATE(truncate64, off64_t)

/* ── the clock ───────────────────────────────────────────────────────────────────────────────────────────────── */

static time_t shift(void) {
  return __atomic_load_n(&armed, __ATOMIC_SEQ_CST) && mode == CLOCK && fault_counted() >= at ? value : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  REAL(int, clock_gettime, clockid_t, struct timespec *);
  int done = real(clock, now);
  if (done == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += shift();
  return done;
}
time_t time(time_t *out) {
  struct timespec now;
  syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
  now.tv_sec += shift();
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  REAL(int, gettimeofday, struct timeval *restrict, void *restrict);
  int done = real(now, zone);
  if (done == 0) now->tv_sec += shift();
  return done;
}
