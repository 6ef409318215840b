/* A driver of CUDA without a GPU: the functions that agp_edge/cuda calls, over malloc and memcpy.
 *
 * It is stricter than a driver: what is freed twice, or while a copy of it waits, or used without a context, is counted as
 * wrong. Copies are done when a stream is synchronised and not before, so that who does not wait reads nothing.
 * Nothing that runs on it says anything of a GPU.
 */
#include <stdlib.h>
#include <string.h>

typedef unsigned long long address;
typedef struct { int kind; address at; size_t size; } thing;
typedef struct { address stream, target, source; size_t size; void (*work)(void); } job;

enum { DEVICE, HOST, STREAM, MOST = 256, CONTEXT = 0xC0 };
enum { OUT_OF_MEMORY = 2, INVALID_VALUE = 1, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, ACTIVE = 708 };

static thing things[MOST];
static job jobs[MOST];
static int count_things, count_jobs, retained, wrong, active, offered = 1, integrated;
static int failing_in, failing_code, failing_sticky, lost;
static char log_of_calls[1 << 16];
static __thread int current;

/* --- for the tests ---------------------------------------------------------------------------------- */

void stand_in_reset(int devices, int is_integrated, int is_active) {
    count_things = count_jobs = retained = wrong = failing_in = lost = current = 0;
    offered = devices;
    integrated = is_integrated;
    active = is_active;
    log_of_calls[0] = 0;
}

/* The n-th call from now on, counted from 1, gives that code; if sticky, so does every later one. */
void stand_in_fail(int n, int code, int sticky) {
    failing_in = n;
    failing_code = code;
    failing_sticky = sticky;
}

void stand_in_misuse(void) { wrong++; }
int stand_in_live(void) { return count_things + retained; }
int stand_in_wrong(void) { return wrong; }
const char *stand_in_log(void) { return log_of_calls; }

void stand_in_note(const char *what) {
    if (strlen(log_of_calls) + strlen(what) + 2 < sizeof log_of_calls) {
        strcat(log_of_calls, what);
        strcat(log_of_calls, " ");
    }
}

static void enqueue(job one) {
    if (count_jobs < MOST) jobs[count_jobs++] = one;
    else wrong++;
}

/* What a library queues by itself, as TensorRT does with kernels. */
void stand_in_enqueue(address stream, void (*work)(void)) {
    job one = {stream, 0, 0, 0, work};
    enqueue(one);
}

/* --- what the calls share --------------------------------------------------------------------------- */

static int enter(const char *name) {
    stand_in_note(name);
    if (lost) return lost;
    if (failing_in && --failing_in == 0) {
        if (failing_sticky) {
            lost = failing_code;
            count_jobs = 0;
        }
        return failing_code;
    }
    return 0;
}

static int find(int kind, address at) {
    for (int i = 0; i < count_things; i++)
        if (things[i].kind == kind && things[i].at <= at && at < things[i].at + things[i].size) return i;
    return -1;
}

static int add(int kind, size_t size, address *given) {
    if (!current) return wrong++, INVALID_CONTEXT;
    if (!size) return INVALID_VALUE;
    if (count_things == MOST) return OUT_OF_MEMORY;
    thing one = {kind, (address)(size_t)calloc(1, size), size};
    things[count_things++] = one;
    *given = one.at;
    return 0;
}

/* Frees even if the call is to fail: a driver then tells the error of earlier work. */
static int drop(const char *name, int kind, address at) {
    int code = enter(name), i = find(kind, at);
    if (!current) return wrong++, INVALID_CONTEXT;
    if (i < 0 || things[i].at != at) return wrong++, kind == STREAM ? INVALID_HANDLE : INVALID_VALUE;
    for (int j = 0; j < count_jobs; j++)
        if (find(kind, jobs[j].target) == i || find(kind, jobs[j].source) == i || jobs[j].stream == at) wrong++;
    free((void *)(size_t)at);
    things[i] = things[--count_things];
    return code;
}

static int copy(const char *name, int to, address target, int from, address source, size_t size, address stream) {
    int code = enter(name), t = find(to, target), s = find(from, source);
    if (code) return code;
    if (!current) return wrong++, INVALID_CONTEXT;
    if (t < 0 || s < 0 || find(STREAM, stream) < 0) return wrong++, INVALID_VALUE;
    if (target + size > things[t].at + things[t].size || source + size > things[s].at + things[s].size)
        return wrong++, INVALID_VALUE;
    job one = {stream, target, source, size, 0};
    enqueue(one);
    return 0;
}

/* --- the driver ------------------------------------------------------------------------------------- */

int cuInit(unsigned flags) {
    int code = enter("cuInit");
    return code ? code : offered ? 0 : 100;
}

int cuDriverGetVersion(int *version) {
    *version = 13000;
    return 0;
}

int cuDeviceGetCount(int *count) {
    *count = offered;
    return enter("cuDeviceGetCount");
}

int cuDeviceGet(int *device, int ordinal) {
    *device = 10 + ordinal;
    return enter("cuDeviceGet");
}

int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, "stand-in", length);
    return enter("cuDeviceGetName");
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : attribute == 18 ? integrated : -1;
    return enter("cuDeviceGetAttribute");
}

int cuDevicePrimaryCtxSetFlags_v2(int device, unsigned flags) {
    int code = enter("cuDevicePrimaryCtxSetFlags");
    if (flags != 4) wrong++;
    return code ? code : active ? ACTIVE : 0;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    int code = enter("cuDevicePrimaryCtxRetain");
    *context = (void *)CONTEXT;
    if (!code) retained++;
    return code;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
    int code = enter("cuDevicePrimaryCtxRelease");
    if (!retained || count_things || current) wrong++;
    if (retained) retained--;
    return code;
}

int cuCtxSetCurrent(void *context) {
    int code = enter("cuCtxSetCurrent");
    if (context && (context != (void *)CONTEXT || !retained)) return wrong++, INVALID_CONTEXT;
    if (!context || !code) current = context != 0;
    return code;
}

int cuMemGetInfo_v2(size_t *left, size_t *total) {
    *left = 3 << 20;
    *total = 8 << 20;
    return current ? enter("cuMemGetInfo") : (wrong++, INVALID_CONTEXT);
}

int cuMemAlloc_v2(address *given, size_t size) {
    int code = enter("cuMemAlloc");
    return code ? code : add(DEVICE, size, given);
}

int cuMemHostAlloc(void **given, size_t size, unsigned flags) {
    address at = 0;
    int code = enter("cuMemHostAlloc");
    code = code ? code : add(HOST, size, &at);
    *given = (void *)(size_t)at;
    return code;
}

int cuStreamCreate(void **given, unsigned flags) {
    address at = 0;
    int code = enter("cuStreamCreate");
    if (flags != 1) wrong++;
    code = code ? code : add(STREAM, 1, &at);
    *given = (void *)(size_t)at;
    return code;
}

int cuMemFree_v2(address at) { return drop("cuMemFree", DEVICE, at); }
int cuMemFreeHost(void *at) { return drop("cuMemFreeHost", HOST, (address)(size_t)at); }
int cuStreamDestroy_v2(void *at) { return drop("cuStreamDestroy", STREAM, (address)(size_t)at); }

int cuMemcpyHtoDAsync_v2(address target, const void *source, size_t size, void *stream) {
    return copy("cuMemcpyHtoDAsync", DEVICE, target, HOST, (address)(size_t)source, size, (address)(size_t)stream);
}

int cuMemcpyDtoHAsync_v2(void *target, address source, size_t size, void *stream) {
    return copy("cuMemcpyDtoHAsync", HOST, (address)(size_t)target, DEVICE, source, size, (address)(size_t)stream);
}

int cuStreamSynchronize(void *stream) {
    int code = enter("cuStreamSynchronize"), left = 0;
    if (!current) return wrong++, INVALID_CONTEXT;
    if (find(STREAM, (address)(size_t)stream) < 0) return wrong++, INVALID_HANDLE;
    for (int i = 0; i < count_jobs; i++) {
        if (jobs[i].stream != (address)(size_t)stream) jobs[left++] = jobs[i];
        else if (jobs[i].work) jobs[i].work();
        else memcpy((void *)(size_t)jobs[i].target, (void *)(size_t)jobs[i].source, jobs[i].size);
    }
    count_jobs = left;
    return code;
}

int cuGetErrorString(int code, const char **text) {
    *text = code == 1     ? "invalid argument"
            : code == 2   ? "out of memory"
            : code == 100 ? "no CUDA-capable device is detected"
            : code == 201 ? "invalid device context"
            : code == 700 ? "an illegal memory access was encountered"
            : code == 719 ? "unspecified launch failure"
                          : 0;
    return *text ? 0 : INVALID_VALUE;
}

#define OFFER(name) if (!strcmp(asked, #name)) return (void *)name;
#define OFFER_2(name) if (!strcmp(asked, #name)) return (void *)name##_v2;

int cuGetProcAddress_v2(const char *asked, void **given, int version, address flags, int *status);

static void *look_up(const char *asked) {
    OFFER(cuInit) OFFER(cuDriverGetVersion) OFFER(cuDeviceGetCount) OFFER(cuDeviceGet) OFFER(cuDeviceGetName)
    OFFER(cuDeviceGetAttribute) OFFER_2(cuDevicePrimaryCtxSetFlags) OFFER(cuDevicePrimaryCtxRetain)
    OFFER_2(cuDevicePrimaryCtxRelease) OFFER(cuCtxSetCurrent) OFFER_2(cuMemGetInfo) OFFER_2(cuMemAlloc)
    OFFER_2(cuMemFree) OFFER(cuMemHostAlloc) OFFER(cuMemFreeHost) OFFER(cuStreamCreate) OFFER_2(cuStreamDestroy)
    OFFER_2(cuMemcpyHtoDAsync) OFFER_2(cuMemcpyDtoHAsync) OFFER(cuStreamSynchronize) OFFER(cuGetErrorString)
    OFFER_2(cuGetProcAddress)
    return 0;
}

int cuGetProcAddress_v2(const char *asked, void **given, int version, address flags, int *status) {
    *given = look_up(asked);
    if (status) *status = *given ? 0 : 1;
    return 0;
}
