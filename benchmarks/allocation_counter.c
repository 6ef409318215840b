/* Counts what a process asks the C library's allocator for, by standing before it (LD_PRELOAD).
 *
 * With PYTHONMALLOC=malloc every object that Python makes is asked for here too. Counts are of the whole process.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static atomic_long asked, given_back, bytes, largest;

static void count(size_t size) {
    long before = atomic_load(&largest);
    atomic_fetch_add(&asked, 1);
    atomic_fetch_add(&bytes, (long)size);
    while ((long)size > before && !atomic_compare_exchange_weak(&largest, &before, (long)size)) {
    }
}

/* [0] pieces asked for, [1] pieces given back, [2] bytes asked for, [3] the largest piece since the last call. */
void allocation_counts(long *into) {
    into[0] = atomic_load(&asked);
    into[1] = atomic_load(&given_back);
    into[2] = atomic_load(&bytes);
    into[3] = atomic_exchange(&largest, 0);
}

void *malloc(size_t size) {
    count(size);
    return __libc_malloc(size);
}

void *calloc(size_t number, size_t size) {
    count(number * size);
    return __libc_calloc(number, size);
}

/* A piece that changes its size is one that is given back, and another. */
void *realloc(void *old, size_t size) {
    if (old) atomic_fetch_add(&given_back, 1);
    count(size);
    return __libc_realloc(old, size);
}

void free(void *piece) {
    if (piece) atomic_fetch_add(&given_back, 1);
    __libc_free(piece);
}

void *memalign(size_t alignment, size_t size) {
    count(size);
    return __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **given, size_t alignment, size_t size) {
    *given = memalign(alignment, size);
    return *given ? 0 : ENOMEM;
}
