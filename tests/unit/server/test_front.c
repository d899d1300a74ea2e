/* The front against raw sockets: answers, streams, clients that leave, time, and stopping. */

#include "front_world.h"

#include <poll.h>

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
  assert_true(wait_for(&w->open, 0, 1000));
  assert_int_equal(front_claim("127.0.0.1", front_port(w->front)), 0);
  close(idle);
  close(busy);
}

/* Connects anew for each request, until nobody answers the knock. */
struct caller {
  struct world *w;
  pthread_t thread;
  int turned_away;
};

static int knock(const struct world *w) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(front_port(w->front))};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), error = 0;
  socklen_t size = sizeof error;
  struct pollfd opening = {.fd = fd, .events = POLLOUT};
  connect(fd, (struct sockaddr *)&address, sizeof address);
  bool open = poll(&opening, 1, 150) > 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0;
  if (open && error == 0) return fd;
  close(fd);
  return -1;
}

static void *call_on(void *arg) {
  struct caller *caller = arg;
  for (int fd; (fd = knock(caller->w)) >= 0; close(fd)) {
    const char *text = "GET /k HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    char answer[256];
    struct pollfd coming = {.fd = fd, .events = POLLIN};
    bool sent = send(fd, text, strlen(text), MSG_NOSIGNAL) > 0;
    caller->turned_away += !sent || poll(&coming, 1, 5000) <= 0 || recv(fd, answer, sizeof answer, 0) <= 0;
  }
  return NULL;
}

static void who_gets_through_at_a_stop_is_answered(void **state) {
  enum { ROUNDS = 40, CALLERS = 4 };
  for (int round = 0; round < ROUNDS; round++) {
    struct world *w;
    struct caller callers[CALLERS] = {0};
    assert_int_equal(start((void **)&w), 0);
    for (int i = 0; i < CALLERS; i++) {
      callers[i].w = w;
      pthread_create(&callers[i].thread, NULL, call_on, &callers[i]);
    }
    for (int ms = 0; w->calls < 40 + round && ms < 5000; ms++)
      usleep(1000);
    w->stop_accepting = true;
    for (int i = 0; i < CALLERS; i++) {
      pthread_join(callers[i].thread, NULL);
      assert_int_equal(callers[i].turned_away, 0);
    }
    stop((void **)&w);
  }
  (void)state;
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

static void a_place_that_is_freed_is_taken_by_who_waits_for_it(void **state) {
  struct world *w = *state;
  char answer[1024];
  int fds[PLACES], waiting;
  for (int i = 0; i < PLACES; i++) {
    fds[i] = dial(w);
    say(fds[i], "GET /a HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_int_equal(hear_until(fds[i], answer, sizeof answer, "GET /a"), 1);
  }
  waiting = dial(w);
  say(waiting, "GET /b HTTP/1.1\r\nHost: x\r\n\r\n");
  int64_t start_ns = clock_now_ns();
  close(fds[0]);
  assert_int_equal(hear_until(waiting, answer, sizeof answer, "GET /b"), 1);
  assert_in_range(ms_since(start_ns), 0, 300); /* before any other leaves: idle ones do after 800 ms */
  close(waiting);
  for (int i = 1; i < PLACES; i++)
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
      CASE(dripping_headers_and_bodies_are_cut_in_time),
      CASE(an_idle_connection_is_reaped),
      CASE(a_reader_that_stops_is_cut_and_its_owner_told),
      CASE(stop_closes_the_port_and_idle_connections_and_lets_answers_finish),
      cmocka_unit_test(who_gets_through_at_a_stop_is_answered),
      CASE(requests_under_way_at_a_stop_are_still_answered),
      CASE(destroying_with_requests_in_flight_is_clean),
      CASE(a_place_that_is_freed_is_taken_by_who_waits_for_it),
      CASE(a_busy_port_is_told_and_two_fronts_share_one_on_demand),
  };
  return cmocka_run_group_tests_name("front", tests, NULL, NULL);
}
