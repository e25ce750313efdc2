/* A driver library with one A100-like board (250 W, updated each 100 ms) and one MIG slice of it,
   so that the real nvidia-ml-py can be used on a machine without a GPU. Layouts as in nvml.h. */
#include <stdio.h>
#include <string.h>
#include <time.h>

typedef struct device { int slice; } device_t;
static device_t board = {0}, slice = {1};

enum { SUCCESS = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6 };

static unsigned long long tenths(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (unsigned long long)now.tv_sec * 10 + now.tv_nsec / 100000000;
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { (void)code; return "an error"; }

int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 13000; return SUCCESS; }
int nvmlSystemGetDriverVersion(char *out, unsigned length) {
  snprintf(out, length, "580.0");
  return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t **found) {
  *found = &board;
  return index == 0 ? SUCCESS : NOT_FOUND;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, device_t **found) {
  *found = strcmp(uuid, "MIG-c") == 0 ? &slice : &board;
  return strcmp(uuid, "MIG-c") && strcmp(uuid, "GPU-c") ? NOT_FOUND : SUCCESS;
}
int nvmlDeviceIsMigDeviceHandle(device_t *device, unsigned *is) { *is = device->slice; return SUCCESS; }
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device_t *device, device_t **parent) {
  (void)device;
  *parent = &board;
  return SUCCESS;
}
int nvmlDeviceGetUUID(device_t *device, char *out, unsigned length) {
  snprintf(out, length, "%s", device->slice ? "MIG-c" : "GPU-c");
  return SUCCESS;
}
int nvmlDeviceGetName(device_t *device, char *out, unsigned length) {
  (void)device;
  snprintf(out, length, "Fake A100");
  return SUCCESS;
}
int nvmlDeviceGetCudaComputeCapability(device_t *device, int *major, int *minor) {
  (void)device;
  *major = 8;
  *minor = 0;
  return SUCCESS;
}
int nvmlDeviceGetComputeRunningProcesses_v3(device_t *device, unsigned *count, void *infos) {
  (void)device, (void)infos;
  *count = 0;
  return SUCCESS;
}

int nvmlDeviceGetComputeMode(device_t *device, int *mode) {
  (void)device;
  *mode = 3; /* NVML_COMPUTEMODE_EXCLUSIVE_PROCESS */
  return SUCCESS;
}

typedef struct {
  unsigned id, scope;
  long long timestamp, latency;
  int type, status;
  union { double d; unsigned u; unsigned long long ull; } value;
} field_t;

int nvmlDeviceGetFieldValues(device_t *device, int count, field_t *fields) {
  (void)device;
  for (int k = 0; k < count; k++) {
    fields[k].status = SUCCESS;
    if (fields[k].id == 186) { /* NVML_FI_DEV_POWER_INSTANT, mW */
      fields[k].type = 1;
      fields[k].value.u = 250000 + tenths() % 2;
    } else if (fields[k].id == 83) { /* NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, mJ: above 2^32 */
      fields[k].type = 3;
      fields[k].value.ull = 5000000000ull + 25000 * tenths();
    } else {
      fields[k].status = NOT_SUPPORTED;
    }
  }
  return SUCCESS;
}
int nvmlDeviceGetClockInfo(device_t *device, int clock, unsigned *mhz) {
  (void)device;
  *mhz = clock == 1 ? 1410 : clock == 2 ? 1593 : 0; /* NVML_CLOCK_SM, NVML_CLOCK_MEM */
  return SUCCESS;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(device_t *device, unsigned long long *mask) {
  (void)device;
  *mask = 0x4;
  return SUCCESS;
}
int nvmlDeviceGetTemperature(device_t *device, int sensor, unsigned *celsius) {
  (void)device, (void)sensor;
  *celsius = 61;
  return SUCCESS;
}
int nvmlDeviceGetUtilizationRates(device_t *device, unsigned rates[2]) {
  rates[0] = 97;
  rates[1] = 40;
  return device->slice ? NOT_SUPPORTED : SUCCESS;
}
int nvmlDeviceGetMemoryInfo(device_t *device, unsigned long long memory[3]) {
  memory[0] = 40ull << 30; /* total, free, used */
  memory[2] = device->slice ? 128ull << 20 : 512ull << 20;
  memory[1] = memory[0] - memory[2];
  return SUCCESS;
}
int nvmlDeviceGetEnforcedPowerLimit(device_t *device, unsigned *mw) {
  (void)device;
  *mw = 400000;
  return SUCCESS;
}
