/* A closed-loop client for benchmarks: a fixed number of connections sends a fixed number of chat requests,
 * each with a prompt of its own, so that no cache and no coalescing can answer for the provider, and the
 * mock's count can be compared exactly. One epoll thread, plain sockets, keep-alive.
 *
 *   http_load --port N [--connections 64] [--requests 10000] [--stream] [--start K] [--path P] [--model M]
 *
 * --start: number of the first prompt. Prints one JSON object: times, rate, latency quantiles in us. */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
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

enum { BUFFER = 8192, BATCH = 256, BODY_BYTES = 500, STALL_MS = 60000 };

enum where { IN_HEAD, IN_LENGTH, IN_CHUNK_SIZE, IN_CHUNK, IN_TRAILER };

struct line {
  int fd;
  enum where where;
  bool ok;
  size_t left; /* bytes of the body or of the chunk, its CRLF included */
  size_t used;
  int64_t sent_ns;
  char in[BUFFER];
};

struct load {
  int epoll_fd;
  uint16_t port;
  unsigned connections;
  uint64_t requests, first, sent, ended, errors, bytes;
  bool stream;
  const char *path, *model;
  struct line *lines;
  double *latency_us;
};

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void die(const char *what) {
  perror(what);
  exit(2);
}

/* A request whose body is always BODY_BYTES long. */
static size_t build(const struct load *load, uint64_t number, char *out, size_t size) {
  char head[256], body[BODY_BYTES + 1];
  int used = snprintf(head, sizeof head,
                      "{\"model\":\"%s\",%s\"messages\":[{\"role\":\"user\",\"content\":\"prompt %llu ",
                      load->model, load->stream ? "\"stream\":true," : "", (unsigned long long)number);
  static const char tail[] = "\"}]}";
  memcpy(body, head, (size_t)used);
  for (int i = used; i < BODY_BYTES - (int)sizeof tail + 1; i++)
    body[i] = i % 6 == 5 ? ' ' : (char)('a' + i % 26);
  memcpy(body + BODY_BYTES - sizeof tail + 1, tail, sizeof tail);
  return (size_t)snprintf(out, size,
                          "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nContent-Type: application/json\r\n"
                          "Content-Length: %d\r\n\r\n%s",
                          load->path, load->port, BODY_BYTES, body);
}

static void open_line(struct load *load, struct line *line) {
  struct sockaddr_in to = {
      .sin_family = AF_INET, .sin_port = htons(load->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int one = 1;
  line->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (line->fd < 0 || connect(line->fd, (struct sockaddr *)&to, sizeof to) < 0) die("connect");
  setsockopt(line->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = line};
  epoll_ctl(load->epoll_fd, EPOLL_CTL_ADD, line->fd, &event);
}

static void send_next(struct load *load, struct line *line) {
  if (load->sent == load->requests) return;
  char out[2048];
  size_t size = build(load, load->first + load->sent, out, sizeof out);
  load->sent++;
  line->where = IN_HEAD;
  line->used = 0;
  line->sent_ns = now_ns();
  if (send(line->fd, out, size, MSG_NOSIGNAL) != (ssize_t)size) die("send");
}

static void end_request(struct load *load, struct line *line, bool ok) {
  load->latency_us[load->ended++] = (double)(now_ns() - line->sent_ns) / 1000;
  if (!ok) load->errors++;
}

static void reopen(struct load *load, struct line *line) {
  close(line->fd);
  open_line(load, line);
  send_next(load, line);
}

static void consume(struct line *line, size_t n) {
  memmove(line->in, line->in + n, line->used - n);
  line->used -= n;
}

/* True when a whole head was read; where then says what follows. */
static bool read_head(struct line *line) {
  char *end = memmem(line->in, line->used, "\r\n\r\n", 4);
  if (!end) return false;
  *end = 0;
  line->ok = strncmp(line->in, "HTTP/1.1 200", 12) == 0;
  const char *length = strcasestr(line->in, "\ncontent-length:");
  line->where = length ? IN_LENGTH : IN_CHUNK_SIZE;
  line->left = length ? strtoul(length + 16, NULL, 10) : 0;
  consume(line, (size_t)(end - line->in) + 4);
  return true;
}

static bool read_chunk_size(struct line *line) {
  char *end = memmem(line->in, line->used, "\r\n", 2);
  if (!end) return false;
  line->left = strtoul(line->in, NULL, 16);
  line->where = line->left ? IN_CHUNK : IN_TRAILER;
  if (line->left) line->left += 2;
  consume(line, (size_t)(end - line->in) + 2);
  return true;
}

/* Goes on as far as the bytes allow. True when the answer is complete. */
static bool advance(struct line *line) {
  for (;;) {
    if (line->where == IN_HEAD && !read_head(line)) return false;
    if (line->where == IN_CHUNK_SIZE && !read_chunk_size(line)) return false;
    if (line->where == IN_TRAILER) {
      if (line->used < 2) return false;
      consume(line, 2);
      return true;
    }
    if (line->where == IN_LENGTH || line->where == IN_CHUNK) {
      size_t n = line->used < line->left ? line->used : line->left;
      consume(line, n);
      line->left -= n;
      if (line->left > 0) return false;
      if (line->where == IN_LENGTH) return true;
      line->where = IN_CHUNK_SIZE;
    }
  }
}

static void read_line(struct load *load, struct line *line) {
  ssize_t n = recv(line->fd, line->in + line->used, BUFFER - line->used, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) {
    if (line->sent_ns) end_request(load, line, false);
    line->sent_ns = 0;
    reopen(load, line);
    return;
  }
  line->used += (size_t)n;
  load->bytes += (uint64_t)n;
  if (!advance(line)) return;
  end_request(load, line, line->ok);
  line->sent_ns = 0;
  send_next(load, line);
}

static void run(struct load *load) {
  for (unsigned i = 0; i < load->connections; i++)
    open_line(load, &load->lines[i]);
  for (unsigned i = 0; i < load->connections; i++)
    send_next(load, &load->lines[i]);
  struct epoll_event batch[BATCH];
  while (load->ended < load->requests) {
    int n = epoll_wait(load->epoll_fd, batch, BATCH, STALL_MS);
    if (n == 0) {
      fprintf(stderr, "http_load: nothing came for %d s\n", STALL_MS / 1000);
      exit(1);
    }
    for (int i = 0; i < n && load->ended < load->requests; i++)
      read_line(load, batch[i].data.ptr);
  }
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void report(struct load *load, double seconds) {
  qsort(load->latency_us, load->ended, sizeof *load->latency_us, compare);
  double p50 = load->latency_us[load->ended / 2], p99 = load->latency_us[load->ended * 99 / 100];
  printf("{\"requests\":%llu,\"errors\":%llu,\"seconds\":%.4f,\"per_second\":%.1f,\"p50_us\":%.1f,\"p99_us\":"
         "%.1f,"
         "\"bytes\":%llu}\n",
         (unsigned long long)load->ended, (unsigned long long)load->errors, seconds,
         (double)load->ended / seconds, p50, p99, (unsigned long long)load->bytes);
}

static bool parse_arguments(int argc, char **argv, struct load *load) {
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--stream") == 0) {
      load->stream = true;
      continue;
    }
    if (i + 1 == argc) return false;
    const char *key = argv[i], *value = argv[++i];
    if (strcmp(key, "--port") == 0) load->port = (uint16_t)strtoul(value, NULL, 10);
    if (strcmp(key, "--connections") == 0) load->connections = (unsigned)strtoul(value, NULL, 10);
    if (strcmp(key, "--requests") == 0) load->requests = strtoull(value, NULL, 10);
    if (strcmp(key, "--start") == 0) load->first = strtoull(value, NULL, 10);
    if (strcmp(key, "--path") == 0) load->path = value;
    if (strcmp(key, "--model") == 0) load->model = value;
  }
  return load->port && load->connections && load->requests;
}

int main(int argc, char **argv) {
  struct load load = {.connections = 64, .requests = 10000, .path = "/v1/chat/completions", .model = "mock"};
  if (!parse_arguments(argc, argv, &load)) {
    fprintf(stderr, "http_load: give --port, and --connections and --requests above 0\n");
    return 2;
  }
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  load.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  load.lines = calloc(load.connections, sizeof *load.lines);
  load.latency_us = calloc(load.requests, sizeof *load.latency_us);
  if (!load.lines || !load.latency_us) die("memory");
  int64_t start = now_ns();
  run(&load);
  report(&load, (double)(now_ns() - start) / 1e9);
  free(load.lines);
  free(load.latency_us);
  return 0;
}
