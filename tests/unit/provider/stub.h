#ifndef TESTS_PROVIDER_STUB_H
#define TESTS_PROVIDER_STUB_H

/* A scripted provider on a port of its own: a thread that takes connections one after the other, each in a
 * thread, reads requests and lets the script answer. */

#include <arpa/inet.h>
#include <assert.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { STUB_THREADS = 160, STUB_REQUEST = 65536 };

struct stub;

/* One request has come, as number `request` on connection `connection`, both from 0. Answers on fd; false:
 * close it. */
typedef bool stub_script(struct stub *stub, int fd, int connection, int request);

struct stub {
  int fd;
  unsigned short port;
  stub_script *script;
  pthread_t acceptor, threads[STUB_THREADS];
  int thread_count;
  _Atomic int connections, requests, closed_by_peer;
  pthread_mutex_t lock;
  char last[STUB_REQUEST]; /* the last request, whole; under lock */
};

struct stub_connection {
  struct stub *stub;
  int fd, number;
};

static inline void stub_send(int fd, const char *bytes, size_t size) {
  for (size_t at = 0; at < size;) {
    ssize_t n = send(fd, bytes + at, size - at, MSG_NOSIGNAL);
    if (n <= 0) return;
    at += (size_t)n;
  }
}

static inline void stub_text(int fd, const char *text) {
  stub_send(fd, text, strlen(text));
}

static inline void stub_answer(int fd, const char *head, const char *body) {
  char text[8192];
  int size =
      snprintf(text, sizeof text, "HTTP/1.1 %s\r\nContent-Length: %zu\r\n\r\n%s", head, strlen(body), body);
  stub_send(fd, text, (size_t)size);
}

/* The next close sends RST in place of FIN. */
static inline void stub_reset(int fd) {
  struct linger now = {.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

/* Waits until the peer closes; false when it has not after that time. */
static inline bool stub_wait_closed(int fd, int timeout_ms) {
  struct pollfd p = {.fd = fd, .events = POLLIN | POLLRDHUP};
  char byte;
  return poll(&p, 1, timeout_ms) > 0 && recv(fd, &byte, 1, MSG_DONTWAIT) <= 0;
}

static inline bool stub_whole(const char *text, size_t size) {
  const char *end = memmem(text, size, "\r\n\r\n", 4);
  if (!end) return false;
  const char *length = memmem(text, (size_t)(end - text), "Content-Length: ", 16);
  size_t body = length ? strtoul(length + 16, NULL, 10) : 0;
  return size >= (size_t)(end - text) + 4 + body;
}

static inline bool stub_read(struct stub_connection *c, char *text) {
  size_t size = 0;
  while (size < STUB_REQUEST - 1) {
    ssize_t n = recv(c->fd, text + size, STUB_REQUEST - 1 - size, 0);
    if (n <= 0) return false;
    size += (size_t)n;
    text[size] = '\0';
    if (stub_whole(text, size)) return true;
  }
  return false;
}

static inline void *stub_connection_run(void *ctx) {
  struct stub_connection *c = ctx;
  struct stub *stub = c->stub;
  char *text = malloc(STUB_REQUEST);
  for (int request = 0;; request++) {
    if (!stub_read(c, text)) {
      atomic_fetch_add(&stub->closed_by_peer, 1);
      break;
    }
    pthread_mutex_lock(&stub->lock);
    strcpy(stub->last, text);
    pthread_mutex_unlock(&stub->lock);
    atomic_fetch_add(&stub->requests, 1);
    if (!stub->script(stub, c->fd, c->number, request)) break;
  }
  close(c->fd);
  free(text);
  free(c);
  return NULL;
}

static inline void *stub_accept_run(void *ctx) {
  struct stub *stub = ctx;
  for (;;) {
    int fd = accept(stub->fd, NULL, NULL), yes = 1;
    if (fd < 0) return NULL;
    assert(stub->thread_count < STUB_THREADS);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    struct stub_connection *c = malloc(sizeof *c);
    *c = (struct stub_connection){stub, fd, atomic_fetch_add(&stub->connections, 1)};
    pthread_create(&stub->threads[stub->thread_count++], NULL, stub_connection_run, c);
  }
}

static inline struct stub *stub_create(stub_script *script) {
  struct stub *stub = calloc(1, sizeof *stub);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  stub->script = script;
  pthread_mutex_init(&stub->lock, NULL);
  stub->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert(bind(stub->fd, (struct sockaddr *)&address, size) == 0 && listen(stub->fd, 256) == 0);
  assert(getsockname(stub->fd, (struct sockaddr *)&address, &size) == 0);
  stub->port = ntohs(address.sin_port);
  pthread_create(&stub->acceptor, NULL, stub_accept_run, stub);
  return stub;
}

/* Every client connection must be closed by then. */
static inline void stub_destroy(struct stub *stub) {
  shutdown(stub->fd, SHUT_RDWR);
  pthread_join(stub->acceptor, NULL);
  close(stub->fd);
  for (int i = 0; i < stub->thread_count; i++)
    pthread_join(stub->threads[i], NULL);
  pthread_mutex_destroy(&stub->lock);
  free(stub);
}

#endif
