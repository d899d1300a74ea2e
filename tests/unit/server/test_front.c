/* The front against raw sockets: the loop runs on a thread of its own, the test is a blocking client. */

#include "server/front.h"
#include "sys/clock.h"
#include "sys/evloop.h"

#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { LIMIT = 1 << 20, FLOOD = 4 << 20 };

struct world {
  struct evloop *loop;
  struct front *front;
  pthread_t thread;
  struct turn_hook hook;
  struct exchange *held; /* by /hold and /stream */
  _Atomic bool stop, stop_accepting, feed, flood, finish, abort;
  _Atomic int calls, admin_calls, gone, open;
  _Atomic int64_t gone_ns;
  _Atomic size_t backlog;
};

static void on_gone(struct exchange *ex, void *owner, int64_t now_ns) {
  (void)ex;
  struct world *w = owner;
  w->held = NULL;
  w->gone_ns = now_ns;
  w->gone++;
}

static void hold(struct world *w, struct exchange *ex) {
  w->held = ex;
  exchange_set_owner(ex, w);
  exchange_on_gone(ex, on_gone);
}

static void handle(void *ctx, struct exchange *ex, int64_t now_ns) {
  (void)now_ns;
  struct world *w = ctx;
  const char *path = exchange_path(ex);
  w->calls++;
  if (!strncmp(path, "/admin", 6)) w->admin_calls++;
  if (!strcmp(path, "/hold")) {
    hold(w, ex);
  } else if (!strcmp(path, "/stream")) {
    hold(w, ex);
    exchange_begin(ex, 200, "text/event-stream", NULL, 0);
  } else if (!strcmp(path, "/echo")) {
    size_t size;
    char *body = exchange_take_body(ex, &size);
    exchange_reply_owned(ex, 200, "application/octet-stream", body, size, NULL, 0);
  } else {
    char text[128];
    size_t size;
    exchange_body(ex, &size);
    const char *q = exchange_query(ex, "q");
    int n = snprintf(text, sizeof text, "%s %s %zu %s", exchange_method(ex), path, size, q ? q : "-");
    struct front_header extra = {"X-Test", "yes"};
    exchange_reply(ex, 200, "text/plain", text, (size_t)n, &extra, 1);
  }
}

/* Lets the test's thread steer the held exchange. */
static bool steer(struct turn_hook *hook, int64_t now_ns) {
  (void)now_ns;
  struct world *w = (struct world *)((char *)hook - offsetof(struct world, hook));
  w->open = (int)front_open(w->front);
  if (w->stop_accepting) front_stop_accepting(w->front);
  if (!w->held) return false;
  if (atomic_exchange(&w->feed, false)) w->backlog = exchange_write(w->held, "data: chunk\n\n", 13);
  static const char much[65536] = "data:";
  if (w->flood && w->backlog < FLOOD) w->backlog = exchange_write(w->held, much, sizeof much);
  if (atomic_exchange(&w->abort, false)) {
    struct exchange *ex = w->held;
    w->held = NULL;
    exchange_abort(ex);
  } else if (atomic_exchange(&w->finish, false)) {
    struct exchange *ex = w->held;
    w->held = NULL;
    if (!strcmp(exchange_path(ex), "/hold"))
      exchange_reply(ex, 200, "text/plain", "late", 4, NULL, 0);
    else
      exchange_end(ex);
  }
  return false;
}

static void *turns(void *arg) {
  struct world *w = arg;
  while (!w->stop)
    evloop_turn(w->loop, 5 * NS_PER_MS);
  return NULL;
}

static int start(void **state) {
  struct world *w = calloc(1, sizeof *w);
  struct front_settings settings = {.host = "127.0.0.1",
                                    .body_limit = LIMIT,
                                    .max_connections = 100,
                                    .header_timeout_ns = 400 * NS_PER_MS,
                                    .body_timeout_ns = 600 * NS_PER_MS,
                                    .idle_timeout_ns = 800 * NS_PER_MS,
                                    .write_timeout_ns = 300 * NS_PER_MS};
  char error[200];
  w->loop = evloop_create();
  w->front = front_create(w->loop, &settings, handle, w, error, sizeof error);
  w->hook.run = steer;
  evloop_add_hook(w->loop, &w->hook);
  *state = w;
  return !w->front || pthread_create(&w->thread, NULL, turns, w);
}

static int stop(void **state) {
  struct world *w = *state;
  w->stop = true;
  pthread_join(w->thread, NULL);
  front_destroy(w->front);
  evloop_destroy(w->loop);
  free(w);
  return 0;
}

static int dial(struct world *w) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(front_port(w->front))};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct timeval wait = {.tv_sec = 5};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
  assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
  return fd;
}

static void say(int fd, const char *text) {
  size_t size = strlen(text);
  assert_int_equal(send(fd, text, size, MSG_NOSIGNAL), (ssize_t)size);
}

/* Reads until the peer closes (0), an error (-errno), or `until` has been seen. */
static int hear_until(int fd, char *out, size_t size, const char *until) {
  size_t n = 0;
  out[0] = '\0';
  while (n + 1 < size) {
    ssize_t got = recv(fd, out + n, size - 1 - n, 0);
    if (got <= 0) return got < 0 ? -errno : 0;
    n += (size_t)got;
    out[n] = '\0';
    if (until && strstr(out, until)) return 1;
  }
  return 1;
}

static int status_of(const char *answer) {
  int status = 0;
  return sscanf(answer, "HTTP/1.1 %d", &status) == 1 ? status : 0;
}

static int answers_in(const char *text) {
  int n = 0;
  for (const char *at = text; (at = strstr(at, "HTTP/1.1 ")); at++)
    n++;
  return n;
}

static bool wait_for(_Atomic int *value, int wanted, int ms) {
  for (int i = 0; i < ms && *value != wanted; i++)
    usleep(1000);
  return *value == wanted;
}

static int64_t ms_since(int64_t start_ns) {
  return (clock_now_ns() - start_ns) / NS_PER_MS;
}

static void answers_a_get_with_its_query_and_headers(void **state) {
  int fd = dial(*state);
  char answer[1024];
  say(fd, "GET /a%20b?q=1%2B1 HTTP/1.1\r\nHost: x\r\n\r\n");
  assert_int_equal(hear_until(fd, answer, sizeof answer, "1+1"), 1);
  assert_int_equal(status_of(answer), 200);
  assert_non_null(strstr(answer, "X-Test: yes"));
  assert_non_null(strstr(answer, "GET /a b 0 1+1"));
  close(fd);
}

static void head_has_no_body_and_unknown_methods_reach_the_handler(void **state) {
  int fd = dial(*state);
  char answer[1024];
  say(fd, "HEAD /x HTTP/1.1\r\nHost: x\r\n\r\nBREW /pot HTTP/1.1\r\nHost: x\r\n\r\n");
  assert_int_equal(hear_until(fd, answer, sizeof answer, "BREW /pot 0 -"), 1);
  assert_int_equal(answers_in(answer), 2);
  assert_null(strstr(answer, "HEAD /x 0"));
  close(fd);
}

static void a_thousand_requests_share_one_connection(void **state) {
  struct world *w = *state;
  int fd = dial(w);
  char answer[1024];
  for (int i = 0; i < 1000; i++) {
    say(fd, "POST /n HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
    assert_int_equal(hear_until(fd, answer, sizeof answer, "POST /n 5 -"), 1);
  }
  assert_int_equal(w->calls, 1000);
  close(fd);
}

static void pipelined_requests_are_answered_in_order(void **state) {
  int fd = dial(*state);
  char answer[4096];
  say(fd, "GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\nGET /3 HTTP/1.1\r\nHost: "
          "x\r\n\r\n");
  assert_int_equal(hear_until(fd, answer, sizeof answer, "GET /3"), 1);
  char *first = strstr(answer, "GET /1"), *second = strstr(answer, "GET /2"),
       *third = strstr(answer, "GET /3");
  assert_true(first && first < second && second < third);
  close(fd);
}

static void a_late_answer_arrives_and_the_connection_lives_on(void **state) {
  struct world *w = *state;
  int fd = dial(w);
  char answer[1024];
  for (int i = 0; i < 50; i++) {
    say(fd, "POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi");
    assert_true(wait_for(&w->calls, i + 1, 1000));
    w->finish = true;
    assert_int_equal(hear_until(fd, answer, sizeof answer, "late"), 1);
    assert_int_equal(status_of(answer), 200);
  }
  assert_int_equal(w->gone, 0);
  close(fd);
}

static void a_stream_arrives_chunk_by_chunk(void **state) {
  struct world *w = *state;
  int fd = dial(w);
  char answer[4096];
  say(fd, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
  assert_true(wait_for(&w->calls, 1, 1000));
  w->feed = true;
  assert_int_equal(hear_until(fd, answer, sizeof answer, "data: chunk"), 1);
  assert_int_equal(status_of(answer), 200); /* header and first chunk in one piece */
  for (int i = 0; i < 200; i++) {
    w->feed = true;
    assert_int_equal(hear_until(fd, answer, sizeof answer, "data: chunk"), 1);
  }
  w->finish = true;
  assert_int_equal(hear_until(fd, answer, sizeof answer, "0\r\n\r\n"), 1);
  say(fd, "GET /after HTTP/1.1\r\nHost: x\r\n\r\n");
  assert_int_equal(hear_until(fd, answer, sizeof answer, "GET /after"), 1);
  close(fd);
}

static void an_aborted_stream_has_no_last_chunk(void **state) {
  struct world *w = *state;
  int fd = dial(w);
  char answer[4096];
  say(fd, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
  assert_true(wait_for(&w->calls, 1, 1000));
  w->feed = true;
  assert_int_equal(hear_until(fd, answer, sizeof answer, "data: chunk"), 1);
  w->abort = true;
  assert_int_equal(hear_until(fd, answer, sizeof answer, NULL), 0);
  assert_null(strstr(answer, "0\r\n\r\n"));
  close(fd);
}

static void leaves_noticed(void **state, const char *request, bool feed, bool reset) {
  struct world *w = *state;
  int fd = dial(w), before = w->gone, calls = w->calls;
  say(fd, request);
  assert_true(wait_for(&w->calls, calls + 1, 1000));
  char answer[1024];
  if (feed) {
    w->feed = true;
    assert_int_equal(hear_until(fd, answer, sizeof answer, "data: chunk"), 1);
  }
  struct linger hard = {.l_onoff = 1};
  if (reset) setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
  int64_t left = clock_now_ns();
  close(fd);
  assert_true(wait_for(&w->gone, before + 1, 500));
  assert_true(w->gone_ns - left < 500 * NS_PER_MS);
}

static void a_client_that_leaves_is_noticed_while_its_answer_is_awaited(void **state) {
  const char *held = "POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi";
  const char *stream = "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n";
  for (int i = 0; i < 20; i++) {
    leaves_noticed(state, held, false, false);
    leaves_noticed(state, held, false, true);
    leaves_noticed(state, stream, true, false);
    leaves_noticed(state, stream, true, true);
    leaves_noticed(state, stream, false, false);
  }
  struct world *w = *state;
  assert_true(wait_for(&w->open, 0, 500));
}

static void a_fin_right_after_the_request_counts_as_leaving(void **state) {
  struct world *w = *state;
  int fd = dial(w);
  say(fd, "POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi");
  shutdown(fd, SHUT_WR);
  assert_true(wait_for(&w->gone, 1, 500));
  close(fd);
}

/* One connection, raw bytes; the hidden request must never run. */
static void smuggles_nothing(struct world *w, const char *name, const char *bytes) {
  int fd = dial(w);
  char answer[4096];
  int before = w->admin_calls;
  say(fd, bytes);
  shutdown(fd, SHUT_WR);
  int end = hear_until(fd, answer, sizeof answer, NULL);
  int refusals = 0; /* the library writes its own refusal of a bad Content-Length with two header blocks */
  for (const char *at = answer; (at = strstr(at, "HTTP/1.1 4")); at++)
    refusals++;
  if (answers_in(answer) - refusals > 1 || w->admin_calls != before || end > 0)
    fail_msg("%s: %d answers, %d hidden calls: %s", name, answers_in(answer), w->admin_calls - before,
             answer);
  close(fd);
}

#define HIDDEN "GET /admin/x HTTP/1.1\r\nHost: x\r\n\r\n"
#define CHUNKED "POST /n HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

static void ambiguous_framing_lets_no_hidden_request_run(void **state) {
  struct world *w = *state;
  smuggles_nothing(w, "both",
                   "POST /n HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n"
                   "0\r\n\r\n" HIDDEN);
  smuggles_nothing(w, "both, other order",
                   "POST /n HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n"
                   "0\r\n\r\n" HIDDEN);
  smuggles_nothing(w, "two lengths",
                   "POST /n HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 35\r\n\r\n" HIDDEN);
  smuggles_nothing(w, "space before colon",
                   "POST /n HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n" HIDDEN);
  smuggles_nothing(w, "unknown coding",
                   "POST /n HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" HIDDEN);
  smuggles_nothing(w, "two codings",
                   "POST /n HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" HIDDEN);
  smuggles_nothing(w, "plus", "POST /n HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello" HIDDEN);
  smuggles_nothing(w, "minus", "POST /n HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n" HIDDEN);
  smuggles_nothing(w, "folded", "POST /n HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n 35\r\n\r\n" HIDDEN);
  smuggles_nothing(w, "folded tab", "POST /n HTTP/1.1\r\nHost: x\r\nX: y\r\n\tz\r\n\r\n" HIDDEN);
  smuggles_nothing(w, "leading space",
                   "POST /n HTTP/1.1\r\n Transfer-Encoding: chunked\r\nHost: x\r\n\r\n" HIDDEN);
  smuggles_nothing(w, "0x", CHUNKED "0x5\r\nhello\r\n0\r\n\r\n" HIDDEN);
  smuggles_nothing(w, "negative chunk", CHUNKED "-1\r\nhello\r\n0\r\n\r\n" HIDDEN);
  smuggles_nothing(w, "long chunk size", CHUNKED "FFFFFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n" HIDDEN);
  smuggles_nothing(w, "bare LF", CHUNKED "5\nhello\r\n0\r\n\r\n" HIDDEN);
  smuggles_nothing(w, "chunked 1.0",
                   "POST /n HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" HIDDEN);
  smuggles_nothing(w, "no host", "POST /n HTTP/1.1\r\nContent-Length: 0\r\n\r\n" HIDDEN);
  smuggles_nothing(w, "two hosts", "POST /n HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" HIDDEN);
  assert_int_equal(w->admin_calls, 0);
}

static void a_whole_chunked_request_is_served_and_its_connection_closed(void **state) {
  int fd = dial(*state);
  char answer[1024];
  say(fd, CHUNKED "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n");
  assert_int_equal(hear_until(fd, answer, sizeof answer, NULL), 0);
  assert_non_null(strstr(answer, "POST /n 11 -"));
  assert_non_null(strstr(answer, "Connection: close"));
  close(fd);
}

static void a_body_in_small_pieces_reaches_the_handler_once(void **state) {
  struct world *w = *state;
  enum { SIZE = 33000, PIECE = 1440 };
  int fd = dial(w);
  static char body[SIZE], answer[SIZE + 1024];
  for (int i = 0; i < SIZE; i++)
    body[i] = (char)('a' + i % 26);
  say(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 33000\r\n\r\n");
  for (int at = 0; at < SIZE; at += PIECE)
    assert_true(send(fd, body + at, (size_t)(SIZE - at < PIECE ? SIZE - at : PIECE), MSG_NOSIGNAL) > 0);
  shutdown(fd, SHUT_WR);
  assert_int_equal(hear_until(fd, answer, sizeof answer, NULL), 0);
  char *at = strstr(answer, "\r\n\r\n");
  assert_non_null(at);
  assert_int_equal(strlen(at + 4), SIZE);
  assert_memory_equal(at + 4, body, SIZE);
  assert_int_equal(w->calls, 1);
  close(fd);
}

static void send_all(int fd, size_t size, bool chunked) {
  static char zeros[65536];
  memset(zeros, 'z', sizeof zeros);
  for (size_t at = 0; at < size;) {
    size_t n = size - at < sizeof zeros ? size - at : sizeof zeros;
    char head[16];
    snprintf(head, sizeof head, "%zx\r\n", n);
    if (chunked) say(fd, head);
    for (size_t done = 0; done < n;) {
      ssize_t sent = send(fd, zeros + done, n - done, MSG_NOSIGNAL);
      assert_true(sent > 0);
      done += (size_t)sent;
    }
    if (chunked) say(fd, "\r\n");
    at += n;
  }
  if (chunked) say(fd, "0\r\n\r\n");
}

static void a_body_past_the_limit_gets_a_413_that_can_be_read(void **state) {
  struct world *w = *state;
  char answer[2048], head[128];
  for (int chunked = 0; chunked < 2; chunked++) {
    int fd = dial(w);
    snprintf(head, sizeof head, "POST /n HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", LIMIT + 500000);
    say(fd, chunked ? CHUNKED : head);
    send_all(fd, LIMIT + 500000, chunked);
    assert_int_equal(hear_until(fd, answer, sizeof answer, NULL), 0);
    assert_int_equal(status_of(answer), 413);
    assert_non_null(strstr(answer, "\"request_too_large\""));
    close(fd);
  }
  assert_int_equal(w->calls, 0);
}

static void an_absurd_length_gets_a_413_at_once(void **state) {
  int fd = dial(*state);
  char answer[2048];
  int64_t start_ns = clock_now_ns();
  say(fd, "POST /n HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000000000000000\r\n\r\n");
  assert_int_equal(hear_until(fd, answer, sizeof answer, NULL), 0);
  assert_int_equal(status_of(answer), 413);
  assert_true(ms_since(start_ns) < 300);
  close(fd);
}

static void a_client_that_expects_continue_learns_of_the_413_before_it_sends(void **state) {
  int fd = dial(*state);
  char answer[2048];
  say(fd, "POST /n HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\nExpect: 100-continue\r\n\r\n");
  assert_int_equal(hear_until(fd, answer, sizeof answer, NULL), 0);
  assert_int_equal(status_of(answer), 413);
  close(fd);
}

/* One byte each 50 ms; returns after how many ms the connection was closed. */
static int64_t drip(struct world *w, const char *start, const char *bytes) {
  int fd = dial(w);
  int64_t start_ns = clock_now_ns();
  if (*start) say(fd, start);
  for (size_t i = 0; ms_since(start_ns) < 2000; i++) {
    char sink[256];
    if (send(fd, bytes + i % strlen(bytes), 1, MSG_NOSIGNAL) < 0) break;
    usleep(50000);
    ssize_t got = recv(fd, sink, sizeof sink, MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN)) break;
  }
  close(fd);
  return ms_since(start_ns);
}

static void dripping_headers_and_bodies_are_cut_in_time(void **state) {
  struct world *w = *state;
  int64_t headers = drip(w, "", "GET / HTTP/1.1\r\nX-Long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
  assert_in_range(headers, 350, 700);
  int64_t line = drip(w, "GET / HTTP/1.1\r\n", "X-Long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
  assert_in_range(line, 350, 700);
  int64_t body = drip(w, "POST /n HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n", "b");
  assert_in_range(body, 550, 900);
  assert_int_equal(w->calls, 0);
}

static void an_idle_connection_is_reaped(void **state) {
  int fd = dial(*state);
  char answer[1024];
  say(fd, "GET /i HTTP/1.1\r\nHost: x\r\n\r\n");
  assert_int_equal(hear_until(fd, answer, sizeof answer, "GET /i"), 1);
  int64_t start_ns = clock_now_ns();
  assert_int_equal(hear_until(fd, answer, sizeof answer, NULL), 0);
  assert_in_range(ms_since(start_ns), 700, 1300);
  close(fd);
}

static void a_reader_that_stops_is_cut_and_its_owner_told(void **state) {
  struct world *w = *state;
  int fd = dial(w), small = 4096;
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  say(fd, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
  w->flood = true;
  assert_true(wait_for(&w->gone, 1, 5000));
  assert_true(w->backlog > 0);
  close(fd);
}

static void headers_of_eight_thousand_bytes_pass_and_larger_ones_get_431(void **state) {
  char request[20000], answer[4096];
  int fd = dial(*state);
  int n = snprintf(request, sizeof request, "GET /h HTTP/1.1\r\nHost: x\r\nX-Big: ");
  memset(request + n, 'x', 8000);
  strcpy(request + n + 8000, "\r\n\r\n");
  say(fd, request);
  assert_int_equal(hear_until(fd, answer, sizeof answer, "GET /h"), 1);
  close(fd);
  fd = dial(*state);
  memset(request + n, 'x', 15000);
  strcpy(request + n + 15000, "\r\n\r\n");
  say(fd, request);
  hear_until(fd, answer, sizeof answer, NULL);
  assert_int_equal(status_of(answer), 431);
  close(fd);
}

static void stop_closes_the_port_and_idle_connections_and_lets_answers_finish(void **state) {
  struct world *w = *state;
  char answer[1024];
  int idle = dial(w), busy = dial(w);
  say(idle, "GET /i HTTP/1.1\r\nHost: x\r\n\r\n");
  assert_int_equal(hear_until(idle, answer, sizeof answer, "GET /i"), 1);
  say(busy, "POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi");
  assert_true(wait_for(&w->calls, 2, 1000));
  w->stop_accepting = true;
  assert_int_equal(hear_until(idle, answer, sizeof answer, NULL), 0);
  w->finish = true;
  assert_int_equal(hear_until(busy, answer, sizeof answer, NULL), 0);
  assert_non_null(strstr(answer, "late"));
  assert_non_null(strstr(answer, "Connection: close"));
  assert_int_equal(front_claim("127.0.0.1", front_port(w->front)), 0);
  close(idle);
  close(busy);
}

static void requests_under_way_at_a_stop_are_still_answered(void **state) {
  struct world *w = *state;
  char answer[1024];
  int fresh = dial(w), half = dial(w);
  say(half, "POST /h HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab");
  usleep(50000);
  assert_int_equal(w->open, 0);
  w->stop_accepting = true;
  assert_true(wait_for(&w->open, 2, 1000));
  say(half, "cd");
  assert_int_equal(hear_until(half, answer, sizeof answer, NULL), 0);
  assert_non_null(strstr(answer, "POST /h 4"));
  say(fresh, "GET /f HTTP/1.1\r\nHost: x\r\n\r\n");
  assert_int_equal(hear_until(fresh, answer, sizeof answer, NULL), 0);
  assert_non_null(strstr(answer, "GET /f"));
  assert_true(wait_for(&w->open, 0, 1000));
  close(fresh);
  close(half);
}

static void destroying_with_requests_in_flight_is_clean(void **state) {
  struct world *w = *state;
  int fds[10];
  for (int i = 0; i < 10; i++) {
    fds[i] = dial(w);
    say(fds[i], i % 2 ? "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n"
                      : "POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi");
  }
  assert_true(wait_for(&w->calls, 10, 1000));
  for (int i = 0; i < 10; i += 3)
    close(fds[i]);
}

static void a_busy_port_is_told_and_two_fronts_share_one_on_demand(void **state) {
  struct world *w = *state;
  struct front_settings settings = {.host = "127.0.0.1", .port = front_port(w->front), .max_connections = 4};
  char error[200];
  struct evloop *loop = evloop_create();
  assert_null(front_create(loop, &settings, handle, w, error, sizeof error));
  assert_non_null(strstr(error, "another program listens there"));
  assert_int_equal(front_claim("127.0.0.1", settings.port), -EADDRINUSE);
  settings.port = 0;
  settings.reuse_port = true;
  struct front *first = front_create(loop, &settings, handle, w, error, sizeof error);
  settings.port = front_port(first);
  struct front *second = front_create(loop, &settings, handle, w, error, sizeof error);
  assert_non_null(second);
  assert_int_equal(front_port(second), front_port(first));
  assert_int_equal(front_claim("127.0.0.1", settings.port), -EADDRINUSE);
  front_destroy(first);
  front_destroy(second);
  evloop_destroy(loop);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, start, stop)

int main(void) {
  const struct CMUnitTest tests[] = {
      CASE(answers_a_get_with_its_query_and_headers),
      CASE(head_has_no_body_and_unknown_methods_reach_the_handler),
      CASE(a_thousand_requests_share_one_connection),
      CASE(pipelined_requests_are_answered_in_order),
      CASE(a_late_answer_arrives_and_the_connection_lives_on),
      CASE(a_stream_arrives_chunk_by_chunk),
      CASE(an_aborted_stream_has_no_last_chunk),
      CASE(a_client_that_leaves_is_noticed_while_its_answer_is_awaited),
      CASE(a_fin_right_after_the_request_counts_as_leaving),
      CASE(ambiguous_framing_lets_no_hidden_request_run),
      CASE(a_whole_chunked_request_is_served_and_its_connection_closed),
      CASE(a_body_in_small_pieces_reaches_the_handler_once),
      CASE(a_body_past_the_limit_gets_a_413_that_can_be_read),
      CASE(an_absurd_length_gets_a_413_at_once),
      CASE(a_client_that_expects_continue_learns_of_the_413_before_it_sends),
      CASE(dripping_headers_and_bodies_are_cut_in_time),
      CASE(an_idle_connection_is_reaped),
      CASE(a_reader_that_stops_is_cut_and_its_owner_told),
      CASE(headers_of_eight_thousand_bytes_pass_and_larger_ones_get_431),
      CASE(stop_closes_the_port_and_idle_connections_and_lets_answers_finish),
      CASE(requests_under_way_at_a_stop_are_still_answered),
      CASE(destroying_with_requests_in_flight_is_clean),
      CASE(a_busy_port_is_told_and_two_fronts_share_one_on_demand),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
