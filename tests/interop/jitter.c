/* A link between two taps on which packets are under way for some time: jitter NEAR FAR MILLISECONDS.
 *
 * Each direction has a delay between nothing and so much, which jumps to another value again and again, so that what was
 * learned about the way is soon wrong. Packets stay in order. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* Packets under way in one direction; what is beyond is lost, as in a switch. */
#define MOST 4096
/* How long a delay stays as it is, at most. */
#define STEADY_MS 200

struct packet {
    double due;
    ssize_t length;
    char bytes[2048];
};

struct direction {
    int from, to;
    double delay, until, last;
    unsigned first, count;
    struct packet *ring;
};

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static int tap(const char *name)
{
    struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI };
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) != 0) {
        perror(name);
        exit(1);
    }
    return fd;
}

/* Takes what has come. An interface that is down gives an error, which passes. */
static void take(struct direction *way, double most)
{
    static char spill[65536];

    for (;;) {
        struct packet *packet = &way->ring[(way->first + way->count) % MOST];
        int room = way->count < MOST;
        ssize_t length = room ? read(way->from, packet->bytes, sizeof packet->bytes)
                              : read(way->from, spill, sizeof spill);
        double time = now();

        if (length <= 0)
            return;
        if (time >= way->until) {
            way->delay = drand48() * most;
            way->until = time + drand48() * STEADY_MS;
        }
        if (room) {
            packet->length = length;
            packet->due = way->last = time + way->delay > way->last ? time + way->delay : way->last;
            way->count++;
        }
    }
}

/* Gives what is due; returns the milliseconds until the next. */
static double give(struct direction *way)
{
    while (way->count > 0) {
        struct packet *packet = &way->ring[way->first];
        double left = packet->due - now();

        if (left > 0)
            return left;
        if (write(way->to, packet->bytes, packet->length) < 0 && errno == EAGAIN)
            return 1;
        way->first = (way->first + 1) % MOST;
        way->count--;
    }
    return 1e3;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    double most = atof(argv[3]);
    int near = tap(argv[1]), far = tap(argv[2]);
    struct direction ways[2] = { { .from = near, .to = far }, { .from = far, .to = near } };

    for (int n = 0; n < 2; n++)
        if (!(ways[n].ring = calloc(MOST, sizeof *ways[n].ring)))
            return 1;
    for (;;) {
        double left = 1e3;

        for (int n = 0; n < 2; n++) {
            take(&ways[n], most);
            double next = give(&ways[n]);
            left = next < left ? next : left;
        }
        struct pollfd wait[2] = { { .fd = near, .events = POLLIN }, { .fd = far, .events = POLLIN } };
        struct timespec time = { .tv_sec = left / 1e3, .tv_nsec = (long)(left * 1e6) % 1000000000 };
        ppoll(wait, 2, &time, NULL);
        /* An interface that is not up yet is always "ready", with an error. */
        if ((wait[0].revents | wait[1].revents) & POLLERR)
            usleep(1000);
    }
}
