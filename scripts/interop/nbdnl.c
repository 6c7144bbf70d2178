/*
 * nbdnl.c - attach a server to the kernel's NBD client over netlink, with what nbd-client lacks: a dead-connection
 * timeout, new sockets for an attached device (so that a server restart costs no I/O error), and a live resize.
 *
 *   nbdnl connect INDEX HOST PORT EXPORT BLOCK_BYTES CONNECTIONS REQUEST_SECONDS DEAD_SECONDS
 *   nbdnl watch   INDEX HOST PORT EXPORT CONNECTIONS      for ever: replaces sockets that die
 *   nbdnl resize  INDEX BYTES
 *
 * Requests that were in flight on a dead socket are sent again when REQUEST_SECONDS are over, so keep that short.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS_MAX 16
#define RETRY_US 200000
#define GREETING_BYTES 18
#define OPTION_REPLY_BYTES 20
#define ANSWER_SECONDS 5
enum { OPTION_GO = 7, REPLY_ACK = 1, REPLY_INFO = 3, INFO_EXPORT = 0 };

struct message {
  struct nlmsghdr header;
  struct genlmsghdr generic;
  char body[4096];
};
struct nbd_family {
  uint16_t id;
  uint32_t group;
};
struct export {
  uint64_t size;
  uint16_t flags;
};

static void die(const char *what) {
  perror(what);
  exit(1);
}

/* ---- netlink attributes ---- */

static void begin(struct message *m, uint16_t family, uint8_t command) {
  memset(m, 0, sizeof *m);
  m->header.nlmsg_len = NLMSG_HDRLEN + GENL_HDRLEN;
  m->header.nlmsg_type = family;
  m->header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  m->generic.cmd = command;
  m->generic.version = 1;
}

static struct nlattr *put(struct message *m, int type, const void *data, int length) {
  struct nlattr *a = (void *)((char *)m + NLMSG_ALIGN(m->header.nlmsg_len));
  a->nla_type = type;
  a->nla_len = NLA_HDRLEN + length;
  if (length) memcpy((char *)a + NLA_HDRLEN, data, length);
  m->header.nlmsg_len = NLMSG_ALIGN(m->header.nlmsg_len) + NLA_ALIGN(a->nla_len);
  return a;
}

static void put32(struct message *m, int type, uint32_t value) { put(m, type, &value, sizeof value); }
static void put64(struct message *m, int type, uint64_t value) { put(m, type, &value, sizeof value); }
static struct nlattr *open_nest(struct message *m, int type) { return put(m, type | NLA_F_NESTED, NULL, 0); }
static void close_nest(struct message *m, struct nlattr *a) { a->nla_len = (char *)m + m->header.nlmsg_len - (char *)a; }

static struct nlattr *find(struct nlattr *a, int length, int type) {
  while (length >= NLA_HDRLEN && a->nla_len >= NLA_HDRLEN && a->nla_len <= length) {
    if ((a->nla_type & NLA_TYPE_MASK) == type) return a;
    length -= NLA_ALIGN(a->nla_len);
    a = (void *)((char *)a + NLA_ALIGN(a->nla_len));
  }
  return NULL;
}
static void *inside(struct nlattr *a) { return (char *)a + NLA_HDRLEN; }

static void put_sockets(struct message *m, const int *sockets, int count) {
  struct nlattr *list = open_nest(m, NBD_ATTR_SOCKETS);
  for (int i = 0; i < count; i++) {
    struct nlattr *item = open_nest(m, NBD_SOCK_ITEM);
    put32(m, NBD_SOCK_FD, sockets[i]);
    close_nest(m, item);
  }
  close_nest(m, list);
}

/* ---- netlink conversation ---- */

static int netlink_socket(void) {
  struct sockaddr_nl me = {.nl_family = AF_NETLINK};
  int s = socket(AF_NETLINK, SOCK_RAW, NETLINK_GENERIC);
  if (s < 0 || bind(s, (void *)&me, sizeof me)) die("netlink socket");
  return s;
}

/* Sends and waits for the acknowledgement: 0 or -errno. The last answer before it is copied to `answer`. */
static int talk(int s, struct message *m, struct message *answer) {
  struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
  char buffer[8192];
  if (sendto(s, m, m->header.nlmsg_len, 0, (void *)&kernel, sizeof kernel) < 0) die("netlink send");
  for (;;) {
    int n = recv(s, buffer, sizeof buffer, 0);
    if (n < 0) die("netlink receive");
    for (struct nlmsghdr *h = (void *)buffer; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
      if (h->nlmsg_type == NLMSG_ERROR) return ((struct nlmsgerr *)NLMSG_DATA(h))->error;
      if (answer && h->nlmsg_len <= sizeof *answer) memcpy(answer, h, h->nlmsg_len);
    }
  }
}

/* Asks the kernel which number the "nbd" family has, and the multicast group that tells of dead links. */
static struct nbd_family resolve(int s) {
  struct message m, answer = {0};
  struct nbd_family family = {0};
  struct nlattr *a, *group;
  begin(&m, GENL_ID_CTRL, CTRL_CMD_GETFAMILY);
  put(&m, CTRL_ATTR_FAMILY_NAME, NBD_GENL_FAMILY_NAME, sizeof NBD_GENL_FAMILY_NAME);
  if (talk(s, &m, &answer)) {
    fprintf(stderr, "the kernel has no nbd netlink family: is the module loaded?\n");
    exit(1);
  }
  int length = answer.header.nlmsg_len - NLMSG_HDRLEN - GENL_HDRLEN;
  if ((a = find((void *)answer.body, length, CTRL_ATTR_FAMILY_ID))) memcpy(&family.id, inside(a), sizeof family.id);
  if ((a = find((void *)answer.body, length, CTRL_ATTR_MCAST_GROUPS))) {
    group = inside(a); /* the first of the list: there is one */
    if ((a = find(inside(group), group->nla_len - NLA_HDRLEN, CTRL_ATTR_MCAST_GRP_ID))) memcpy(&family.group, inside(a), sizeof family.group);
  }
  return family;
}

/* ---- NBD handshake ---- */

static int receive(int s, void *to, size_t length) { return recv(s, to, length, MSG_WAITALL) == (ssize_t)length ? 0 : -1; }

/* Fixed newstyle and GO without info requests, as nbd-client does: 0, or -1 if the server is not there or refuses. */
static int handshake(int s, const char *name, struct export *found) {
  unsigned char b[1024];
  uint32_t length = strlen(name), words[3] = {htobe32(OPTION_GO), htobe32(4 + length + 2), htobe32(length)};
  if (length > 256 || receive(s, b, GREETING_BYTES)) return -1;
  memset(b, 0, sizeof b);
  b[3] = 1; /* client flags: fixed newstyle */
  memcpy(b + 4, "IHAVEOPT", 8);
  memcpy(b + 12, words, sizeof words);
  memcpy(b + 24, name, length);
  if (send(s, b, 26 + length, MSG_NOSIGNAL) != (ssize_t)(26 + length)) return -1;
  for (;;) {
    uint32_t type, size;
    if (receive(s, b, OPTION_REPLY_BYTES)) return -1;
    memcpy(&type, b + 12, 4);
    memcpy(&size, b + 16, 4);
    type = be32toh(type);
    size = be32toh(size);
    if (size > sizeof b || (size && receive(s, b, size))) return -1;
    if (type == REPLY_ACK) return 0;
    if (type != REPLY_INFO) {
      fprintf(stderr, "the server refuses %s: %.*s\n", name, (int)size, b);
      return -1;
    }
    if (size >= 12 && b[0] == 0 && b[1] == INFO_EXPORT) {
      memcpy(&found->size, b + 2, 8);
      memcpy(&found->flags, b + 10, 2);
      found->size = be64toh(found->size);
      found->flags = be16toh(found->flags);
    }
  }
}

/* A socket in the transmission phase, or -1. */
static int connect_export(const char *host, int port, const char *name, struct export *found) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  struct timeval wait = {.tv_sec = ANSWER_SECONDS};
  int s = socket(AF_INET, SOCK_STREAM, 0), one = 1;
  inet_pton(AF_INET, host, &address.sin_addr);
  setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
  setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (connect(s, (void *)&address, sizeof address) || handshake(s, name, found)) {
    close(s);
    return -1;
  }
  wait.tv_sec = 0;
  setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
  return s;
}

/* ---- commands ---- */

static int attach(char **v) {
  int sockets[CONNECTIONS_MAX], count = atoi(v[5]), s = netlink_socket();
  struct nbd_family family = resolve(s);
  struct export export = {0};
  struct message m;
  if (count < 1 || count > CONNECTIONS_MAX) return 2;
  for (int i = 0; i < count; i++) {
    if ((sockets[i] = connect_export(v[1], atoi(v[2]), v[3], &export)) < 0) {
      fprintf(stderr, "cannot connect to %s:%s\n", v[1], v[2]);
      return 1;
    }
  }
  begin(&m, family.id, NBD_CMD_CONNECT);
  put32(&m, NBD_ATTR_INDEX, atoi(v[0]));
  put64(&m, NBD_ATTR_SIZE_BYTES, export.size);
  put64(&m, NBD_ATTR_BLOCK_SIZE_BYTES, atoi(v[4]));
  put64(&m, NBD_ATTR_SERVER_FLAGS, export.flags);
  put64(&m, NBD_ATTR_TIMEOUT, atoi(v[6]));
  put64(&m, NBD_ATTR_DEAD_CONN_TIMEOUT, atoi(v[7]));
  put_sockets(&m, sockets, count);
  int error = talk(s, &m, NULL);
  printf("connect: %s, %llu bytes, flags %#x\n", strerror(-error), (unsigned long long)export.size, export.flags);
  return error != 0;
}

static int resize(char **v) {
  int s = netlink_socket();
  struct message m;
  begin(&m, resolve(s).id, NBD_CMD_RECONFIGURE);
  put32(&m, NBD_ATTR_INDEX, atoi(v[0]));
  put64(&m, NBD_ATTR_SIZE_BYTES, strtoull(v[1], NULL, 10));
  int error = talk(s, &m, NULL);
  printf("resize: %s\n", strerror(-error));
  return error != 0;
}

static int watch(char **v) {
  int s = netlink_socket(), events = netlink_socket(), most = atoi(v[4]);
  struct nbd_family family = resolve(s);
  char buffer[8192];
  if (most < 1 || most > CONNECTIONS_MAX) return 2;
  if (setsockopt(events, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &family.group, sizeof family.group)) die("join the nbd group");
  while (recv(events, buffer, sizeof buffer, 0) > 0) {
    struct message *told = (void *)buffer, m;
    struct export export;
    int sockets[CONNECTIONS_MAX], dead = 1;
    if (told->header.nlmsg_type != family.id || told->generic.cmd != NBD_CMD_LINK_DEAD) continue;
    usleep(RETRY_US); /* the other sockets of a dead server die in the same moment */
    while (recv(events, buffer, sizeof buffer, MSG_DONTWAIT) > 0) dead++;
    if (dead > most) dead = most;
    for (int i = 0; i < dead; i++)
      while ((sockets[i] = connect_export(v[1], atoi(v[2]), v[3], &export)) < 0) usleep(RETRY_US);
    begin(&m, family.id, NBD_CMD_RECONFIGURE);
    put32(&m, NBD_ATTR_INDEX, atoi(v[0]));
    put_sockets(&m, sockets, dead);
    printf("%d dead connections replaced: %s\n", dead, strerror(-talk(s, &m, NULL)));
    for (int i = 0; i < dead; i++) close(sockets[i]); /* the kernel holds its own */
  }
  return 1;
}

int main(int count, char **v) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (count == 10 && !strcmp(v[1], "connect")) return attach(v + 2);
  if (count == 7 && !strcmp(v[1], "watch")) return watch(v + 2);
  if (count == 4 && !strcmp(v[1], "resize")) return resize(v + 2);
  fprintf(stderr, "usage: see the head of nbdnl.c\n");
  return 2;
}
