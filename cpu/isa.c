#include "cpu/isa.h"

#include <string.h>

#ifdef __x86_64__
#include <sys/syscall.h>
#include <unistd.h>

#define ARCH_REQ_XCOMP_PERM 0x1023 // asm/prctl.h has it since Linux 5.16
#define XFEATURE_TILE_DATA  18

static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

static bool has_avx512bf16(void) {
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
}

/* Linux saves the 8 KB of tile registers only for a process that has asked, once for all its threads. */
static bool has_amx(void) {
    return has_avx512bf16() && __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
           syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_TILE_DATA) == 0;
}
#endif

static bool has_plain(void) {
    return true;
}

/* The best first. */
static const struct {
    const struct isa *isa;
    bool (*supported)(void);
} choices[] = {
#ifdef __x86_64__
    {&isa_amx, has_amx},     {&isa_avx512bf16, has_avx512bf16}, {&isa_avx512, has_avx512}, {&isa_avx2, has_avx2},
#endif
    {&isa_plain, has_plain},
};

const struct isa *isa_find(const char *name, struct error *err) {
    bool any = !name || strcmp(name, "auto") == 0;
    for (size_t i = 0; i < sizeof choices / sizeof *choices; ++i) {
        if (!any && strcmp(name, choices[i].isa->name) != 0) continue;
        if (choices[i].supported()) return choices[i].isa;
        if (any) continue;
        fail(err, ERR_INVALID, "this processor does not have the instruction set %s", name);
        return NULL;
    }
    fail(err, ERR_INVALID, "unknown instruction set '%s': auto, plain, avx2, avx512, avx512bf16 or amx", name);
    return NULL;
}
