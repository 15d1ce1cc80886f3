/* Preloaded into tgtd: a disk that keeps writes inside. A write that comes while the file $BRAID_HOLD exists is kept until the
 * file is gone that it names; then it is done, whatever has become of whoever sent it. Without that file, writes go on
 * at once, also while others are kept. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static void wait_if_held(void)
{
    const char *hold = getenv("BRAID_HOLD");
    char gate[4096] = "";
    FILE *file = hold ? fopen(hold, "re") : NULL;

    if (!file)
        return;
    if (!fgets(gate, sizeof gate, file))
        gate[0] = 0;
    fclose(file);
    while (gate[0] && access(gate, F_OK) == 0)
        usleep(2000);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at)
{
    static ssize_t (*next)(int, const void *, size_t, off64_t);

    if (!next)
        next = (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    wait_if_held();
    return next(fd, bytes, length, at);
}
