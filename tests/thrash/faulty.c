/* Preloaded into a chunk server: its disk fails on demand. Each byte of the file named in THRASH_FAULTS is a switch,
 * the chance in 255 that such a call fails: [0] reads, [1] syncs; they fail with EIO. Only files below THRASH_ROOT. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile uint8_t *switches;
static const char *root;

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("THRASH_FAULTS");
    root = getenv("THRASH_ROOT");
    int fd = path && root ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        void *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
        switches = map == MAP_FAILED ? NULL : map;
        close(fd);
    }
}

static int fails(int which, int fd) {
    static __thread uint32_t state;
    uint8_t chance = switches ? switches[which] : 0;
    if (chance == 0)
        return 0;
    char link[64], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    if (strncmp(path, root, strlen(root)) != 0)
        return 0;
    if (state == 0)
        state = (uint32_t)(uintptr_t)&state | 1;
    state = state * 1664525u + 1013904223u;
    return (state >> 24) < chance;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t pread64(int fd, void *buffer, size_t length, off64_t offset) {
    static __typeof__(&pread64) real;
    if (!real)
        real = REAL(pread64);
    if (fails(0, fd)) {
        errno = EIO;
        return -1;
    }
    return real(fd, buffer, length, offset);
}

int fdatasync(int fd) {
    static __typeof__(&fdatasync) real;
    if (!real)
        real = REAL(fdatasync);
    if (fails(1, fd)) {
        errno = EIO;
        return -1;
    }
    return real(fd);
}
