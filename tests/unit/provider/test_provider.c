#include "rig.h"
#include "stub.h"

#include <dirent.h>
#include <math.h>

#define ANSWER                                                                                               \
  "{\"id\":\"theirs\",\"choices\":[{\"message\":{\"content\":\"Hi\"}}],\"usage\":{\"prompt_tokens\":7,"      \
  "\"completion_tokens\":2,\"prompt_tokens_details\":{\"cached_tokens\":3}}}"
#define OURS                                                                                                 \
  "{\"id\":\"chatcmpl-00000000000000ff\",\"choices\":[{\"message\":{\"content\":\"Hi\"}}],\"usage\":{"       \
  "\"prompt_tokens\":7,\"completion_tokens\":2,\"prompt_tokens_details\":{\"cached_tokens\":3}}}"
#define KEY "sk-canary-0123456789"

static struct stub *stub;
static struct rig *rig;
static struct call call;

static struct provider_settings settings_for(unsigned short port) {
  struct provider_settings s = {.name = "p", .model = "real-model", .kind = PROVIDER_OPENAI, .api_key = KEY};
  snprintf(s.base_url, sizeof s.base_url, "http://127.0.0.1:%u", port);
  return s;
}

static void open_stub(stub_script *script) {
  stub = stub_create(script);
  struct provider_settings s = settings_for(stub->port);
  rig = rig_create(&s);
}

static int close_stub(void **state) {
  (void)state;
  call_free(&call);
  if (rig) rig_destroy(rig);
  if (stub) stub_destroy(stub);
  rig = NULL;
  stub = NULL;
  return 0;
}

/* ---- whole answers ---- */

static bool answers(struct stub *s, int fd, int connection, int request) {
  (void)s;
  (void)connection;
  (void)request;
  stub_answer(fd,
              "200 OK\r\nContent-Type: application/json\r\nx-ratelimit-remaining-requests: 0\r\n"
              "x-ratelimit-reset-requests: 2s",
              ANSWER);
  return true;
}

/* 60 a minute, all of them used: the limit is whole again in a minute, and allows one more in a second. */
static bool exhausts(struct stub *s, int fd, int connection, int request) {
  (void)s;
  (void)connection;
  (void)request;
  stub_answer(fd,
              "200 OK\r\nContent-Type: application/json\r\nx-ratelimit-limit-requests: 60\r\n"
              "x-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: 1m0s",
              ANSWER);
  return true;
}

static void a_limit_that_is_used_up_allows_one_more_before_it_is_whole(void **state) {
  (void)state;
  open_stub(exhausts);
  call_run(&call, rig, false);
  assert_int_equal(call.result.error, UPSTREAM_OK);
  assert_true(call.result.requests_left == 0);
  assert_int_equal(call.result.requests_reset_ns, NS_PER_S);
}

static void an_answer_comes_back_with_our_id_and_its_usage(void **state) {
  (void)state;
  open_stub(answers);
  call_run(&call, rig, false);
  assert_int_equal(call.result.error, UPSTREAM_OK);
  assert_int_equal(call.result.status, 200);
  assert_int_equal(call.result.body_size, strlen(OURS));
  assert_memory_equal(call.result.body, OURS, strlen(OURS));
  assert_true(call.result.usage_known);
  assert_int_equal(call.result.tokens_in, 7);
  assert_int_equal(call.result.tokens_cached, 3);
  assert_int_equal(call.result.tokens_out, 2);
  assert_true(isnan(call.result.cost_usd));
  assert_true(call.result.requests_left == 0);
  assert_int_equal(call.result.requests_reset_ns, 2 * NS_PER_S);
  assert_int_equal(call.result.retry_after_ns, -1);
  assert_int_equal(call.event_count, 0);
}

static void the_provider_sees_its_model_its_key_and_nothing_of_the_client(void **state) {
  (void)state;
  open_stub(answers);
  call_run(&call, rig, false);
  assert_memory_equal(stub->last, "POST /v1/chat/completions HTTP/1.1\r\n", 36);
  assert_non_null(strstr(stub->last, "\r\nAuthorization: Bearer " KEY "\r\n"));
  assert_non_null(strstr(stub->last, "\r\nContent-Type: application/json\r\n"));
  assert_non_null(strstr(stub->last, "\r\nAccept-Encoding: identity\r\n"));
  assert_null(strstr(stub->last, "Expect"));
  assert_null(strstr(stub->last, "Transfer-Encoding"));
  assert_non_null(strstr(stub->last, "\r\n\r\n{\"model\":\"real-model\",\"messages\":"));
}

static void connections_are_used_again(void **state) {
  (void)state;
  open_stub(answers);
  for (int i = 0; i < 50; i++) {
    call_run(&call, rig, false);
    assert_int_equal(call.result.error, UPSTREAM_OK);
    call_free(&call);
  }
  assert_int_equal(stub->connections, 1);
  assert_int_equal(stub->requests, 50);
}

static void many_calls_at_once_each_get_their_own_answer(void **state) {
  (void)state;
  open_stub(answers);
  struct call *calls = calloc(64, sizeof *calls);
  for (int round = 0; round < 3; round++) {
    for (int i = 0; i < 64; i++) {
      call_init(&calls[i], rig, BODY, false);
      snprintf(calls[i].request.id_text, REQUEST_ID_SIZE, "chatcmpl-%016x", i);
      assert_int_equal(call_start(&calls[i]), 0);
    }
    for (int i = 0; i < 64; i++) {
      assert_true(call_wait(&calls[i], 5000));
      assert_int_equal(calls[i].result.error, UPSTREAM_OK);
      assert_memory_equal(calls[i].result.body + 7, calls[i].request.id_text, 25);
      call_free(&calls[i]);
    }
  }
  assert_true(stub->connections <= 64);
  free(calls);
}

static bool bad_bytes(struct stub *s, int fd, int connection, int request) {
  (void)s;
  (void)connection;
  (void)request;
  stub_answer(fd, "200 OK", "{\"id\":1,\"choices\":[{\"message\":{\"content\":\"a\xC0\x80z\"}}]}");
  return true;
}

static void bad_bytes_in_an_answer_are_replaced(void **state) {
  (void)state;
  open_stub(bad_bytes);
  call_run(&call, rig, false);
  assert_int_equal(call.result.error, UPSTREAM_OK);
  assert_non_null(memmem(call.result.body, call.result.body_size, "\"a\xEF\xBF\xBD\xEF\xBF\xBDz\"", 10));
}

/* ---- statuses: what is asked for by the number of the request ---- */

static const char *const status_heads[] = {"429 Too Many Requests\r\nRetry-After: 2",
                                           "429 Too Many Requests\r\nRetry-After: 9\r\nretry-after-ms: 250",
                                           "503 Service Unavailable",
                                           "529 Overloaded",
                                           "401 Unauthorized",
                                           "400 Bad Request",
                                           "307 Temporary Redirect\r\nLocation: http://127.0.0.1:9/",
                                           "500 Internal Server Error",
                                           "200 OK",
                                           "200 OK",
                                           "200 OK"};
static const char *const status_bodies[] = {"{\"error\":{\"message\":\"slow down\"}}",
                                            "{}",
                                            "{\"error\":{\"code\":\"context_length_exceeded\"}}",
                                            "{\"a\":\"\xC3(\"}",
                                            "{\"error\":\"bad key " KEY "\"}",
                                            "{\"error\":\"echo " KEY "\"}",
                                            "{}",
                                            "<html>oops</html>",
                                            "",
                                            "{\"error\":{\"message\":\"no\"}}",
                                            "<html>"};

static bool statuses(struct stub *s, int fd, int connection, int request) {
  (void)s;
  (void)connection;
  stub_answer(fd, status_heads[request], status_bodies[request]);
  return true;
}

static void statuses_are_told_with_their_words_but_never_our_key(void **state) {
  (void)state;
  static const struct {
    enum upstream_error error;
    int status;
    int64_t retry_after_ns;
    const char *body;
  } wanted[] = {{UPSTREAM_STATUS, 429, 2 * NS_PER_S, "{\"error\":{\"message\":\"slow down\"}}"},
                {UPSTREAM_STATUS, 429, 250 * NS_PER_MS, "{}"},
                {UPSTREAM_STATUS, 503, -1, "{\"error\":{\"code\":\"context_length_exceeded\"}}"},
                {UPSTREAM_STATUS, 529, -1, "{\"a\":\"\xEF\xBF\xBD(\"}"},
                {UPSTREAM_STATUS, 401, -1, NULL},
                {UPSTREAM_STATUS, 400, -1, NULL},
                {UPSTREAM_INVALID, 307, -1, NULL},
                {UPSTREAM_STATUS, 500, -1, NULL},
                {UPSTREAM_INVALID, 200, -1, NULL},
                {UPSTREAM_INVALID, 200, -1, NULL},
                {UPSTREAM_INVALID, 200, -1, NULL}};
  open_stub(statuses);
  for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
    call_run(&call, rig, i % 2 == 1 && i < 8);
    assert_int_equal(call.result.error, wanted[i].error);
    assert_int_equal(call.result.status, wanted[i].status);
    assert_int_equal(call.result.retry_after_ns, wanted[i].retry_after_ns);
    assert_int_equal(call.event_count, 0);
    assert_null(strstr(call.detail, KEY));
    if (wanted[i].body)
      assert_memory_equal(call.result.body, wanted[i].body, strlen(wanted[i].body));
    else
      assert_null(call.result.body);
    call_free(&call);
  }
}

/* ---- encodings and sizes ---- */

static uint32_t crc_of(const unsigned char *bytes, size_t size) {
  uint32_t crc = ~0u;
  for (size_t i = 0; i < size; i++) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; bit++)
      crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
  }
  return ~crc;
}

/* gzip (RFC 1952) around one stored block (RFC 1951, section 3.2.4). */
static size_t gzip_stored(const char *text, unsigned char *out) {
  static const unsigned char head[] = {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1};
  size_t n = strlen(text), at = sizeof head;
  memcpy(out, head, sizeof head);
  uint32_t tail[] = {crc_of((const unsigned char *)text, n), (uint32_t)n};
  uint16_t lengths[] = {(uint16_t)n, (uint16_t)~n};
  memcpy(out + at, lengths, 4);
  memcpy(out + at + 4, text, n);
  memcpy(out + at + 4 + n, tail, 8);
  return at + 4 + n + 8;
}

static bool compressed(struct stub *s, int fd, int connection, int request) {
  (void)s;
  (void)connection;
  unsigned char zipped[4096];
  char head[256];
  size_t n = gzip_stored(request == 1 ? "{\"error\":{\"message\":\"zipped\"}}" : ANSWER, zipped);
  snprintf(head, sizeof head, "HTTP/1.1 %s\r\nContent-Encoding: %s\r\nContent-Length: %zu\r\n\r\n",
           request == 1 ? "429 Slow\r\nRetry-After: 1" : "200 OK", request == 2 ? "zstd" : "gzip", n);
  stub_text(fd, head);
  stub_send(fd, (char *)zipped, n);
  return request != 2;
}

static void gzip_that_nobody_asked_for_is_undone_and_the_unknown_refused(void **state) {
  (void)state;
  open_stub(compressed);
  call_run(&call, rig, false);
  assert_int_equal(call.result.error, UPSTREAM_OK);
  assert_memory_equal(call.result.body, OURS, strlen(OURS));
  call_free(&call);
  call_run(&call, rig, false);
  assert_int_equal(call.result.status, 429);
  assert_int_equal(call.result.retry_after_ns, NS_PER_S);
  assert_memory_equal(call.result.body, "{\"error\":{\"message\":\"zipped\"}}", 30);
  call_free(&call);
  call_run(&call, rig, false);
  assert_int_equal(call.result.error, UPSTREAM_INVALID);
  assert_null(call.result.body);
}

static bool floods(struct stub *s, int fd, int connection, int request) {
  (void)s;
  (void)connection;
  (void)request;
  static const char piece[4096] = "data: {\"id\":1,\"choices\":[{\"delta\":{}}]}\n\n";
  stub_text(fd, "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
  for (int i = 0; i < 100; i++)
    stub_send(fd, piece, sizeof piece);
  return false;
}

static void an_answer_past_the_limit_is_stopped(void **state) {
  (void)state;
  stub = stub_create(floods);
  struct provider_settings s = settings_for(stub->port);
  s.answer_limit = 100000;
  rig = rig_create(&s);
  call_run(&call, rig, false);
  assert_int_equal(call.result.error, UPSTREAM_TOO_LARGE);
  call_run(&call, rig, true);
  assert_int_equal(call.result.error, UPSTREAM_TOO_LARGE);
}

/* ---- streams ---- */

#define DELTA(text) "{\"id\":\"t\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" text "\"}}]}"
#define STOP "{\"id\":\"t\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}"
#define USAGE "{\"id\":\"t\",\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5}}"
#define OUR(rest) "data: {\"id\":\"chatcmpl-00000000000000ff\",\"choices\":[" rest "}\n\n"
#define OUR_DELTA(text) OUR("{\"index\":0,\"delta\":{\"content\":\"" text "\"}}]")
#define OUR_STOP OUR("{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]")
#define OUR_USAGE OUR("],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5}")
#define DONE "data: [DONE]\n\n"

enum { CHUNKED_END = 1, KEEP_OPEN = 2, RESET = 4, BAD_TENTH = 8 };

static const char *const *stream_events; /* what the script sends, NULL ends */
static int stream_flags;

static void send_chunk(int fd, const char *data) {
  char text[1024];
  snprintf(text, sizeof text, "%zx\r\ndata: %s\n\n\r\n", strlen(data) + 8, data);
  stub_text(fd, text);
}

static bool streams(struct stub *s, int fd, int connection, int request) {
  (void)s;
  (void)connection;
  (void)request;
  stub_text(fd, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (int i = 0; stream_events[i]; i++)
    send_chunk(fd, stream_events[i]);
  if (stream_flags & CHUNKED_END) stub_text(fd, "0\r\n\r\n");
  if (stream_flags & KEEP_OPEN) stub_wait_closed(fd, 5000);
  if (stream_flags & RESET) {
    usleep(50000);
    stub_reset(fd);
  }
  return stream_flags == CHUNKED_END;
}

static void open_stream(const char *const *events, int flags) {
  stream_events = events;
  stream_flags = flags;
  open_stub(streams);
}

static void assert_events(const char *wanted) {
  call.events[call.events_size] = '\0';
  assert_string_equal(call.events, wanted);
}

static void a_stream_arrives_with_our_id_without_usage_and_with_one_end(void **state) {
  (void)state;
  static const char *const events[] = {DELTA("Hel"), DELTA("lo"), STOP, USAGE, "[DONE]", NULL};
  open_stream(events, CHUNKED_END);
  for (int i = 0; i < 3; i++) {
    call_run(&call, rig, true);
    assert_events(OUR_DELTA("Hel") OUR_DELTA("lo") OUR_STOP DONE);
    assert_int_equal(call.result.error, UPSTREAM_OK);
    assert_true(call.result.usage_known);
    assert_int_equal(call.result.tokens_in, 10);
    assert_int_equal(call.result.tokens_out, 5);
    assert_int_equal(call.request.attempt.tokens, 2);
    assert_null(call.result.body);
    rig_turn(rig, 20);
  }
  assert_int_equal(stub->connections, 1);
  assert_non_null(strstr(stub->last, "\"stream_options\":{\"include_usage\":true}"));
}

static void a_client_that_asked_gets_the_usage_once(void **state) {
  (void)state;
  static const char *const events[] = {DELTA("a"), STOP, USAGE, "[DONE]", NULL};
  open_stream(events, CHUNKED_END);
  call_init(&call, rig, BODY, true);
  call.request.spec.include_usage = true;
  assert_int_equal(call_start(&call), 0);
  assert_true(call_wait(&call, 5000));
  assert_events(OUR_DELTA("a") OUR_STOP OUR_USAGE DONE);
  assert_null(strstr(stub->last, "stream_options"));
}

static void a_finished_stream_without_done_gets_one(void **state) {
  (void)state;
  static const char *const events[] = {DELTA("a"), STOP, USAGE, NULL};
  open_stream(events, CHUNKED_END);
  call_run(&call, rig, true);
  assert_events(OUR_DELTA("a") OUR_STOP DONE);
  assert_int_equal(call.result.error, UPSTREAM_OK);
  assert_int_equal(call.result.tokens_out, 5);
}

static void a_finished_stream_that_stays_open_ends_within_two_seconds(void **state) {
  (void)state;
  static const char *const events[] = {DELTA("a"), STOP, NULL};
  open_stream(events, KEEP_OPEN);
  call_run(&call, rig, true);
  assert_events(OUR_DELTA("a") OUR_STOP DONE);
  assert_int_equal(call.result.error, UPSTREAM_OK);
  assert_in_range(call.ended_ns - call.first_ns, NS_PER_S, 2 * NS_PER_S);
}

static void the_end_is_told_at_done_though_the_socket_stays_open(void **state) {
  (void)state;
  static const char *const events[] = {DELTA("a"), STOP, "[DONE]", NULL};
  open_stream(events, KEEP_OPEN);
  call_run(&call, rig, true);
  assert_events(OUR_DELTA("a") OUR_STOP DONE);
  assert_true(call.ended_ns - call.first_ns < NS_PER_S / 2);
  rig_turn(rig, 1200);
  assert_int_equal(call.ends, 1);
}

static void a_stream_without_an_end_was_cut(void **state) {
  (void)state;
  static const char *const events[] = {DELTA("a"), DELTA("b"), NULL};
  open_stream(events, CHUNKED_END);
  call_run(&call, rig, true);
  assert_int_equal(call.result.error, UPSTREAM_CUT);
  assert_events(OUR_DELTA("a") OUR_DELTA("b"));
  close_stub(NULL);
  open_stream(events, 0);
  call_run(&call, rig, true);
  assert_int_equal(call.result.error, UPSTREAM_CUT);
  close_stub(NULL);
  open_stream(events, RESET);
  call_run(&call, rig, true);
  assert_int_equal(call.result.error, UPSTREAM_CUT);
  assert_events(OUR_DELTA("a") OUR_DELTA("b"));
}

static void a_malformed_event_is_skipped_and_counted(void **state) {
  (void)state;
  static const char *const events[] = {DELTA("a"), "{\"id\":\"t\",\"choi", DELTA("b"), STOP, "[DONE]", NULL};
  open_stream(events, CHUNKED_END);
  call_run(&call, rig, true);
  assert_int_equal(call.result.error, UPSTREAM_OK);
  assert_events(OUR_DELTA("a") OUR_DELTA("b") OUR_STOP DONE);
  assert_int_equal(call.request.attempt.malformed, 1);
}

static void a_stream_of_nothing_but_its_end_is_invalid(void **state) {
  (void)state;
  static const char *const nothing[] = {"[DONE]", NULL};
  static const char *const rubbish[] = {"hello", "{\"id\":\"t\",\"choi", "[DONE]", NULL};
  const char *const *const all[] = {nothing, rubbish};
  for (int i = 0; i < 2; i++) {
    open_stream(all[i], CHUNKED_END);
    call_run(&call, rig, true);
    assert_int_equal(call.result.error, UPSTREAM_INVALID);
    assert_events("");
    close_stub(NULL);
  }
}

/* The second choice begins when the first is over, and later than a missing [DONE] is waited for. */
static void choices_that_come_one_after_the_other_are_waited_for(void **state) {
  (void)state;
  static const char *const first[] = {
      "{\"id\":\"t\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}",
      NULL};
  open_stream(first, KEEP_OPEN);
  call_init(&call, rig, BODY, true);
  call.request.spec.choices = 2;
  assert_int_equal(call_start(&call), 0);
  assert_false(call_wait(&call, 2500));
  call_cancel(&call);
  close_stub(NULL);
  static const char *const both[] = {
      "{\"id\":\"t\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}",
      "{\"id\":\"t\",\"choices\":[{\"index\":1,\"delta\":{\"content\":\"b\"},\"finish_reason\":\"stop\"}]}",
      NULL};
  open_stream(both, KEEP_OPEN);
  call_init(&call, rig, BODY, true);
  call.request.spec.choices = 2;
  assert_int_equal(call_start(&call), 0);
  assert_true(call_wait(&call, 2500));
  assert_int_equal(call.result.error, UPSTREAM_OK);
}

static void a_stream_of_nothing_sensible_is_invalid(void **state) {
  (void)state;
  static const char *const rubbish[] = {"hello", "world", NULL};
  open_stream(rubbish, CHUNKED_END);
  call_run(&call, rig, true);
  assert_int_equal(call.result.error, UPSTREAM_INVALID);
  assert_int_equal(call.event_count, 0);
  close_stub(NULL);
  static const char *const more[20] = {DELTA("a"), "1", "2", "3", "4",  "5",  "6",  "7",  "8", "9",
                                       "10",       "1", "2", "3", "14", "15", "16", "17", STOP};
  open_stream(more, KEEP_OPEN);
  call_run(&call, rig, true);
  assert_int_equal(call.result.error, UPSTREAM_INVALID);
}

static void an_error_inside_a_stream_fails_it(void **state) {
  (void)state;
  static const char *const events[] = {DELTA("a"), "{\"error\":{\"message\":\"overloaded\"}}", NULL};
  open_stream(events, CHUNKED_END);
  call_run(&call, rig, true);
  assert_int_equal(call.result.error, UPSTREAM_INVALID);
  assert_events(OUR_DELTA("a"));
}

static bool drips(struct stub *s, int fd, int connection, int request) {
  (void)s;
  (void)connection;
  (void)request;
  static const char text[] =
      "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n: hi\r\n\r\ndata:" DELTA("a") "\r\n\r\ndata:" STOP
                                                                                 "\r\rdata:[DONE]\n\n";
  for (size_t i = 0; i < sizeof text - 1; i++)
    stub_send(fd, text + i, 1);
  return false;
}

static void a_stream_may_come_byte_by_byte(void **state) {
  (void)state;
  open_stub(drips);
  call_run(&call, rig, true);
  assert_int_equal(call.result.error, UPSTREAM_OK);
  assert_events(OUR_DELTA("a") OUR_STOP DONE);
}

/* ---- connections that go wrong ---- */

static bool hangs_up_when_idle(struct stub *s, int fd, int connection, int request) {
  answers(s, fd, connection, request);
  return false;
}

static void a_connection_that_was_closed_while_idle_costs_nothing(void **state) {
  (void)state;
  open_stub(hangs_up_when_idle);
  for (int i = 0; i < 10; i++) {
    call_run(&call, rig, false);
    assert_int_equal(call.result.error, UPSTREAM_OK);
    call_free(&call);
    rig_turn(rig, i % 2 ? 10 : 0);
  }
  assert_int_equal(stub->requests, 10);
}

/* Answers the first request of each connection and resets at the second. */
static bool resets_at_the_second(struct stub *s, int fd, int connection, int request) {
  if (request == 0) return answers(s, fd, connection, request);
  stub_reset(fd);
  return false;
}

static void a_reset_on_a_kept_connection_is_tried_once_more_on_a_new_one(void **state) {
  (void)state;
  open_stub(resets_at_the_second);
  struct call *calls = calloc(4, sizeof *calls);
  for (int i = 0; i < 4; i++) { /* four kept connections, all of which will fail */
    call_init(&calls[i], rig, BODY, false);
    assert_int_equal(call_start(&calls[i]), 0);
  }
  for (int i = 0; i < 4; i++) {
    assert_true(call_wait(&calls[i], 5000));
    call_free(&calls[i]);
  }
  int kept = stub->connections, before = stub->requests;
  assert_int_equal(kept, 4);
  call_run(&call, rig, false);
  assert_int_equal(call.result.error, UPSTREAM_OK);
  assert_int_equal(stub->requests, before + 2);
  assert_int_equal(stub->connections, kept + 1);
  free(calls);
}

static bool resets_always(struct stub *s, int fd, int connection, int request) {
  if (connection == 0 && request == 0) return answers(s, fd, connection, request);
  stub_reset(fd);
  return false;
}

static void there_is_only_one_free_try(void **state) {
  (void)state;
  open_stub(resets_always);
  call_run(&call, rig, false);
  assert_int_equal(call.result.error, UPSTREAM_OK);
  call_free(&call);
  call_run(&call, rig, false);
  assert_int_equal(call.result.error, UPSTREAM_RESET);
  assert_int_equal(stub->requests, 3);
  call_run(&call, rig, false);
  assert_int_equal(call.result.error, UPSTREAM_RESET);
  assert_int_equal(stub->requests, 4);
}

static bool breaks_in_the_headers(struct stub *s, int fd, int connection, int request) {
  if (request == 0) return answers(s, fd, connection, request);
  stub_text(fd, "HTTP/1.1 200 OK\r\nContent-Le");
  usleep(50000);
  stub_reset(fd);
  return false;
}

static void half_a_head_is_a_failure_and_not_tried_again(void **state) {
  (void)state;
  open_stub(breaks_in_the_headers);
  call_run(&call, rig, false);
  call_free(&call);
  call_run(&call, rig, false);
  assert_int_equal(call.result.error, UPSTREAM_CUT);
  assert_int_equal(stub->requests, 2);
}

static bool short_body(struct stub *s, int fd, int connection, int request) {
  (void)s;
  (void)connection;
  (void)request;
  stub_text(fd, "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"id\":");
  return false;
}

static void a_body_that_ends_early_was_cut(void **state) {
  (void)state;
  open_stub(short_body);
  call_run(&call, rig, false);
  assert_int_equal(call.result.error, UPSTREAM_CUT);
  assert_null(call.result.body);
}

static bool closes_politely(struct stub *s, int fd, int connection, int request) {
  (void)s;
  (void)connection;
  (void)request;
  stub_answer(fd, "200 OK\r\nConnection: close", ANSWER);
  return false;
}

static void connection_close_is_honoured(void **state) {
  (void)state;
  open_stub(closes_politely);
  for (int i = 0; i < 3; i++) {
    call_run(&call, rig, false);
    assert_int_equal(call.result.error, UPSTREAM_OK);
    call_free(&call);
  }
  assert_int_equal(stub->connections, 3);
}

static void a_closed_port_is_a_failure_to_connect(void **state) {
  (void)state;
  stub = stub_create(answers);
  struct provider_settings s = settings_for(stub->port);
  stub_destroy(stub);
  stub = NULL;
  rig = rig_create(&s);
  call_run(&call, rig, false);
  assert_int_equal(call.result.error, UPSTREAM_CONNECT);
  assert_int_equal(call.result.status, 0);
}

/* The kernel accepts for it, and nobody answers the handshake. */
static void a_host_that_does_not_shake_hands_is_given_up_within_five_seconds(void **state) {
  (void)state;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  assert_int_equal(bind(fd, (struct sockaddr *)&address, size), 0);
  assert_int_equal(listen(fd, 4), 0);
  assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
  struct provider_settings s = settings_for(ntohs(address.sin_port));
  snprintf(s.base_url, sizeof s.base_url, "https://127.0.0.1:%u/v1", ntohs(address.sin_port));
  rig = rig_create(&s);
  call_init(&call, rig, BODY, false);
  assert_int_equal(call_start(&call), 0);
  assert_true(call_wait(&call, 8000));
  assert_int_equal(call.result.error, UPSTREAM_CONNECT);
  close(fd);
}

/* ---- cancelling ---- */

static bool is_silent(struct stub *s, int fd, int connection, int request) {
  (void)connection;
  (void)request;
  if (stub_wait_closed(fd, 3000)) atomic_fetch_add(&s->closed_by_peer, 1);
  return false;
}

static void cancel_closes_the_providers_connection(void **state) {
  (void)state;
  open_stub(is_silent);
  call_init(&call, rig, BODY, false);
  assert_int_equal(call_start(&call), 0);
  rig_turn(rig, 100);
  assert_int_equal(stub->requests, 1);
  call_cancel(&call);
  for (int i = 0; i < 50 && !stub->closed_by_peer; i++)
    rig_turn(rig, 10);
  assert_int_equal(stub->closed_by_peer, 1);
  assert_int_equal(call.ends, 0);
}

static void cancel_before_anything_was_sent_sends_nothing(void **state) {
  (void)state;
  open_stub(is_silent);
  call_init(&call, rig, BODY, false);
  assert_int_equal(call_start(&call), 0);
  call_cancel(&call);
  rig_turn(rig, 100);
  assert_int_equal(stub->requests, 0);
  assert_int_equal(call.ends, 0);
}

static void cancel_inside_an_event_is_the_last_that_happens(void **state) {
  (void)state;
  static const char *const events[] = {DELTA("a"), DELTA("b"), DELTA("c"), STOP, "[DONE]", NULL};
  open_stream(events, CHUNKED_END);
  for (unsigned at = 1; at <= 5; at++) {
    call_init(&call, rig, BODY, true);
    call.cancel_at = at;
    assert_int_equal(call_start(&call), 0);
    rig_turn(rig, 60);
    assert_int_equal(call.event_count, at);
    assert_int_equal(call.ends, 0);
  }
}

static unsigned open_descriptors(void) {
  unsigned n = 0;
  DIR *directory = opendir("/proc/self/fd");
  while (readdir(directory))
    n++;
  closedir(directory);
  return n;
}

static void nothing_stays_open(void **state) {
  unsigned before = open_descriptors();
  for (int i = 0; i < 3; i++) {
    cancel_closes_the_providers_connection(state);
    close_stub(state);
    a_stream_arrives_with_our_id_without_usage_and_with_one_end(state);
    close_stub(state);
  }
  assert_int_equal(open_descriptors(), before);
}

int main(void) {
#define TEST(name) cmocka_unit_test_teardown(name, close_stub)
  const struct CMUnitTest tests[] = {
      TEST(a_limit_that_is_used_up_allows_one_more_before_it_is_whole),
      TEST(an_answer_comes_back_with_our_id_and_its_usage),
      TEST(the_provider_sees_its_model_its_key_and_nothing_of_the_client),
      TEST(connections_are_used_again),
      TEST(many_calls_at_once_each_get_their_own_answer),
      TEST(bad_bytes_in_an_answer_are_replaced),
      TEST(statuses_are_told_with_their_words_but_never_our_key),
      TEST(gzip_that_nobody_asked_for_is_undone_and_the_unknown_refused),
      TEST(an_answer_past_the_limit_is_stopped),
      TEST(a_stream_arrives_with_our_id_without_usage_and_with_one_end),
      TEST(a_client_that_asked_gets_the_usage_once),
      TEST(a_finished_stream_without_done_gets_one),
      TEST(a_finished_stream_that_stays_open_ends_within_two_seconds),
      TEST(the_end_is_told_at_done_though_the_socket_stays_open),
      TEST(a_stream_without_an_end_was_cut),
      TEST(a_malformed_event_is_skipped_and_counted),
      TEST(a_stream_of_nothing_but_its_end_is_invalid),
      TEST(choices_that_come_one_after_the_other_are_waited_for),
      TEST(a_stream_of_nothing_sensible_is_invalid),
      TEST(an_error_inside_a_stream_fails_it),
      TEST(a_stream_may_come_byte_by_byte),
      TEST(a_connection_that_was_closed_while_idle_costs_nothing),
      TEST(a_reset_on_a_kept_connection_is_tried_once_more_on_a_new_one),
      TEST(there_is_only_one_free_try),
      TEST(half_a_head_is_a_failure_and_not_tried_again),
      TEST(a_body_that_ends_early_was_cut),
      TEST(connection_close_is_honoured),
      TEST(a_closed_port_is_a_failure_to_connect),
      TEST(a_host_that_does_not_shake_hands_is_given_up_within_five_seconds),
      TEST(cancel_closes_the_providers_connection),
      TEST(cancel_before_anything_was_sent_sends_nothing),
      TEST(cancel_inside_an_event_is_the_last_that_happens),
      TEST(nothing_stays_open),
  };
  return cmocka_run_group_tests_name("provider/openai", tests, NULL, NULL);
}
