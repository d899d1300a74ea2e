#include "dialect/sse.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Events as "type=data|type=data|". */
struct log {
  char text[512];
  unsigned stop_after;
};

static bool note(void *ctx, const char *type, const char *data, size_t size) {
  struct log *log = ctx;
  strcat(log->text, type);
  strcat(log->text, "=");
  strncat(log->text, data, size);
  strcat(log->text, "|");
  return log->stop_after == 0 || --log->stop_after > 0;
}

/* Feeds the stream in pieces of n bytes, each in memory of its own, so that a sanitizer sees what outlives
 * it. */
static void feed(const char *stream, size_t piece, struct log *log) {
  struct sse p;
  sse_init(&p, 0);
  for (size_t at = 0, size = strlen(stream); at < size; at += piece) {
    size_t n = size - at < piece ? size - at : piece;
    char *bytes = malloc(n);
    memcpy(bytes, stream + at, n);
    assert_int_equal(sse_push(&p, bytes, n, note, log), 0);
    free(bytes);
  }
  sse_free(&p);
}

static void assert_events(const char *stream, const char *wanted) {
  for (size_t piece = 1; piece <= strlen(stream); piece++) {
    struct log log = {.text = ""};
    feed(stream, piece, &log);
    assert_string_equal(log.text, wanted);
  }
}

static void every_line_end_works_however_the_bytes_are_cut(void **state) {
  (void)state;
  const char *wanted = "message=Hel|message=lo|message=[DONE]|";
  assert_events("data: Hel\n\ndata: lo\n\ndata: [DONE]\n\n", wanted);
  assert_events("data: Hel\r\n\r\ndata: lo\r\n\r\ndata: [DONE]\r\n\r\n", wanted);
  assert_events("data: Hel\r\rdata: lo\r\rdata: [DONE]\r\r", wanted);
  assert_events("data: Hel\r\n\ndata: lo\n\r\ndata: [DONE]\n\r", wanted);
}

static void fields_have_all_their_forms(void **state) {
  (void)state;
  assert_events("data:x\n\n", "message=x|");
  assert_events("data:  x\n\n", "message= x|");
  assert_events("id: 7\nretry: 10\nfoo: bar\ndata: x\n\n", "message=x|");
  assert_events("event: ping\ndata: {}\n\ndata: y\n\n", "ping={}|message=y|");
  assert_events("data: {\"a\":\ndata: 1}\n\n", "message={\"a\":\n1}|");
  assert_events("data: a\ndata:\ndata: b\n\n", "message=a\n\nb|");
  assert_events("\xEF\xBB\xBF"
                "data: x\n\n",
                "message=x|");
  assert_events("data: a:b: c\n\n", "message=a:b: c|");
  assert_events("database: x\ndat: y\n\n", "");
}

static void comments_and_events_without_data_say_nothing(void **state) {
  (void)state;
  assert_events(": working\n\n: \n\nevent: keepalive\n\ndata: x\n\n", "message=x|");
  assert_events("data\n\ndata:\n\ndata: x\n\n", "message=x|");
  assert_events(":data: no\n\n\n\n\n", "");
}

static void an_event_leaves_with_its_blank_line_and_not_before(void **state) {
  (void)state;
  struct sse p;
  struct log log = {.text = ""};
  sse_init(&p, 0);
  assert_int_equal(sse_push(&p, "data: a\r\n", 9, note, &log), 0);
  assert_string_equal(log.text, "");
  assert_int_equal(sse_push(&p, "\r", 1, note, &log), 0);
  assert_string_equal(log.text, "message=a|");
  assert_int_equal(sse_push(&p, "\ndata: b\n", 9, note, &log), 0);
  assert_string_equal(log.text, "message=a|");
  sse_reset(&p);
  assert_int_equal(sse_push(&p, "\ndata: c\n\n", 10, note, &log), 0);
  assert_string_equal(log.text, "message=a|message=c|");
  sse_free(&p);
}

static void the_callback_can_stop_the_parser(void **state) {
  (void)state;
  struct sse p;
  struct log log = {.text = "", .stop_after = 1};
  sse_init(&p, 0);
  assert_int_equal(sse_push(&p, "data: a\n\ndata: b\n\n", 18, note, &log), 1);
  assert_string_equal(log.text, "message=a|");
  sse_free(&p);
}

static void size_is_bounded_whatever_grows(void **state) {
  (void)state;
  struct sse p;
  struct log log = {.text = ""};
  sse_init(&p, 16);
  assert_int_equal(sse_push(&p, "data: 0123456789abcdefX\n", 24, note, &log), -EMSGSIZE);
  sse_reset(&p);
  assert_int_equal(sse_push(&p, "no line end here either", 23, note, &log), -EMSGSIZE);
  sse_reset(&p);
  int error = 0;
  for (int i = 0; i < 8 && error == 0; i++)
    error = sse_push(&p, "data: 12345\n", 12, note, &log);
  assert_int_equal(error, -EMSGSIZE);
  sse_reset(&p);
  assert_int_equal(sse_push(&p, "data: 0123456789\n\n", 18, note, &log), 0);
  assert_string_equal(log.text, "message=0123456789|");
  sse_free(&p);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_line_end_works_however_the_bytes_are_cut),
      cmocka_unit_test(fields_have_all_their_forms),
      cmocka_unit_test(comments_and_events_without_data_say_nothing),
      cmocka_unit_test(an_event_leaves_with_its_blank_line_and_not_before),
      cmocka_unit_test(the_callback_can_stop_the_parser),
      cmocka_unit_test(size_is_bounded_whatever_grows),
  };
  return cmocka_run_group_tests_name("dialect/sse", tests, NULL, NULL);
}
