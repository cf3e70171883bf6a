/* An upstream that is faster than anything measured in front of it: one thread, epoll, fixed answers.
 *
 * responder PORT            POST …            -> one JSON message of about 1 KB
 * (body "stream": true)     POST …            -> an event stream of EVENTS events, one every INTERVAL milliseconds
 * …/invoke-with-response-stream               -> the same as AWS event-stream frames, read from FRAMES/{start,delta,stop}
 * Usage: responder PORT EVENTS INTERVAL_MS [FRAMES]
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS 8192
#define MARK "\"stream\": true"
#define COMPACT_MARK "\"stream\":true"
#define FRAMED "/invoke-with-response-stream"

struct bytes {
  char *data;
  size_t length;
};

struct connection {
  int open, sent, streaming, framed;
  size_t have, need;
  char tail[16384];
  double next;
};
static struct connection connections[CONNECTIONS];
static int streams[CONNECTIONS], stream_count;
static char json[2048], start[1024], stop[1024];
static struct bytes events_of[2][3]; /* server-sent events, frames: start, delta, stop */
static char *delta =
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":"
    "\"text_delta\",\"text\":\"twelve bytes\"}}\n\n";

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static void chunk(int fd, struct bytes part) {
  char buffer[4096];
  int head = snprintf(buffer, sizeof buffer, "%zx\r\n", part.length);
  memcpy(buffer + head, part.data, part.length);
  memcpy(buffer + head + part.length, "\r\n", 2);
  if (write(fd, buffer, head + part.length + 2) < 0 && errno != EAGAIN) close(fd);
}

static struct bytes from_file(const char *folder, const char *name) {
  char path[1024];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  struct bytes found = {malloc(2048), 0};
  FILE *file = fopen(path, "rb");
  if (!file) perror(path), exit(1);
  found.length = fread(found.data, 1, 2048, file);
  fclose(file);
  return found;
}

static void answer(int fd, struct connection *c, int events) {
  if (!c->streaming) {
    if (write(fd, json, strlen(json)) < 0) return;
  } else {
    const char *head =
        c->framed ? "HTTP/1.1 200 OK\r\ncontent-type: application/vnd.amazon.eventstream\r\ntransfer-encoding: chunked\r\n\r\n"
                  : "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    if (write(fd, head, strlen(head)) < 0) return;
    chunk(fd, events_of[c->framed][0]);
    c->sent = 0;
    c->next = now();
    streams[stream_count++] = fd;
    (void)events;
  }
  c->have = c->need = 0;
}

static void readable(int fd, int events) {
  struct connection *c = &connections[fd];
  static char buffer[262144];
  ssize_t got;
  while ((got = read(fd, buffer, sizeof buffer - 1)) > 0) {
    if (!c->need) { /* a new request: its head arrives in one piece on loopback */
      buffer[got] = 0;
      char *end = strstr(buffer, "\r\n\r\n");
      char *length = strcasestr(buffer, "content-length:");
      if (!end) return;
      c->need = (end + 4 - buffer) + (length ? strtoul(length + 15, NULL, 10) : 0);
      c->have = 0;
      c->framed = memmem(buffer, end - buffer, FRAMED, strlen(FRAMED)) != NULL;
      c->streaming = c->framed;
    }
    c->have += got;
    if (memmem(buffer, got, MARK, strlen(MARK)) || memmem(buffer, got, COMPACT_MARK, strlen(COMPACT_MARK))) c->streaming = 1;
    if (c->have >= c->need) answer(fd, c, events);
  }
  if (got == 0 || (got < 0 && errno != EAGAIN)) {
    close(fd);
    c->open = 0;
    for (int i = 0; i < stream_count; i++)
      if (streams[i] == fd) streams[i--] = streams[--stream_count];
  }
}

int main(int argc, char **argv) {
  int port = atoi(argv[1]), events = argc > 2 ? atoi(argv[2]) : 50;
  double interval = (argc > 3 ? atof(argv[3]) : 100) / 1000;
  const char *message =
      "{\"id\":\"msg_bench\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-opus-5-5\",\"content\":[{"
      "\"type\":\"text\",\"text\":\"%s\"}],\"stop_reason\":\"end_turn\",\"usage\":{\"input_tokens\":10,"
      "\"output_tokens\":20}}";
  char text[701], body[1600];
  memset(text, 'x', 700);
  text[700] = 0;
  int length = snprintf(body, sizeof body, message, text);
  snprintf(json, sizeof json, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s", length,
           body);
  snprintf(start, sizeof start,
           "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_bench\",\"model\":"
           "\"claude-opus-5-5\",\"usage\":{\"input_tokens\":10,\"output_tokens\":1}}}\n\n");
  snprintf(stop, sizeof stop,
           "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":20}}\n\n"
           "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
  events_of[0][0] = (struct bytes){start, strlen(start)};
  events_of[0][1] = (struct bytes){delta, strlen(delta)};
  events_of[0][2] = (struct bytes){stop, strlen(stop)};
  const char *names[] = {"start", "delta", "stop"};
  for (int i = 0; argc > 4 && i < 3; i++) events_of[1][i] = from_file(argv[4], names[i]);
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4096)) return perror("listen"), 1;
  int poll = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, ready[512];
  epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
  for (;;) {
    int count = epoll_wait(poll, ready, 512, stream_count ? 5 : 1000);
    for (int i = 0; i < count; i++) {
      int fd = ready[i].data.fd;
      if (fd != listener) {
        readable(fd, events);
        continue;
      }
      while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0 && fd < CONNECTIONS) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        memset(&connections[fd], 0, sizeof connections[fd]);
        struct epoll_event added = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poll, EPOLL_CTL_ADD, fd, &added);
      }
    }
    double time = now();
    for (int i = 0; i < stream_count; i++) {
      int fd = streams[i];
      struct connection *c = &connections[fd];
      if (time < c->next) continue;
      c->next += interval;
      if (c->sent++ < events) {
        chunk(fd, events_of[c->framed][1]);
      } else {
        chunk(fd, events_of[c->framed][2]);
        if (write(fd, "0\r\n\r\n", 5) < 0) perror("write");
        streams[i--] = streams[--stream_count];
      }
    }
  }
}
