/* Where a request ends, and how large it may be: nothing that two readers could understand differently, and
 * every refusal can be read. */

#include "front_world.h"

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

int main(void) {
  const struct CMUnitTest tests[] = {
      CASE(ambiguous_framing_lets_no_hidden_request_run),
      CASE(a_whole_chunked_request_is_served_and_its_connection_closed),
      CASE(a_body_in_small_pieces_reaches_the_handler_once),
      CASE(a_body_past_the_limit_gets_a_413_that_can_be_read),
      CASE(an_absurd_length_gets_a_413_at_once),
      CASE(a_client_that_expects_continue_learns_of_the_413_before_it_sends),
      CASE(headers_of_eight_thousand_bytes_pass_and_larger_ones_get_431),
  };
  return cmocka_run_group_tests_name("framing", tests, NULL, NULL);
}
