/* A stand-in for libnvidia-ml.so.1: answers with what a file says, read anew at each call.
 *
 * NVML_STANDIN names the file. It has lines `key=value`; a key that isn't there is NVML_ERROR_NOT_SUPPORTED, and a
 * value `!15` is that NVML error. `hang=1` makes every call wait until the file says otherwise, as a driver does that
 * hangs. A device's keys begin with its index (`0.power_mw=350000`), a MIG slice's with both (`0:1.memory_used=…`);
 * `0.error=!15` is the answer to everything that is asked of that device.
 *
 * Only what the gateway calls is here, with NVML's own names and struct layouts.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define OK 0
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define NOT_FOUND 6
#define DRIVER_NOT_LOADED 9

#define DEVICES 16
#define SLICES 8

typedef struct { char prefix[8]; unsigned index; unsigned parent; } Device;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;
typedef struct { unsigned gpu, memory; } Utilization;

static Device devices[DEVICES];
static Device slices[DEVICES][SLICES];

/* The value of a key; 0 where it isn't there. */
static int look(const char *key, char *value, size_t size) {
    const char *path = getenv("NVML_STANDIN");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512];
    size_t length = strlen(key);
    int found = 0;
    if (!file) return 0;
    while (!found && fgets(line, sizeof line, file)) {
        if (strncmp(line, key, length) == 0 && line[length] == '=') {
            line[strcspn(line, "\n")] = 0;
            snprintf(value, size, "%s", line + length + 1);
            found = 1;
        }
    }
    fclose(file);
    return found;
}

static void wait_while_hung(void) {
    char value[64];
    struct timespec pause = {0, 5000000};
    while (look("hang", value, sizeof value) && strcmp(value, "0") != 0) nanosleep(&pause, NULL);
}

/* A key's text, or an error. */
static int text(const char *prefix, const char *name, char *value, size_t size) {
    char key[64];
    wait_while_hung();
    if (*prefix) {
        snprintf(key, sizeof key, "%s.error", prefix);
        if (look(key, value, size) && value[0] == '!') return atoi(value + 1);
    }
    snprintf(key, sizeof key, "%s%s%s", prefix, *prefix ? "." : "", name);
    if (!look(key, value, size)) return NOT_SUPPORTED;
    return value[0] == '!' ? atoi(value + 1) : OK;
}

static int number(const char *prefix, const char *name, unsigned long long *value) {
    char said[64];
    int error = text(prefix, name, said, sizeof said);
    if (!error) *value = strtoull(said, NULL, 10);
    return error;
}

static int small(const char *prefix, const char *name, unsigned *value) {
    unsigned long long wide;
    int error = number(prefix, name, &wide);
    if (!error) *value = (unsigned)wide;
    return error;
}

int nvmlInitWithFlags(unsigned flags) {
    char value[64];
    (void)flags;
    wait_while_hung();
    if (!getenv("NVML_STANDIN")) return DRIVER_NOT_LOADED;
    return look("init", value, sizeof value) && value[0] == '!' ? atoi(value + 1) : OK;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void) {
    wait_while_hung();
    return OK;
}

const char *nvmlErrorString(int code) {
    (void)code;
    return "an error that the stand-in was asked for";
}

int nvmlSystemGetDriverVersion(char *value, unsigned size) { return text("", "driver", value, size); }

int nvmlDeviceGetCount_v2(unsigned *count) { return small("", "count", count); }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
    unsigned count = 0;
    char value[64], key[64];
    int error = nvmlDeviceGetCount_v2(&count);
    if (error) return error;
    if (index >= count || index >= DEVICES) return INVALID_ARGUMENT;
    snprintf(key, sizeof key, "%u.handle", index);
    if (look(key, value, sizeof value) && value[0] == '!') return atoi(value + 1);
    *device = &devices[index];
    snprintf((*device)->prefix, sizeof(*device)->prefix, "%u", index);
    (*device)->index = (*device)->parent = index;
    return OK;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device **device) {
    char value[128], prefix[8];
    for (unsigned i = 0; i < DEVICES; i++) {
        snprintf(prefix, sizeof prefix, "%u", i);
        if (text(prefix, "uuid", value, sizeof value) == OK && strcmp(value, uuid) == 0)
            return nvmlDeviceGetHandleByIndex_v2(i, device);
        for (unsigned j = 0; j < SLICES; j++) {
            snprintf(prefix, sizeof prefix, "%u:%u", i, j);
            if (text(prefix, "uuid", value, sizeof value) == OK && strcmp(value, uuid) == 0) {
                *device = &slices[i][j];
                strcpy((*device)->prefix, prefix);
                (*device)->index = j;
                (*device)->parent = i;
                return OK;
            }
        }
    }
    return NOT_FOUND;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device *slice, Device **device) {
    return nvmlDeviceGetHandleByIndex_v2(slice->parent, device);
}

int nvmlDeviceGetIndex(Device *device, unsigned *index) {
    *index = device->index;
    return OK;
}

int nvmlDeviceGetName(Device *device, char *value, unsigned size) {
    return text(device->prefix, "name", value, size);
}

int nvmlDeviceGetUUID(Device *device, char *value, unsigned size) {
    return text(device->prefix, "uuid", value, size);
}

int nvmlDeviceGetUtilizationRates(Device *device, Utilization *rates) {
    rates->memory = 0;
    return small(device->prefix, "utilization", &rates->gpu);
}

int nvmlDeviceGetMemoryInfo(Device *device, Memory *memory) {
    int error = number(device->prefix, "memory_total", &memory->total);
    if (!error) error = number(device->prefix, "memory_used", &memory->used);
    memory->free = memory->total - memory->used;
    return error;
}

int nvmlDeviceGetMemoryInfo_v2(Device *device, MemoryV2 *memory) {
    int error = number(device->prefix, "memory_total", &memory->total);
    if (!error) error = number(device->prefix, "memory_used", &memory->used);
    if (error || number(device->prefix, "memory_reserved", &memory->reserved)) memory->reserved = 0;
    memory->free = memory->total - memory->reserved - memory->used;
    return error;
}

int nvmlDeviceGetTemperature(Device *device, unsigned sensor, unsigned *celsius) {
    return sensor ? INVALID_ARGUMENT : small(device->prefix, "temperature", celsius);
}

int nvmlDeviceGetPowerUsage(Device *device, unsigned *milliwatts) {
    return small(device->prefix, "power_mw", milliwatts);
}

int nvmlDeviceGetEnforcedPowerLimit(Device *device, unsigned *milliwatts) {
    return small(device->prefix, "power_limit_mw", milliwatts);
}

int nvmlDeviceGetTotalEnergyConsumption(Device *device, unsigned long long *millijoules) {
    return number(device->prefix, "energy_mj", millijoules);
}
