/* A provider without delay, for benchmarks: one epoll thread, keep-alive, a fixed chat answer of 577 bytes.
 * It counts the chat requests that it answered, so that a gateway cannot gain by not forwarding them. A
 * request for a stream gets paced chunks instead.
 *
 *   mock_upstream [--port N] [--tokens 20] [--gap-ms 100]
 *   POST anything   the answer        GET /count   how many        GET else   an empty list of models
 *
 * Prints "listening on http://127.0.0.1:PORT". Trusts its peers: no time-outs, bounded buffers only. */

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
#include <sys/timerfd.h>
#include <unistd.h>

enum { BUFFER = 16384, BODY_BYTES = 577, BATCH = 256 };

struct peer {
  int fd;
  unsigned tokens_left; /* of a stream under way */
  size_t used;
  struct peer *next_stream, *previous_stream;
  char in[BUFFER];
};

struct mock {
  int epoll_fd, listen_fd, timer_fd;
  unsigned tokens, gap_ms;
  uint64_t count;
  struct peer streams; /* ring of the peers that are being streamed to */
  char answer[1024];
  size_t answer_size;
};

static const char chunk_form[] =
    "data: "
    "{\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":"
    "\"mock\","
    "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"token \"},\"finish_reason\":null}]}\n\n";
static const char last_form[] =
    "data: "
    "{\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":"
    "\"mock\","
    "\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
    "data: "
    "{\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":"
    "\"mock\","
    "\"choices\":[],\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":20,\"total_tokens\":40}}\n\n"
    "data: [DONE]\n\n";

static void build_answer(struct mock *mock) {
  char body[BODY_BYTES + 1];
  int head =
      snprintf(body, sizeof body,
               "{\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":"
               "\"mock\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"");
  const char *tail =
      "\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":64,"
      "\"total_tokens\":84}}";
  size_t text = BODY_BYTES - (size_t)head - strlen(tail);
  for (size_t i = 0; i < text; i++)
    body[(size_t)head + i] = i % 6 == 5 ? ' ' : (char)('a' + i % 26);
  memcpy(body + head + text, tail, strlen(tail) + 1);
  mock->answer_size = (size_t)snprintf(
      mock->answer, sizeof mock->answer,
      "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", BODY_BYTES, body);
}

/* Small answers on loopback fit the socket's buffer; a peer that does not read is dropped by the caller. */
static bool send_all(const struct peer *peer, const char *bytes, size_t size) {
  return send(peer->fd, bytes, size, MSG_NOSIGNAL) == (ssize_t)size;
}

static bool send_chunk(const struct peer *peer, const char *bytes, size_t size, bool last) {
  char out[2048];
  int used = snprintf(out, sizeof out, "%zx\r\n%.*s\r\n%s", size, (int)size, bytes, last ? "0\r\n\r\n" : "");
  return send_all(peer, out, (size_t)used);
}

static void unlink_stream(struct peer *peer) {
  if (!peer->next_stream) return;
  peer->next_stream->previous_stream = peer->previous_stream;
  peer->previous_stream->next_stream = peer->next_stream;
  peer->next_stream = peer->previous_stream = NULL;
}

static void drop(struct peer *peer) {
  unlink_stream(peer);
  close(peer->fd);
  free(peer);
}

static bool begin_stream(struct mock *mock, struct peer *peer) {
  static const char head[] =
      "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
  if (!send_all(peer, head, sizeof head - 1)) return false;
  peer->tokens_left = mock->tokens;
  peer->next_stream = mock->streams.next_stream;
  peer->previous_stream = &mock->streams;
  peer->next_stream->previous_stream = peer;
  mock->streams.next_stream = peer;
  return true;
}

static void pace(struct mock *mock) {
  uint64_t ticks;
  ssize_t ignored = read(mock->timer_fd, &ticks, sizeof ticks);
  (void)ignored;
  for (struct peer *peer = mock->streams.next_stream, *next; peer != &mock->streams; peer = next) {
    next = peer->next_stream;
    bool last = peer->tokens_left == 0;
    bool sent = last ? send_chunk(peer, last_form, sizeof last_form - 1, true)
                     : send_chunk(peer, chunk_form, sizeof chunk_form - 1, false);
    if (last) unlink_stream(peer);
    if (!sent) {
      drop(peer);
      continue;
    }
    peer->tokens_left -= !last;
  }
}

static bool send_get(struct mock *mock, const struct peer *peer) {
  char body[128], out[512];
  if (memmem(peer->in, peer->used, " /count ", 8))
    snprintf(body, sizeof body, "{\"count\":%llu}\n", (unsigned long long)mock->count);
  else
    snprintf(body, sizeof body, "{\"object\":\"list\",\"data\":[{\"id\":\"mock\",\"object\":\"model\"}]}\n");
  int used = snprintf(out, sizeof out,
                      "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                      strlen(body), body);
  return send_all(peer, out, (size_t)used);
}

static size_t content_length(const char *head, size_t size) {
  for (const char *at = head; at < head + size; at++) {
    if (*at != '\n') continue;
    if (strncasecmp(at + 1, "content-length:", 15) == 0) return strtoul(at + 16, NULL, 10);
  }
  return 0;
}

/* Answers every whole request in the buffer. False: drop the peer. */
static bool serve(struct mock *mock, struct peer *peer) {
  while (peer->used > 0) {
    char *end = memmem(peer->in, peer->used, "\r\n\r\n", 4);
    if (!end) return peer->used < BUFFER;
    size_t head = (size_t)(end - peer->in) + 4;
    size_t size = head + content_length(peer->in, head);
    if (size > BUFFER) return false;
    if (peer->used < size) return true;
    bool sent;
    if (memcmp(peer->in, "GET", 3) == 0) {
      sent = send_get(mock, peer);
    } else {
      mock->count++;
      bool stream = memmem(peer->in + head, size - head, "\"stream\":true", 13) != NULL;
      sent = stream ? begin_stream(mock, peer) : send_all(peer, mock->answer, mock->answer_size);
    }
    if (!sent) return false;
    memmove(peer->in, peer->in + size, peer->used - size);
    peer->used -= size;
  }
  return true;
}

static void read_peer(struct mock *mock, struct peer *peer) {
  ssize_t n = recv(peer->fd, peer->in + peer->used, BUFFER - 1 - peer->used, 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) {
    drop(peer);
    return;
  }
  peer->used += (size_t)n;
  peer->in[peer->used] = 0;
  if (!serve(mock, peer)) drop(peer);
}

static void accept_peers(struct mock *mock) {
  for (;;) {
    int fd = accept4(mock->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct peer *peer = calloc(1, sizeof *peer);
    if (!peer) {
      close(fd);
      return;
    }
    peer->fd = fd;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
    epoll_ctl(mock->epoll_fd, EPOLL_CTL_ADD, fd, &event);
  }
}

static int listen_on(uint16_t port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
  struct sockaddr_in address = {
      .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 4096) < 0) {
    perror("mock_upstream");
    exit(2);
  }
  socklen_t size = sizeof address;
  getsockname(fd, (struct sockaddr *)&address, &size);
  printf("listening on http://127.0.0.1:%u\n", ntohs(address.sin_port));
  fflush(stdout);
  return fd;
}

static void parse_arguments(int argc, char **argv, struct mock *mock, uint16_t *port) {
  for (int i = 1; i + 1 < argc; i += 2) {
    unsigned value = (unsigned)strtoul(argv[i + 1], NULL, 10);
    if (strcmp(argv[i], "--port") == 0) *port = (uint16_t)value;
    if (strcmp(argv[i], "--tokens") == 0) mock->tokens = value;
    if (strcmp(argv[i], "--gap-ms") == 0 && value > 0) mock->gap_ms = value;
  }
}

static void start_pacing(struct mock *mock) {
  mock->streams.next_stream = mock->streams.previous_stream = &mock->streams;
  mock->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  struct timespec gap = {.tv_sec = mock->gap_ms / 1000, .tv_nsec = (long)(mock->gap_ms % 1000) * 1000000};
  struct itimerspec every = {.it_interval = gap, .it_value = gap};
  timerfd_settime(mock->timer_fd, 0, &every, NULL);
}

int main(int argc, char **argv) {
  static struct mock mock = {.tokens = 20, .gap_ms = 100};
  uint16_t port = 0;
  parse_arguments(argc, argv, &mock, &port);
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  signal(SIGPIPE, SIG_IGN);
  build_answer(&mock);
  start_pacing(&mock);
  mock.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  mock.listen_fd = listen_on(port);
  struct epoll_event listening = {.events = EPOLLIN, .data.ptr = &mock.listen_fd};
  struct epoll_event pacing = {.events = EPOLLIN, .data.ptr = &mock.timer_fd};
  epoll_ctl(mock.epoll_fd, EPOLL_CTL_ADD, mock.listen_fd, &listening);
  epoll_ctl(mock.epoll_fd, EPOLL_CTL_ADD, mock.timer_fd, &pacing);
  for (struct epoll_event batch[BATCH];;) {
    int n = epoll_wait(mock.epoll_fd, batch, BATCH, -1);
    bool due = false;
    for (int i = 0; i < n; i++) {
      if (batch[i].data.ptr == &mock.listen_fd)
        accept_peers(&mock);
      else if (batch[i].data.ptr == &mock.timer_fd)
        due = true; /* after the peers: pacing may free some */
      else
        read_peer(&mock, batch[i].data.ptr);
    }
    if (due) pace(&mock);
  }
}
