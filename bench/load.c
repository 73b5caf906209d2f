// The load generator: one thread, epoll, frames prepared before the clock runs. It opens its connections, says READY,
// waits for a line on its standard input, works for the given time, and prints what it counted as one line of JSON.
//
//   load echo      PORT PATH CONNECTIONS SECONDS SIZE IN_FLIGHT   every echo is checked for its length
//   load broadcast PORT PATH CONNECTIONS SECONDS SIZE             the first connection sends; the next goes out when all have it
//   load handshake PORT PATH CONCURRENT  SECONDS ROUTES           connect, 101, reset, again; PATH gets /0 … /ROUTES-1 appended
//   load idle      PORT PATH CONNECTIONS                          holds them until the line comes
//   load call      PORT PATH CONNECTIONS SECONDS IN_FLIGHT REQUEST ANSWER
//   load stream    PORT PATH CONNECTIONS SECONDS VALUES REQUEST VALUE END [START]
//   load publish   PORT PATH CONNECTIONS SECONDS REQUEST PREFIX [HELLO]
//
// A call's frames are given as text in which ###### stands for the id, another one for each call; every byte that comes
// back is compared with what must come, ids and order included. A stream is one call at a time for each connection,
// answered by START (if given), VALUE as often as VALUES says, and END; what counts is values.
//
// To publish, each connection sends HELLO (if given) and gets one answer. Then the first one sends REQUEST, which is not
// answered, and all get one message that begins with PREFIX; the next goes out when all have it.
//
// Before a mode, "socketio" makes the connections speak Socket.IO's protocol (Engine.IO 4).

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH_BYTES (256 * 1024)

typedef struct {
  int fd;
  unsigned char head[10];
  int head_size;
  uint64_t left;          // payload bytes of the current frame still to come
  uint64_t to_send;       // bytes
  size_t sent;            // where in the batch they begin
  uint64_t got;           // where in the script, or in the current message, the next byte must be
  bool wants_out;
  int first_byte;         // of the current payload; Socket.IO tells by it what a frame is
  char answer[512];       // handshake mode: the response so far
  int answer_size;
} Connection;

static int port;
static const char *path;
static bool socketio;
static uint64_t expected;      // length of an echo or a publication
static const char *prefix;     // how a publication begins, where its length is not known
static size_t prefix_size;
static unsigned char *batch;   // frames of one size: the same over and over, or one for each id
static size_t frame_size, batch_size;
static unsigned char *script;  // what the server must send, byte for byte, when it is sent the batch
static size_t script_size, answer_size, start_size, value_size;   // answer: START, all VALUEs and END to one request
static uint64_t values;
static unsigned char buffer[1 << 20];
static int poller;

static void fail(const char *what) {
  fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
  exit(1);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec / 1e9;
}

static double cpu(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_utime.tv_sec + usage.ru_utime.tv_usec / 1e6 + usage.ru_stime.tv_sec + usage.ru_stime.tv_usec / 1e6;
}

static int new_socket(void) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) fail("socket");
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  // A reset instead of TIME_WAIT: there are only so many ports.
  struct linger reset = {1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  return fd;
}

static struct sockaddr_in address(void) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return to;
}

static int handshake_request(char *out, size_t size, int route) {
  char number[16] = "";
  if (route >= 0) snprintf(number, sizeof number, "/%d", route);
  return snprintf(out, size,
                  "GET %s%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                  path, number, port);
}

// A masked text frame (RFC 6455 section 5.2).
static size_t encode(unsigned char *out, const char *payload, size_t size) {
  static const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};
  size_t at = 0;
  out[at++] = 0x81;
  if (size < 126) out[at++] = 0x80 | size;
  else if (size < 65536) { out[at++] = 0x80 | 126; out[at++] = size >> 8; out[at++] = size; }
  else { out[at++] = 0x80 | 127; for (int shift = 56; shift >= 0; shift -= 8) out[at++] = (uint64_t)size >> shift; }
  memcpy(out + at, mask, 4);
  at += 4;
  for (size_t i = 0; i < size; i++) out[at++] = payload[i] ^ mask[i & 3];
  return at;
}

static void prepare(size_t size) {
  char *payload = malloc(size + 32);
  size_t length = size;
  if (socketio) {
    strcpy(payload, "42[\"m\",\"");
    memset(payload + 8, 'x', size);
    strcpy(payload + 8 + size, "\"]");
    length = size + 10;
  } else memset(payload, 'x', size);
  expected = length;
  size_t copies = BATCH_BYTES / (length + 14) + 1;
  batch = malloc(copies * (length + 14));
  frame_size = encode(batch, payload, length);
  for (size_t i = 1; i < copies; i++) memcpy(batch + i * frame_size, batch, frame_size);
  batch_size = copies * frame_size;
  free(payload);
}

// Writes a frame with its id filled in, masked as a client's or bare as a server's.
static size_t fill(unsigned char *out, const char *template, int id, bool masked) {
  char text[4096], number[8];
  size_t size = strlen(template);
  if (size >= sizeof text) { errno = 0; fail("a frame is too long"); }
  memcpy(text, template, size + 1);
  snprintf(number, sizeof number, "%06d", id);
  for (char *at; (at = strstr(text, "######"));) memcpy(at, number, 6);
  if (masked) return encode(out, text, size);
  size_t head = 2;
  out[0] = 0x81;
  if (size < 126) out[1] = size;
  else { out[1] = 126; out[2] = size >> 8; out[3] = size; head = 4; }
  memcpy(out + head, text, size);
  return head + size;
}

// Fills batch and script with as many requests and answers as are good for the caches, and more than are in flight.
static void prepare_calls(const char *request, const char *start, const char *value, uint64_t times, const char *end) {
  size_t most = (strlen(start) + 4) + times * (strlen(value) + 4) + strlen(end) + 4;
  int ids = BATCH_BYTES / most + 64;
  batch = malloc(ids * (strlen(request) + 14));
  script = malloc(ids * most);
  values = times;
  for (int i = 0; i < ids; i++) {
    int id = 100000 + i;
    unsigned char *answer = script + script_size;
    frame_size = fill(batch + batch_size, request, id, true);
    batch_size += frame_size;
    if (*start) script_size += start_size = fill(script + script_size, start, id, false);
    for (uint64_t k = 0; k < times; k++) script_size += value_size = fill(script + script_size, value, id, false);
    if (*end) script_size += fill(script + script_size, end, id, false);
    answer_size = script + script_size - answer;
  }
}

static void prepare_publish(const char *request, const char *begin) {
  prefix = begin;
  prefix_size = strlen(begin);
  batch = malloc(strlen(request) + 14);
  batch_size = frame_size = fill(batch, request, 0, true);
}

// Ends with the texts around the first byte that is another one than it should be.
static void wrong(const unsigned char *got, const unsigned char *want, size_t size) {
  size_t at = 0;
  while (got[at] == want[at]) at++;
  size_t from = at < 40 ? 0 : at - 40, length = size - from < 120 ? size - from : 120;
  fputs("load: got  ", stderr);
  fwrite(got + from, 1, length, stderr);
  fputs("\nload: want ", stderr);
  fwrite(want + from, 1, length, stderr);
  fputs("\n", stderr);
  errno = 0;
  fail("a server sent something else than the answer");
}

// Compares bytes that came with what had to come. Returns how many answers have become complete.
static uint64_t verify(Connection *c, const unsigned char *bytes, size_t size) {
  uint64_t before = c->got / answer_size;
  for (size_t done = 0; done < size;) {
    size_t at = (c->got + done) % script_size, room = script_size - at;
    size_t take = size - done < room ? size - done : room;
    if (memcmp(bytes + done, script + at, take) != 0) wrong(bytes + done, script + at, take);
    done += take;
  }
  c->got += size;
  return c->got / answer_size - before;
}

// Values in the first bytes of what a connection was sent.
static uint64_t values_in(uint64_t bytes) {
  uint64_t rest = bytes % answer_size;
  uint64_t some = rest > start_size ? (rest - start_size) / value_size : 0;
  return bytes / answer_size * values + (some < values ? some : values);
}

static void watch(Connection *c, bool out) {
  struct epoll_event event = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = c};
  if (epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event) < 0) fail("epoll_ctl");
  c->wants_out = out;
}

static void flush(Connection *c) {
  while (c->to_send > 0) {
    size_t room = batch_size - c->sent;
    ssize_t n = write(c->fd, batch + c->sent, c->to_send < room ? c->to_send : room);
    if (n < 0) {
      if (errno != EAGAIN) fail("write");
      if (!c->wants_out) watch(c, true);
      return;
    }
    c->to_send -= n;
    c->sent = (c->sent + n) % batch_size;
  }
  if (c->wants_out) watch(c, false);
}

// Checks what of a message's prefix is in these bytes.
static void check_prefix(Connection *c, const unsigned char *bytes, size_t size) {
  if (c->got < prefix_size) {
    size_t rest = prefix_size - c->got, take = size < rest ? size : rest;
    if (memcmp(bytes, prefix + c->got, take) != 0) wrong(bytes, (const unsigned char *)prefix + c->got, take);
  }
  c->got += size;
}

// Counts the frames that end in these bytes, checking each one's length or beginning.
static uint64_t parse(Connection *c, const unsigned char *bytes, size_t size) {
  uint64_t frames = 0;
  while (size > 0) {
    if (c->left == 0) {
      c->head[c->head_size++] = *bytes++;
      size--;
      int need = 2;
      if (c->head_size >= 2) need = c->head[1] == 126 ? 4 : c->head[1] == 127 ? 10 : 2;
      if (c->head_size < need) continue;
      c->head_size = 0;
      uint64_t length = c->head[1];
      if (need == 4) length = c->head[2] << 8 | c->head[3];
      if (need == 10) { length = 0; for (int i = 2; i < 10; i++) length = length << 8 | c->head[i]; }
      int opcode = c->head[0] & 15;
      if (opcode == 8) { errno = 0; fail("the server closed a connection"); }
      if (opcode > 2) { errno = 0; fail("a control frame came in"); }
      if (prefix) {
        c->got = 0;
        if (length < prefix_size) { errno = 0; fail("a message is too short"); }
      } else if (length != expected) { errno = 0; fprintf(stderr, "got %lu\n", (unsigned long)length); fail("a message has the wrong length"); }
      c->left = length;
      continue;
    }
    uint64_t take = size < c->left ? size : c->left;
    if (prefix) check_prefix(c, bytes, take);
    c->left -= take;
    bytes += take;
    size -= take;
    if (c->left == 0) frames++;
  }
  return frames;
}

static void read_exactly(int fd, unsigned char *out, size_t size) {
  for (size_t got = 0; got < size;) {
    ssize_t n = read(fd, out + got, size - got);
    if (n <= 0) fail("a connection ended while it was being opened");
    got += n;
  }
}

// Reads one short frame of Socket.IO's opening, byte for byte, so that nothing after it is lost.
static void expect_packet(int fd, const char *start) {
  unsigned char head[4], payload[65536];
  read_exactly(fd, head, 2);
  size_t size = head[1];
  if (size == 126) { read_exactly(fd, head + 2, 2); size = head[2] << 8 | head[3]; }
  read_exactly(fd, payload, size);
  if (memcmp(payload, start, strlen(start)) != 0) fail("not the Socket.IO packet that was expected");
}

static void open_one(Connection *c, const char *hello) {
  struct sockaddr_in to = address();
  c->fd = new_socket();
  if (connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0) fail("connect");
  char text[1024];
  int size = handshake_request(text, sizeof text, -1);
  if (write(c->fd, text, size) != size) fail("write");
  // Byte for byte up to the blank line: frames may follow right behind it.
  for (int got = 0;;) {
    read_exactly(c->fd, (unsigned char *)text + got++, 1);
    if (got == 12 && memcmp(text + 9, "101", 3) != 0) fail("the handshake was refused");
    if (got >= 4 && memcmp(text + got - 4, "\r\n\r\n", 4) == 0) break;
    if (got == (int)sizeof text) fail("the response is too long");
  }
  if (socketio) {
    unsigned char hello[16];
    expect_packet(c->fd, "0");
    size_t n = encode(hello, "40", 2);
    if (write(c->fd, hello, n) != (ssize_t)n) fail("write");
    expect_packet(c->fd, "40");
  }
  if (hello) {
    unsigned char frame[1024];
    size_t n = fill(frame, hello, 1, true);
    if (write(c->fd, frame, n) != (ssize_t)n) fail("write");
    expect_packet(c->fd, "");
  }
  fcntl(c->fd, F_SETFL, O_NONBLOCK);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
  epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

static void ready(void) {
  puts("READY");
  fflush(stdout);
  int c;
  while ((c = getchar()) != '\n') if (c == EOF) exit(0);
}

static void report(uint64_t count, double seconds, double used) {
  printf("{\"count\":%lu,\"seconds\":%.6f,\"cpu\":%.6f}\n", (unsigned long)count, seconds, used);
  fflush(stdout);
}

static void messages(Connection *all, int connections, double seconds, int in_flight, bool is_broadcast) {
  struct epoll_event events[1024];
  uint64_t count = 0, due = connections;
  double began = now(), used = cpu(), until = began + seconds;
  for (int i = 0; i < (is_broadcast ? 1 : connections); i++) {
    all[i].to_send = in_flight * frame_size;
    flush(&all[i]);
  }
  while (now() < until) {
    int n = epoll_wait(poller, events, 1024, 100);
    for (int i = 0; i < n; i++) {
      Connection *c = events[i].data.ptr;
      if (events[i].events & EPOLLOUT) flush(c);
      if (!(events[i].events & ~EPOLLOUT)) continue;
      ssize_t size = read(c->fd, buffer, sizeof buffer);
      if (size < 0 && errno == EAGAIN) continue;
      if (size <= 0) fail("a connection ended");
      uint64_t frames = parse(c, buffer, size);
      count += frames;
      if (is_broadcast || frames == 0) continue;
      c->to_send += frames * frame_size;
      flush(c);
    }
    if (is_broadcast && count == due) {
      due += connections;
      all[0].to_send = frame_size;
      flush(&all[0]);
    }
  }
  if (count == 0) { errno = 0; fail("nothing came back"); }
  report(count, now() - began, cpu() - used);
}

static void calls(Connection *all, int connections, double seconds, int in_flight) {
  struct epoll_event events[1024];
  uint64_t count = 0;
  double began = now(), used = cpu(), until = began + seconds;
  for (int i = 0; i < connections; i++) {
    all[i].to_send = in_flight * frame_size;
    flush(&all[i]);
  }
  while (now() < until) {
    int n = epoll_wait(poller, events, 1024, 100);
    for (int i = 0; i < n; i++) {
      Connection *c = events[i].data.ptr;
      if (events[i].events & EPOLLOUT) flush(c);
      if (!(events[i].events & ~EPOLLOUT)) continue;
      ssize_t size = read(c->fd, buffer, sizeof buffer);
      if (size < 0 && errno == EAGAIN) continue;
      if (size <= 0) fail("a connection ended");
      uint64_t answers = verify(c, buffer, size);
      if (answers == 0) continue;
      c->to_send += answers * frame_size;
      flush(c);
    }
  }
  for (int i = 0; i < connections; i++) count += values_in(all[i].got);
  report(count, now() - began, cpu() - used);
}

static void start_handshake(Connection *c, int *next, int routes) {
  struct sockaddr_in to = address();
  c->fd = new_socket();
  c->answer_size = 0;
  if (connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0) fail("connect");
  char text[1024];
  int size = handshake_request(text, sizeof text, (*next)++ % routes);
  if (write(c->fd, text, size) != size) fail("write");
  fcntl(c->fd, F_SETFL, O_NONBLOCK);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
  epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

static void handshakes(Connection *all, int concurrent, double seconds, int routes) {
  struct epoll_event events[1024];
  uint64_t count = 0;
  int next = 0;
  double began = now(), used = cpu(), until = began + seconds;
  for (int i = 0; i < concurrent; i++) start_handshake(&all[i], &next, routes);
  while (now() < until) {
    int n = epoll_wait(poller, events, 1024, 100);
    for (int i = 0; i < n; i++) {
      Connection *c = events[i].data.ptr;
      ssize_t size = read(c->fd, c->answer + c->answer_size, sizeof c->answer - c->answer_size);
      if (size < 0 && errno == EAGAIN) continue;
      if (size <= 0) fail("a handshake was cut off");
      c->answer_size += size;
      if (!memmem(c->answer, c->answer_size, "\r\n\r\n", 4)) continue;
      if (memcmp(c->answer + 9, "101", 3) != 0) { errno = 0; fail("a handshake was refused"); }
      close(c->fd);
      count++;
      start_handshake(c, &next, routes);
    }
  }
  report(count, now() - began, cpu() - used);
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "socketio") == 0) { socketio = true; argv++; argc--; }
  if (argc < 5) { fprintf(stderr, "see the first lines of load.c\n"); return 2; }
  const char *mode = argv[1];
  port = atoi(argv[2]);
  path = argv[3];
  int connections = atoi(argv[4]);
  double seconds = argc > 5 ? atof(argv[5]) : 0;
  poller = epoll_create1(EPOLL_CLOEXEC);
  Connection *all = calloc(connections, sizeof *all);

  if (strcmp(mode, "handshake") == 0) {
    ready();
    handshakes(all, connections, seconds, atoi(argv[6]));
    return 0;
  }
  bool is_call = strcmp(mode, "call") == 0, is_stream = strcmp(mode, "stream") == 0;
  bool is_publish = strcmp(mode, "publish") == 0;
  // A call is a stream of one value: its answer.
  if (is_call) prepare_calls(argv[7], "", argv[8], 1, "");
  else if (is_stream) prepare_calls(argv[7], argc > 10 ? argv[10] : "", argv[8], atoi(argv[6]), argv[9]);
  else if (is_publish) prepare_publish(argv[6], argv[7]);
  else if (strcmp(mode, "idle") != 0) prepare(atoi(argv[6]));
  for (int i = 0; i < connections; i++) open_one(&all[i], is_publish && argc > 8 ? argv[8] : NULL);
  ready();
  if (strcmp(mode, "echo") == 0) messages(all, connections, seconds, atoi(argv[7]), false);
  if (is_publish || strcmp(mode, "broadcast") == 0) messages(all, connections, seconds, 1, true);
  if (is_call || is_stream) calls(all, connections, seconds, is_call ? atoi(argv[6]) : 1);
  return 0;
}
