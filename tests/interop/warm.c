/* Preloaded into iscsi-test-cu. A session through Braid begins with its home path alone: the others join in the background
 * and carry data once the unit was used and they have shown the same one. A test is over before that, and would prove
 * nothing. So every login is followed by reads of the first block until each path has carried one, as Braid's metrics tell.
 * A session that may not read (somebody has the unit reserved) is left as it is, and so is one of a unit on which somebody has
 * registered: such a unit may be bound to the home path.
 *
 * BRAID_WARM: the port of the metrics on the address of the portal, and the number of paths. BRAID_WARM_LOG: a file that gets a
 * line per session: its portal, how that ended, the number of reads, and how the session is fanned out. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST 16
/* How long a session may take. */
#define SECONDS 20

struct scsi_task {
    int status;
};

struct keys {
    uint32_t generation, length;
    int number;
};

int iscsi_full_connect_sync(void *iscsi, const char *portal, int lun);
struct scsi_task *iscsi_read10_sync(void *iscsi, int lun, uint32_t lba, uint32_t datalen, int blocksize, int rdprotect,
                                    int dpo, int fua, int fua_nv, int group);
struct scsi_task *iscsi_persistent_reserve_in_sync(void *iscsi, int lun, int action, uint16_t length);
void *scsi_datain_unmarshall(struct scsi_task *task);
void scsi_free_scsi_task(struct scsi_task *task);

static char page[1 << 20];

/* What each path has read so far, in the order of the metrics. Returns the number of paths, -1 without an answer. */
static int read_so_far(const char *address, int port, double *bytes)
{
    static const char ask[] = "GET /metrics HTTP/1.1\r\nHost: braid\r\nConnection: close\r\n\r\n";
    static const char family[] = "\nbraid_path_read_bytes_total{";
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
    size_t length = 0;
    ssize_t more;
    int paths = 0, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || inet_pton(AF_INET, address, &to.sin_addr) != 1 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0 ||
        write(fd, ask, sizeof ask - 1) != (ssize_t)(sizeof ask - 1)) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    while (length < sizeof page - 1 && (more = read(fd, page + length, sizeof page - 1 - length)) > 0)
        length += more;
    close(fd);
    page[length] = 0;
    for (char *at = page; (at = strstr(at, family)) && paths < MOST; at++) {
        char *value = strchr(at + 1, '}');
        if (value)
            bytes[paths++] = strtod(value + 1, NULL);
    }
    return paths;
}

/* How sessions are fanned out, as the page says. */
static const char *fanout(void)
{
    static const char mcs[] = "\nbraid_sessions{fanout=\"mcs\"";
    char *at = strstr(page, mcs), *value = at ? strchr(at + 1, '}') : NULL;
    return value && strtod(value + 1, NULL) > 0 ? "mcs" : "sessions";
}

/* Whether somebody has registered a key. */
static int registered(void *iscsi, int lun)
{
    struct scsi_task *task = iscsi_persistent_reserve_in_sync(iscsi, lun, 0, 1024);
    struct keys *keys = task && task->status == 0 ? scsi_datain_unmarshall(task) : NULL;
    int any = keys && keys->number > 0;

    if (task)
        scsi_free_scsi_task(task);
    return any;
}

/* Reads until all paths have; returns how that ended. */
static const char *warm(void *iscsi, int lun, const char *address, int port, int paths, int *reads)
{
    double before[MOST], now[MOST];
    time_t end = time(NULL) + SECONDS;

    if (read_so_far(address, port, before) < 0)
        return "direct";
    if (registered(iscsi, lun))
        return "registered";
    for (*reads = 1; time(NULL) < end; ++*reads) {
        struct scsi_task *task = iscsi_read10_sync(iscsi, lun, 0, 512, 512, 0, 0, 0, 0, 0);
        int status = task ? task->status : -1, carried = 0;

        if (task)
            scsi_free_scsi_task(task);
        if (status != 0)
            return "refused";
        for (int at = 0, known = read_so_far(address, port, now); at < known; at++)
            carried += now[at] > before[at];
        if (carried >= paths)
            return "warm";
    }
    return "cold";
}

int iscsi_full_connect_sync(void *iscsi, const char *portal, int lun)
{
    static int (*next)(void *, const char *, int);
    const char *plan = getenv("BRAID_WARM"), *log = getenv("BRAID_WARM_LOG");
    char address[64];
    int port, paths, reads = 0;

    if (!next)
        next = (int (*)(void *, const char *, int))dlsym(RTLD_NEXT, "iscsi_full_connect_sync");
    int result = next(iscsi, portal, lun);
    if (result != 0 || !plan || sscanf(plan, "%d %d", &port, &paths) != 2 || sscanf(portal, "%63[^:]", address) != 1)
        return result;
    page[0] = 0;
    const char *end = warm(iscsi, lun, address, port, paths, &reads);
    FILE *file = log ? fopen(log, "a") : NULL;
    if (file) {
        fprintf(file, "%s %s %d %s\n", portal, end, reads, fanout());
        fclose(file);
    }
    return result;
}
