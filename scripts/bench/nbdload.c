/*
 * nbdload: a lean NBD load generator that is not the bottleneck. One thread, non-blocking sockets, requests and replies
 * in batches, simple replies, payload bytes discarded. Built by the benchmark: gcc -O2 -o nbdload nbdload.c
 *
 *   nbdload --socket PATH | --port N  [--export NAME]  --mode MODE  --bs BYTES  --depth N  --conns N
 *           --seconds S  [--warm S]  [--think-us N]  [--stride BYTES]
 *
 *   MODE  randread randwrite read write    keeps `depth` requests of `bs` bytes in flight on each connection; random ones begin
 *                                          at multiples of `stride` (by default `bs`)
 *         firstwrite                       writes each block once, in no order; ends early when all are written
 *         deaf                             sends READs and never reads a reply
 *         trim zero                        one request over the whole export (extended headers), timed
 *
 * It speaks with the benchmark in lines: prints "ready" when all connections are up and the warm-up is over, waits for
 * a line, works, prints one JSON line, waits for the end of its input, disconnects. So the server's CPU time can be
 * read exactly before and after the work, while its per-connection processes are still alive.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { CMD_READ = 0, CMD_WRITE = 1, CMD_DISC = 2, CMD_TRIM = 4, CMD_ZERO = 6 };
enum { OPT_GO = 7, OPT_EXTENDED_HEADERS = 11 };
enum { REP_ACK = 1, REP_INFO = 3 };
enum { IOV_COUNT = 512, IN_BYTES = 256 * 1024, LATENCIES_MAX = 1 << 23 };
#define REQUEST_MAGIC 0x25609513u
#define SIMPLE_REPLY_MAGIC 0x67446698u
#define EXTENDED_REQUEST_MAGIC 0x21e41c71u
#define EXTENDED_REPLY_MAGIC 0x6e8a278cu

struct request { uint32_t magic; uint16_t flags, type; uint64_t cookie, offset; uint32_t length; } __attribute__((packed));
struct extended { uint32_t magic; uint16_t flags, type; uint64_t cookie, offset, length; } __attribute__((packed));
struct simple_reply { uint32_t magic, error; uint64_t cookie; } __attribute__((packed));

struct conn {
  int fd;
  struct request *requests;   /* one a slot; the cookie is the slot */
  uint64_t *issued_ns;
  uint32_t *idle;             /* slots not in flight */
  uint32_t idle_count;
  uint32_t *queue;            /* ring of slots to send; the first may be sent in part */
  uint32_t queue_head, queue_count;
  size_t sent;                /* bytes of the first one */
  char *in;
  size_t have;
  uint64_t skip;              /* bytes of a reply's payload still to come */
};

static struct {
  const char *socket, *export, *mode;
  int port, depth, conns, think_us;
  uint32_t bs;
  uint64_t stride;
  double seconds, warm;
} opt = { .export = "", .depth = 1, .conns = 1, .bs = 4096, .seconds = 1 };

static uint64_t size_bytes, sequential_at, random_state = 88172645463325252ull;
static bool writes, sequential, once;
static uint64_t issued, blocks;
static char *payload;
static uint32_t *latencies;   /* in 100 ns */
static uint64_t latency_count, latency_max, operations;
static bool recording;

static void die(const char *format, ...) {
  va_list args;
  va_start(args, format);
  vfprintf(stderr, format, args);
  va_end(args);
  fputc('\n', stderr);
  exit(1);
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static uint64_t random_u64(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

static void *need(size_t count, size_t size) {
  void *memory = calloc(count, size);
  if (!memory) die("out of memory");
  return memory;
}

static void read_all(int fd, void *to, size_t length) {
  for (char *at = to; length > 0;) {
    ssize_t got = read(fd, at, length);
    if (got <= 0) die("the server closed the connection in the handshake");
    at += got;
    length -= got;
  }
}

static void write_all(int fd, const void *from, size_t length) {
  for (const char *at = from; length > 0;) {
    ssize_t put = send(fd, at, length, MSG_NOSIGNAL);
    if (put <= 0) die("send: %s", strerror(errno));
    at += put;
    length -= put;
  }
}

/* ---- handshake: fixed newstyle, no zeroes, [extended headers,] GO ---- */

static void send_option(int fd, uint32_t option, const void *data, uint32_t length) {
  char head[16];
  memcpy(head, "IHAVEOPT", 8);
  *(uint32_t *)(head + 8) = htonl(option);
  *(uint32_t *)(head + 12) = htonl(length);
  write_all(fd, head, 16);
  write_all(fd, data, length);
}

/* Reads replies up to the ACK, taking the size out of INFO_EXPORT. */
static void await_ack(int fd, const char *what) {
  for (;;) {
    char head[20], data[8192];
    read_all(fd, head, 20);
    uint32_t type = ntohl(*(uint32_t *)(head + 12)), length = ntohl(*(uint32_t *)(head + 16));
    if (length > sizeof data) die("an option reply of %u bytes", length);
    read_all(fd, data, length);
    if (type == REP_ACK) return;
    if (type & 0x80000000u) die("%s refused (%u): %.*s", what, type & 0x7fffffffu, (int)length, data);
    if (type == REP_INFO && length >= 12 && ntohs(*(uint16_t *)data) == 0) size_bytes = be64toh(*(uint64_t *)(data + 2));
  }
}

static int dial(void) {
  int fd;
  if (opt.socket) {
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    if (strlen(opt.socket) >= sizeof to.sun_path) die("the socket path is too long");
    strcpy(to.sun_path, opt.socket);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (void *)&to, sizeof to)) die("connect %s: %s", opt.socket, strerror(errno));
  } else {
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(opt.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int one = 1;
    fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (void *)&to, sizeof to)) die("connect to port %d: %s", opt.port, strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  }
  return fd;
}

static int attach(bool extended) {
  int fd = dial();
  char greeting[18], go[300];
  uint32_t flags = htonl(3), length = strlen(opt.export);
  if (length > 256) die("the export's name is too long");
  read_all(fd, greeting, 18);
  write_all(fd, &flags, 4);
  if (extended) {
    send_option(fd, OPT_EXTENDED_HEADERS, "", 0);
    await_ack(fd, "extended headers");
  }
  *(uint32_t *)go = htonl(length);
  memcpy(go + 4, opt.export, length);
  memset(go + 4 + length, 0, 2);
  send_option(fd, OPT_GO, go, length + 6);
  await_ack(fd, "GO");
  return fd;
}

static void open_conn(struct conn *c) {
  c->fd = attach(false);
  fcntl(c->fd, F_SETFL, fcntl(c->fd, F_GETFL) | O_NONBLOCK);
  c->requests = need(opt.depth, sizeof *c->requests);
  c->issued_ns = need(opt.depth, sizeof *c->issued_ns);
  c->idle = need(opt.depth, sizeof *c->idle);
  c->queue = need(opt.depth, sizeof *c->queue);
  c->in = need(1, IN_BYTES);
  for (int slot = 0; slot < opt.depth; slot++) c->idle[c->idle_count++] = slot;
}

/* ---- the load ---- */

static uint64_t next_offset(void) {
  /* An odd factor permutes a power of two. */
  if (once) return issued++ * 0x9e3779b1u % blocks * opt.bs;
  if (!sequential) return random_u64() % (size_bytes / opt.stride) * opt.stride;
  uint64_t offset = sequential_at;
  sequential_at += opt.bs;
  if (sequential_at + opt.bs > size_bytes) sequential_at = 0;
  return offset;
}

static void issue(struct conn *c, uint64_t t) {
  while (c->idle_count > 0 && !(once && issued >= blocks)) {
    uint32_t slot = c->idle[--c->idle_count];
    c->requests[slot] = (struct request){
      .magic = htonl(REQUEST_MAGIC), .type = htons(writes ? CMD_WRITE : CMD_READ), .cookie = htobe64(slot),
      .offset = htobe64(next_offset()), .length = htonl(opt.bs),
    };
    c->issued_ns[slot] = t;
    c->queue[(c->queue_head + c->queue_count++) % opt.depth] = slot;
  }
}

/* Sends as much of the queue as the socket takes. */
static void push(struct conn *c) {
  const size_t each = sizeof(struct request) + (writes ? opt.bs : 0);
  while (c->queue_count > 0) {
    struct iovec iov[IOV_COUNT];
    int count = 0;
    size_t skip = c->sent;
    for (uint32_t i = 0; i < c->queue_count && count + 2 <= IOV_COUNT; i++) {
      char *head = (char *)&c->requests[c->queue[(c->queue_head + i) % opt.depth]];
      if (skip < sizeof(struct request)) {
        iov[count++] = (struct iovec){ head + skip, sizeof(struct request) - skip };
        skip = 0;
      } else skip -= sizeof(struct request);
      if (writes) iov[count++] = (struct iovec){ payload + skip, opt.bs - skip };
      skip = 0;
    }
    struct msghdr message = { .msg_iov = iov, .msg_iovlen = count };
    ssize_t put = sendmsg(c->fd, &message, MSG_NOSIGNAL);
    if (put < 0 && errno == EAGAIN) return;
    if (put < 0) die("send: %s", strerror(errno));
    for (c->sent += put; c->queue_count > 0 && c->sent >= each; c->sent -= each) {
      c->queue_head = (c->queue_head + 1) % opt.depth;
      c->queue_count--;
    }
  }
}

static void complete(struct conn *c, uint64_t slot, uint64_t t) {
  c->idle[c->idle_count++] = slot;
  if (!recording) return;
  uint64_t latency = (t - c->issued_ns[slot]) / 100;
  operations++;
  if (latency > latency_max) latency_max = latency;
  if (latency_count < LATENCIES_MAX) latencies[latency_count++] = latency > UINT32_MAX ? UINT32_MAX : latency;
}

/* Takes in what has arrived: reply headers are judged, payloads only counted. */
static void pull(struct conn *c) {
  ssize_t got = recv(c->fd, c->in + c->have, IN_BYTES - c->have, 0);
  if (got == 0) die("the server closed the connection");
  if (got < 0 && errno == EAGAIN) return;
  if (got < 0) die("recv: %s", strerror(errno));
  c->have += got;
  uint64_t t = now_ns();
  size_t at = 0;
  for (;;) {
    size_t step = c->have - at < c->skip ? c->have - at : c->skip;
    at += step;
    c->skip -= step;
    if (c->skip > 0 || c->have - at < sizeof(struct simple_reply)) break;
    struct simple_reply *reply = (void *)(c->in + at);
    uint64_t slot = be64toh(reply->cookie);
    if (ntohl(reply->magic) != SIMPLE_REPLY_MAGIC) die("a reply begins with %x", ntohl(reply->magic));
    if (reply->error) die("the server answers error %u", ntohl(reply->error));
    if (slot >= (uint64_t)opt.depth) die("a reply to nothing");
    at += sizeof *reply;
    c->skip = writes ? 0 : opt.bs;
    complete(c, slot, t);
  }
  memmove(c->in, c->in + at, c->have - at);
  c->have -= at;
}

/* Keeps every connection full for `seconds`, then waits for what is in flight. Returns the seconds it took. */
static double run(struct conn *conns, double seconds) {
  struct pollfd polls[opt.conns];
  uint64_t start = now_ns(), end = start + (uint64_t)(seconds * 1e9);
  for (;;) {
    uint64_t t = now_ns();
    bool busy = false;
    if (opt.think_us && t < end) {
      usleep(opt.think_us);
      t = now_ns();
    }
    for (int i = 0; i < opt.conns; i++) {
      struct conn *c = &conns[i];
      if (t < end) issue(c, t);
      push(c);
      if (c->idle_count < (uint32_t)opt.depth) busy = true;
      polls[i] = (struct pollfd){ .fd = c->fd, .events = POLLIN | (c->queue_count ? POLLOUT : 0) };
    }
    if (!busy) return (now_ns() - start) / 1e9;
    poll(polls, opt.conns, -1);
    for (int i = 0; i < opt.conns; i++) if (polls[i].revents & (POLLIN | POLLHUP | POLLERR)) pull(&conns[i]);
  }
}

/* Sends READs as long as the server takes them and never reads a reply. */
static double run_deaf(struct conn *conns) {
  uint64_t start = now_ns();
  for (int i = 0; i < opt.conns; i++) issue(&conns[i], start);
  while (now_ns() - start < opt.seconds * 1e9) {
    for (int i = 0; i < opt.conns; i++) push(&conns[i]);
    usleep(1000);
  }
  return (now_ns() - start) / 1e9;
}

/* One request over the whole export; seconds until its reply. */
static double run_whole(int fd, int type) {
  struct extended request = {
    .magic = htonl(EXTENDED_REQUEST_MAGIC), .type = htons(type), .cookie = htobe64(1), .length = htobe64(size_bytes),
  };
  char reply[32];
  uint64_t start = now_ns();
  write_all(fd, &request, sizeof request);
  read_all(fd, reply, sizeof reply);
  double seconds = (now_ns() - start) / 1e9;
  if (ntohl(*(uint32_t *)reply) != EXTENDED_REPLY_MAGIC) die("a reply begins with %x", ntohl(*(uint32_t *)reply));
  uint16_t type_of_chunk = ntohs(*(uint16_t *)(reply + 6));
  if (type_of_chunk) die("the server answers with a chunk of type %u", type_of_chunk);
  operations = 1;
  return seconds;
}

/* ---- the talk with the benchmark ---- */

static int compare(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return x < y ? -1 : x > y;
}

static void await_line(void) {
  puts("ready");
  fflush(stdout);
  for (char c = 0; c != '\n';) if (read(0, &c, 1) != 1) exit(0);
}

static void report(double seconds) {
  double quantile[3] = { 0.5, 0.99, 0.999 };
  qsort(latencies, latency_count, sizeof *latencies, compare);
  for (int i = 0; i < 3; i++) quantile[i] = latency_count ? latencies[(uint64_t)(latency_count * quantile[i])] / 10. : 0;
  printf("{\"operations\":%llu,\"seconds\":%.6f,\"p50Us\":%.1f,\"p99Us\":%.1f,\"p999Us\":%.1f,\"maxUs\":%.1f}\n",
         (unsigned long long)operations, seconds, quantile[0], quantile[1], quantile[2], latency_max / 10.);
  fflush(stdout);
  for (char c; read(0, &c, 1) == 1;) {}
}

static void parse(int count, char **values) {
  static const struct option names[] = {
    { "socket", 1, 0, 's' }, { "port", 1, 0, 'p' }, { "export", 1, 0, 'e' }, { "mode", 1, 0, 'm' }, { "bs", 1, 0, 'b' },
    { "depth", 1, 0, 'd' }, { "conns", 1, 0, 'c' }, { "seconds", 1, 0, 't' }, { "warm", 1, 0, 'w' },
    { "think-us", 1, 0, 'k' }, { "stride", 1, 0, 'g' }, { 0, 0, 0, 0 },
  };
  for (int c; (c = getopt_long(count, values, "", names, NULL)) != -1;) switch (c) {
    case 's': opt.socket = optarg; break;
    case 'p': opt.port = atoi(optarg); break;
    case 'e': opt.export = optarg; break;
    case 'm': opt.mode = optarg; break;
    case 'b': opt.bs = strtoul(optarg, NULL, 10); break;
    case 'd': opt.depth = atoi(optarg); break;
    case 'c': opt.conns = atoi(optarg); break;
    case 't': opt.seconds = atof(optarg); break;
    case 'w': opt.warm = atof(optarg); break;
    case 'k': opt.think_us = atoi(optarg); break;
    case 'g': opt.stride = strtoull(optarg, NULL, 10); break;
    default: exit(2);
  }
  bool target = opt.socket || opt.port;
  if (opt.stride < opt.bs) opt.stride = opt.bs;
  if (!opt.mode || !target || opt.bs < 1 || opt.depth < 1 || opt.conns < 1) die("the head of nbdload.c lists the options");
}

int main(int count, char **values) {
  parse(count, values);
  if (!strcmp(opt.mode, "trim") || !strcmp(opt.mode, "zero")) {
    int fd = attach(true);
    await_line();
    report(run_whole(fd, *opt.mode == 't' ? CMD_TRIM : CMD_ZERO));
    return 0;
  }
  writes = strstr(opt.mode, "write") != NULL;
  once = strcmp(opt.mode, "firstwrite") == 0;
  sequential = !once && strncmp(opt.mode, "rand", 4) != 0;
  payload = need(1, opt.bs);
  for (uint32_t i = 0; i < opt.bs; i++) payload[i] = random_u64();
  latencies = need(LATENCIES_MAX, sizeof *latencies);
  struct conn *conns = need(opt.conns, sizeof *conns);
  for (int i = 0; i < opt.conns; i++) open_conn(&conns[i]);
  for (blocks = 1; blocks * 2 * opt.bs <= size_bytes;) blocks *= 2;
  if (opt.stride > size_bytes) die("the export has only %llu bytes", (unsigned long long)size_bytes);
  if (opt.warm > 0) run(conns, opt.warm);
  await_line();
  recording = true;
  report(strcmp(opt.mode, "deaf") == 0 ? run_deaf(conns) : run(conns, opt.seconds));
  for (int i = 0; i < opt.conns && strcmp(opt.mode, "deaf"); i++) {
    struct request bye = { .magic = htonl(REQUEST_MAGIC), .type = htons(CMD_DISC) };
    (void)!send(conns[i].fd, &bye, sizeof bye, MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  return 0;
}
