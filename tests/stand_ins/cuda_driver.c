/* A driver of CUDA without a GPU: the functions that agp_edge/cuda calls, over malloc and memcpy.
 *
 * What else a binding wants to find is added when it is compiled, and counted as wrong if it is called: cuda_driver.py.
 * It is stricter than a driver: what is freed twice, or while a copy of it waits, or used without a context, is counted as
 * wrong. Copies are done when a stream is synchronised and not before, so that who does not wait reads nothing.
 * Nothing that runs on it says anything of a GPU.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long address;
typedef struct { int kind; address at; size_t size; } thing;

/* What waits in a stream. A mark is reached when everything before it in its stream is done; a wait is for a mark. */
enum { COPY, WORK, MARK, WAIT };
typedef struct { int kind, done; address stream, target, source; size_t size; void (*work)(void); long number; } job;

enum { DEVICE, HOST, STREAM, EVENT, TEMPLATE, GRAPH, MOST = 512, IN_A_GRAPH = 16, CONTEXT = 0xC0 };
enum { OUT_OF_MEMORY = 2, INVALID_VALUE = 1, INVALID_CONTEXT = 201, INVALID_HANDLE = 400 };
enum { CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901 };

typedef struct { unsigned flags; long number; address stream; } event;
typedef struct { int count; job jobs[IN_A_GRAPH]; } graph;

static thing things[MOST];
static job jobs[MOST];
static graph writing;
static address capturing;
static long last_number;
static int count_things, count_jobs, retained, wrong, active, offered = 1, integrated, maps, no_graphs;
static int failing_in, failing_times, failing_code, failing_sticky, lost;
static char log_of_calls[1 << 16];
static __thread int current, pushed;

/* One call at a time. While work is done inside a call, which may be Python's, others go on: one of them may be made with
 * Python's lock held. */
static pthread_mutex_t turn = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static pthread_cond_t finished = PTHREAD_COND_INITIALIZER;
static int finishing;
static int take_turn(void) { return pthread_mutex_lock(&turn); }
static void end_turn(int *held) { pthread_mutex_unlock(&turn); }
#define ONE_AT_A_TIME __attribute__((cleanup(end_turn))) int held = take_turn()

/* --- for the tests ---------------------------------------------------------------------------------- */

void stand_in_reset(int devices, int is_integrated, int is_active, int does_map) {
    count_things = count_jobs = retained = wrong = failing_in = lost = current = no_graphs = 0;
    capturing = 0;
    offered = devices;
    integrated = is_integrated;
    active = is_active;
    maps = does_map;
    log_of_calls[0] = 0;
}

/* The n-th call from now on, counted from 1, and those that follow it until it is so many times, give that code; if
 * sticky, so does every later one. */
void stand_in_fail(int n, int times, int code, int sticky) {
    failing_in = n;
    failing_times = times;
    failing_code = code;
    failing_sticky = sticky;
}

/* As if nothing had failed. */
void stand_in_recover(void) { failing_in = lost = 0; }

/* What is captured from now on turns out not to fit in a graph. */
void stand_in_refuse_graphs(void) { no_graphs = 1; }

void stand_in_misuse(void) { wrong++; }
int stand_in_live(void) { return count_things + retained; }
int stand_in_wrong(void) { return wrong; }
void stand_in_forget_log(void) { log_of_calls[0] = 0; }
const char *stand_in_log(void) { return log_of_calls; }

void stand_in_note(const char *what) {
    ONE_AT_A_TIME;
    if (strlen(log_of_calls) + strlen(what) + 2 < sizeof log_of_calls) {
        strcat(log_of_calls, what);
        strcat(log_of_calls, " ");
    }
}

static void enqueue(job one) {
    one.number = ++last_number;
    if (one.stream == capturing && capturing) {
        if (writing.count < IN_A_GRAPH && (one.kind == COPY || one.kind == WORK)) writing.jobs[writing.count++] = one;
        else wrong++;
    } else if (count_jobs < MOST) jobs[count_jobs++] = one;
    else wrong++;
}

/* What a library queues by itself, as TensorRT does with kernels. */
void stand_in_enqueue(address stream, void (*work)(void)) {
    ONE_AT_A_TIME;
    job one = {WORK, 0, stream, 0, 0, 0, work};
    enqueue(one);
}

/* Do what waits in a stream up to a number, and in other streams only what that waits for. */
static void advance(address stream, long number) {
    for (int i = 0; i < count_jobs && jobs[i].number <= number; i++) {
        job one = jobs[i];
        if (one.stream != stream || one.done) continue;
        jobs[i].done = 1;
        if (one.kind == COPY) memcpy((void *)(size_t)one.target, (void *)(size_t)one.source, one.size);
        if (one.kind == WAIT) advance(one.source, (long)one.size);
        if (one.kind == WORK) {
            pthread_mutex_unlock(&turn);
            one.work();
            pthread_mutex_lock(&turn);
        }
    }
}

static void finish(address stream, long number) {
    int left = 0;
    while (finishing) pthread_cond_wait(&finished, &turn);
    finishing = 1;
    advance(stream, number);
    for (int i = 0; i < count_jobs; i++)
        if (!jobs[i].done) jobs[left++] = jobs[i];
    count_jobs = left;
    finishing = 0;
    pthread_cond_broadcast(&finished);
}

/* --- what the calls share --------------------------------------------------------------------------- */

static int enter(const char *name) {
    stand_in_note(name);
    if (lost) return lost;
    if (failing_in && --failing_in == 0) {
        if (--failing_times) failing_in = 1;
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

/* Whether a job is at thing i, of that kind. */
static int uses(const job *one, int kind, int i) {
    if (kind == STREAM) return one->stream == things[i].at && one->kind != WAIT;
    return one->kind == COPY && (find(kind, one->target) == i || find(kind, one->source) == i);
}

/* Frees even if the call is to fail: a driver then tells the error of earlier work. */
static int drop(const char *name, int kind, address at) {
    int code = enter(name), i = find(kind, at);
    if (!current) return wrong++, INVALID_CONTEXT;
    if (i < 0 || things[i].at != at) return wrong++, kind == DEVICE || kind == HOST ? INVALID_VALUE : INVALID_HANDLE;
    for (int j = 0; j < count_jobs; j++)
        if (uses(jobs + j, kind, i)) wrong++;
    for (int j = 0; j < count_things; j++)
        if (things[j].kind == GRAPH)
            for (int k = 0; k < ((graph *)(size_t)things[j].at)->count; k++)
                if (uses(((graph *)(size_t)things[j].at)->jobs + k, kind, i)) wrong++;
    free((void *)(size_t)at);
    things[i] = things[--count_things];
    return code;
}

static int copy(const char *name, int to, address target, int from, address source, size_t size, address stream) {
    int code = enter(name), t = find(to, target), s = find(from, source);
    /* Mapped memory of the host has an address of the device, too: the same. */
    if (maps && to == DEVICE && t < 0) t = find(HOST, target);
    if (maps && from == DEVICE && s < 0) s = find(HOST, source);
    if (code) return code;
    if (!current) return wrong++, INVALID_CONTEXT;
    if (t < 0 || s < 0 || find(STREAM, stream) < 0) return wrong++, INVALID_VALUE;
    if (target + size > things[t].at + things[t].size || source + size > things[s].at + things[s].size)
        return wrong++, INVALID_VALUE;
    job one = {COPY, 0, stream, target, source, size};
    enqueue(one);
    return 0;
}

/* The thing itself, or 0 if there is none of that kind, or nothing may be done now. */
static void *use(const char *name, int kind, const void *handle, int *code) {
    *code = enter(name);
    if (*code) return 0;
    int i = find(kind, (address)(size_t)handle);
    if (!current || i < 0) return wrong++, *code = current ? INVALID_HANDLE : INVALID_CONTEXT, NULL;
    return (void *)handle;
}

/* --- the driver ------------------------------------------------------------------------------------- */

int cuInit(unsigned flags) {
    ONE_AT_A_TIME;
    int code = enter("cuInit");
    return code ? code : offered ? 0 : 100;
}

int cuDriverGetVersion(int *version) {
    ONE_AT_A_TIME;
    *version = 13000;
    return 0;
}

int cuDeviceGetCount(int *count) {
    ONE_AT_A_TIME;
    *count = offered;
    return enter("cuDeviceGetCount");
}

int cuDeviceGet(int *device, int ordinal) {
    ONE_AT_A_TIME;
    *device = 10 + ordinal;
    return enter("cuDeviceGet");
}

int cuDeviceGetName(char *name, int length, int device) {
    ONE_AT_A_TIME;
    strncpy(name, "stand-in", length);
    return enter("cuDeviceGetName");
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    ONE_AT_A_TIME;
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : attribute == 18 ? integrated : attribute == 19 ? maps : -1;
    return enter("cuDeviceGetAttribute");
}

/* Where another made the context its threads spin, CU_CTX_SCHED_SPIN. */
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *is_active) {
    ONE_AT_A_TIME;
    *is_active = active || retained;
    *flags = active ? 1 : retained ? 4 : 0;
    return enter("cuDevicePrimaryCtxGetState");
}

int cuDevicePrimaryCtxSetFlags_v2(int device, unsigned flags) {
    ONE_AT_A_TIME;
    if (flags != 4 || active || retained) wrong++;
    return enter("cuDevicePrimaryCtxSetFlags");
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    ONE_AT_A_TIME;
    int code = enter("cuDevicePrimaryCtxRetain");
    *context = (void *)CONTEXT;
    if (!code) retained++;
    return code;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
    ONE_AT_A_TIME;
    int code = enter("cuDevicePrimaryCtxRelease");
    if (!retained || (retained == 1 && (count_things || (current && !pushed)))) wrong++;
    if (retained) retained--;
    return code;
}

int cuCtxSetCurrent(void *context) {
    ONE_AT_A_TIME;
    int code = enter("cuCtxSetCurrent");
    if (context && (context != (void *)CONTEXT || !retained)) return wrong++, INVALID_CONTEXT;
    if (!context || !code) current = context != 0;
    pushed = 0;
    return code;
}

/* pycuda keeps at most one on the driver's stack. */
int cuCtxPushCurrent_v2(void *context) {
    ONE_AT_A_TIME;
    int code = enter("cuCtxPushCurrent");
    if (context != (void *)CONTEXT || !retained || current) return wrong++, INVALID_CONTEXT;
    if (!code) current = pushed = 1;
    return code;
}

int cuCtxPopCurrent_v2(void **context) {
    ONE_AT_A_TIME;
    int code = enter("cuCtxPopCurrent");
    if (!current) return wrong++, INVALID_CONTEXT;
    *context = (void *)CONTEXT;
    if (!code) current = 0;
    return code;
}

int cuMemGetInfo_v2(size_t *left, size_t *total) {
    ONE_AT_A_TIME;
    *left = 3 << 20;
    *total = 8 << 20;
    return current ? enter("cuMemGetInfo") : (wrong++, INVALID_CONTEXT);
}

int cuMemAlloc_v2(address *given, size_t size) {
    ONE_AT_A_TIME;
    int code = enter("cuMemAlloc");
    return code ? code : add(DEVICE, size, given);
}

int cuMemHostAlloc(void **given, size_t size, unsigned flags) {
    ONE_AT_A_TIME;
    address at = 0;
    int code = enter("cuMemHostAlloc");
    if (flags != 2) wrong++;
    code = code ? code : add(HOST, size, &at);
    *given = (void *)(size_t)at;
    return code;
}

int cuStreamCreate(void **given, unsigned flags) {
    ONE_AT_A_TIME;
    address at = 0;
    int code = enter("cuStreamCreate");
    if (flags != 1) wrong++;
    code = code ? code : add(STREAM, 1, &at);
    *given = (void *)(size_t)at;
    return code;
}

int cuMemFree_v2(address at) { ONE_AT_A_TIME; return drop("cuMemFree", DEVICE, at); }
int cuMemFreeHost(void *at) { ONE_AT_A_TIME; return drop("cuMemFreeHost", HOST, (address)(size_t)at); }
int cuStreamDestroy_v2(void *at) { ONE_AT_A_TIME; return drop("cuStreamDestroy", STREAM, (address)(size_t)at); }

int cuMemcpyHtoDAsync_v2(address target, const void *source, size_t size, void *stream) {
    ONE_AT_A_TIME;
    return copy("cuMemcpyHtoDAsync", DEVICE, target, HOST, (address)(size_t)source, size, (address)(size_t)stream);
}

int cuMemcpyDtoHAsync_v2(void *target, address source, size_t size, void *stream) {
    ONE_AT_A_TIME;
    return copy("cuMemcpyDtoHAsync", HOST, (address)(size_t)target, DEVICE, source, size, (address)(size_t)stream);
}

int cuMemHostGetDevicePointer_v2(address *given, void *at, unsigned flags) {
    ONE_AT_A_TIME;
    int code = enter("cuMemHostGetDevicePointer");
    if (code) return code;
    if (!current || find(HOST, (address)(size_t)at) < 0) return wrong++, INVALID_VALUE;
    *given = (address)(size_t)at;
    return 0;
}

int cuStreamSynchronize(void *stream) {
    ONE_AT_A_TIME;
    int code = enter("cuStreamSynchronize");
    if (!current) return wrong++, INVALID_CONTEXT;
    if (find(STREAM, (address)(size_t)stream) < 0) return wrong++, INVALID_HANDLE;
    if ((address)(size_t)stream == capturing) return wrong++, CAPTURE_UNSUPPORTED;
    finish((address)(size_t)stream, last_number);
    return code;
}

int cuEventCreate(void **given, unsigned flags) {
    ONE_AT_A_TIME;
    address at = 0;
    int code = enter("cuEventCreate");
    code = code ? code : add(EVENT, sizeof(event), &at);
    if (!code) ((event *)(size_t)at)->flags = flags;
    *given = (void *)(size_t)at;
    return code;
}

int cuEventRecord(void *handle, void *stream) {
    ONE_AT_A_TIME;
    int code;
    event *mark = use("cuEventRecord", EVENT, handle, &code);
    if (!mark) return code;
    if (find(STREAM, (address)(size_t)stream) < 0) return wrong++, INVALID_HANDLE;
    job one = {MARK, 0, (address)(size_t)stream};
    enqueue(one);
    mark->number = last_number;
    mark->stream = one.stream;
    return 0;
}

int cuStreamWaitEvent(void *stream, void *handle, unsigned flags) {
    ONE_AT_A_TIME;
    int code;
    event *mark = use("cuStreamWaitEvent", EVENT, handle, &code);
    if (!mark) return code;
    if (find(STREAM, (address)(size_t)stream) < 0) return wrong++, INVALID_HANDLE;
    job one = {WAIT, 0, (address)(size_t)stream, 0, mark->stream, (size_t)mark->number};
    enqueue(one);
    return 0;
}

int cuEventSynchronize(void *handle) {
    ONE_AT_A_TIME;
    int code;
    event *mark = use("cuEventSynchronize", EVENT, handle, &code);
    if (mark) finish(mark->stream, mark->number);
    return code;
}

/* Steps, not time: how many jobs were queued in between. */
int cuEventElapsedTime_v2(float *ms, void *begin, void *end) {
    ONE_AT_A_TIME;
    int code, other = 0;
    event *from = use("cuEventElapsedTime", EVENT, begin, &code), *to = 0;
    if (from && find(EVENT, (address)(size_t)end) >= 0) to = end;
    if (!to) return code ? code : (wrong++, INVALID_HANDLE);
    if ((from->flags | to->flags) & 2) return wrong++, INVALID_HANDLE;
    for (int i = 0; i < count_jobs; i++) other |= jobs[i].number == to->number;
    *ms = (float)(to->number - from->number);
    return other ? 600 : 0;
}

int cuStreamBeginCapture_v2(void *stream, int mode) {
    ONE_AT_A_TIME;
    int code = enter("cuStreamBeginCapture");
    if (code) return code;
    if (!current || capturing || mode != 1 || find(STREAM, (address)(size_t)stream) < 0) return wrong++, INVALID_VALUE;
    capturing = (address)(size_t)stream;
    writing.count = 0;
    return 0;
}

static int keep_graph(int kind, const graph *what, void **given) {
    address at = 0;
    int code = add(kind, sizeof(graph), &at);
    if (!code) *(graph *)(size_t)at = *what;
    *given = (void *)(size_t)at;
    return code;
}

int cuStreamEndCapture(void *stream, void **given) {
    ONE_AT_A_TIME;
    int code = enter("cuStreamEndCapture");
    *given = 0;
    if (capturing != (address)(size_t)stream) return wrong++, INVALID_VALUE;
    capturing = 0;
    return code ? code : no_graphs ? CAPTURE_INVALIDATED : keep_graph(TEMPLATE, &writing, given);
}

int cuGraphInstantiateWithFlags(void **given, void *template, unsigned long long flags) {
    ONE_AT_A_TIME;
    int code;
    graph *what = use("cuGraphInstantiate", TEMPLATE, template, &code);
    *given = 0;
    return what ? keep_graph(GRAPH, what, given) : code;
}

int cuGraphLaunch(void *handle, void *stream) {
    ONE_AT_A_TIME;
    int code;
    graph *what = use("cuGraphLaunch", GRAPH, handle, &code);
    if (!what) return code;
    if (find(STREAM, (address)(size_t)stream) < 0) return wrong++, INVALID_HANDLE;
    for (int i = 0; i < what->count; i++) {
        job one = what->jobs[i];
        one.stream = (address)(size_t)stream;
        enqueue(one);
    }
    return 0;
}

int cuEventDestroy_v2(void *at) { ONE_AT_A_TIME; return drop("cuEventDestroy", EVENT, (address)(size_t)at); }
int cuGraphDestroy(void *at) { ONE_AT_A_TIME; return drop("cuGraphDestroy", TEMPLATE, (address)(size_t)at); }
int cuGraphExecDestroy(void *at) { ONE_AT_A_TIME; return drop("cuGraphExecDestroy", GRAPH, (address)(size_t)at); }

static const struct { int code; const char *name, *text; } errors[] = {
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
};

static int describe(int code, const char **text, int named) {
    *text = 0;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == code) *text = named ? errors[i].name : errors[i].text;
    return *text ? 0 : INVALID_VALUE;
}

int cuGetErrorString(int code, const char **text) { ONE_AT_A_TIME; return describe(code, text, 0); }
int cuGetErrorName(int code, const char **text) { ONE_AT_A_TIME; return describe(code, text, 1); }

#define OFFER(name) if (!strcmp(asked, #name)) return (void *)name;
#define OFFER_2(name) if (!strcmp(asked, #name)) return (void *)name##_v2;

int cuGetProcAddress_v2(const char *asked, void **given, int version, address flags, int *status);

static void *look_up(const char *asked) {
    OFFER(cuInit) OFFER(cuDriverGetVersion) OFFER(cuDeviceGetCount) OFFER(cuDeviceGet) OFFER(cuDeviceGetName)
    OFFER(cuDeviceGetAttribute) OFFER_2(cuDevicePrimaryCtxSetFlags) OFFER(cuDevicePrimaryCtxRetain)
    OFFER(cuDevicePrimaryCtxGetState) OFFER_2(cuDevicePrimaryCtxRelease) OFFER(cuCtxSetCurrent) OFFER_2(cuMemGetInfo) OFFER_2(cuMemAlloc)
    OFFER_2(cuMemFree) OFFER(cuMemHostAlloc) OFFER(cuMemFreeHost) OFFER(cuStreamCreate) OFFER_2(cuStreamDestroy)
    OFFER_2(cuMemcpyHtoDAsync) OFFER_2(cuMemcpyDtoHAsync) OFFER(cuStreamSynchronize) OFFER(cuGetErrorString)
    OFFER_2(cuGetProcAddress) OFFER_2(cuMemHostGetDevicePointer) OFFER(cuEventCreate) OFFER_2(cuEventDestroy)
    OFFER(cuEventRecord) OFFER(cuStreamWaitEvent) OFFER(cuEventSynchronize) OFFER_2(cuEventElapsedTime)
    OFFER_2(cuStreamBeginCapture) OFFER(cuStreamEndCapture) OFFER(cuGraphDestroy) OFFER(cuGraphLaunch)
    OFFER(cuGraphExecDestroy)
    if (!strncmp(asked, "cuGraphInstantiate", 18)) return (void *)cuGraphInstantiateWithFlags;
    return 0;
}

int cuGetProcAddress_v2(const char *asked, void **given, int version, address flags, int *status) {
    ONE_AT_A_TIME;
    *given = look_up(asked);
    if (status) *status = *given ? 0 : 1;
    return 0;
}
