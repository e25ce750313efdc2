#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* libcuda of a GPU with 132 SMs in 16 groups of 8, and 4 in none; group k is marked by k. A process
   with a context joins MPS where a daemon answers, unless STAYS_OUT; it has as many SMs as its
   percentage says, unless DISOBEYS. Layouts as in cuda.h. */
typedef struct {
    int type; unsigned char internal[92];
    unsigned sms, mark; unsigned char rest[32]; void *next;
} resource;
typedef struct { unsigned sms; char marks[99]; } described;
_Static_assert(sizeof(resource) == 144, "as in cuda.h");
int cuInit(unsigned flags) { return getenv("CUDA_VISIBLE_DEVICES") ? 0 : 100; }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }

typedef struct { int type; unsigned count; } affinity;

static unsigned usable(void) {
    const char *text = getenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE");
    return text && !getenv("DISOBEYS") ? 132 * atoi(text) / 100 / 2 * 2 : 132;
}

static void join(void) {
    static int joined;
    const char *text = getenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE");
    if (joined++ || getenv("STAYS_OUT")) return;
    FILE *shell = popen("nvidia-cuda-mps-control >/dev/null 2>&1", "w");
    if (shell) { fprintf(shell, "join %d %s\n", getpid(), text ? text : "100"); pclose(shell); }
}

int cuDevicePrimaryCtxRetain(void **context, int device) { join(); *context = (void *)1; return 0; }
int cuCtxCreate_v2(void **context, unsigned flags, int device) { join(); return 0; }
int cuCtxDestroy_v2(void *context) { return 0; }
int cuDeviceGetAttribute(int *value, int what, int device) {
    *value = what == 16 ? 132 : -1;
    return 0;
}
int cuCtxGetExecAffinity(affinity *found, int type) { found->count = usable(); return 0; }
int cuCtxSetCurrent(void *context) { return context == (void *)1 ? 0 : 201; }
int cuDeviceGetDevResource(int device, resource *found, int type) {
    memset(found, 0, sizeof *found);
    found->type = type; found->sms = 132; found->mark = 99;
    return type == 1 ? 0 : 1;
}
int cuDevSmResourceSplitByCount(resource *result, unsigned *groups, const resource *input,
                                resource *rest, unsigned flags, unsigned least) {
    if (input->sms != 132 || least > 8) return 1;
    if (!result) { *groups = 16; return 0; }
    for (unsigned k = 0; k < *groups; k++) {
        result[k] = *input; result[k].sms = 8; result[k].mark = k;
    }
    rest->sms = 132 - 8 * *groups;
    return 0;
}
int cuDevResourceGenerateDesc(described **out, resource *all, unsigned count) {
    described *made = calloc(1, sizeof *made);
    for (unsigned k = 0; k < count; k++) {
        made->sms += all[k].sms;
        sprintf(made->marks + strlen(made->marks), "%u ", all[k].mark);
    }
    *out = made;
    return 0;
}
int cuGreenCtxCreate(void **context, described *desc, int device, unsigned flags) {
    if (flags != 1) return 1;
    fprintf(stderr, "%s", desc->marks);
    *context = desc;
    return 0;
}
int cuGreenCtxGetDevResource(described *context, resource *found, int type) {
    const char *less = getenv("LESS");
    found->sms = context->sms - (less ? atoi(less) : 0);
    return 0;
}
int cuGreenCtxStreamCreate(void **stream, void *context, unsigned flags, int priority) {
    *stream = (void *)0x7f0012345678;
    return flags == 1 && priority == 0 ? 0 : 1;
}
