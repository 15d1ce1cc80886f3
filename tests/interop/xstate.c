/* Preloaded into user-mode Linux 6.1, which reserves 2696 bytes for the floating-point state of its processes. The host
 * refuses to set less than its processor has, and with AMX that is more: every guest would die at its first process. What
 * lies beyond is state that no program of the guest uses, so it is read and dropped, and written as zeroes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

static char whole[1 << 16];

long ptrace(enum __ptrace_request request, ...)
{
    static long (*next)(enum __ptrace_request, ...);
    va_list rest;
    va_start(rest, request);
    pid_t pid = va_arg(rest, pid_t);
    void *address = va_arg(rest, void *);
    void *data = va_arg(rest, void *);
    va_end(rest);

    if (!next)
        next = (long (*)(enum __ptrace_request, ...))dlsym(RTLD_NEXT, "ptrace");
    int get = request == PTRACE_GETREGSET, set = request == PTRACE_SETREGSET;
    if (!(get || set) || address != (void *)NT_X86_XSTATE)
        return next(request, pid, address, data);

    struct iovec *part = data, all = { whole, sizeof whole };
    memset(whole, 0, sizeof whole);
    if (set)
        memcpy(whole, part->iov_base, part->iov_len);
    long result = next(request, pid, address, &all);
    if (get && result == 0)
        memcpy(part->iov_base, whole, part->iov_len);
    return result;
}
