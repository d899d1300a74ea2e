#include "dialect/buffer.h"
#include "dialect/openai_stream.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct openai_stream stream;
static struct openai_chunk chunk;
static char event[4096];

static void push_as(const char *data, bool strip_usage) {
  struct buffer out = {0};
  assert_int_equal(openai_stream_chunk(&stream, data, strlen(data), "our", strip_usage, &chunk, &out), 0);
  snprintf(event, sizeof event, "%.*s", (int)out.size, out.size ? out.bytes : "");
  buffer_free(&out);
}

static void push(const char *data) {
  push_as(data, true);
}

static int begin(void **state) {
  (void)state;
  openai_stream_init(&stream);
  return 0;
}

static void a_chunk_gets_our_id_and_keeps_its_bytes(void **state) {
  (void)state;
  push(
      "{ \"id\" : "
      "\"x\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hel\"},\"finish_reason\":null}],\"z\":1E-7}");
  assert_string_equal(event,
                      "data: { \"id\" : \"our\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hel\"},"
                      "\"finish_reason\":null}],\"z\":1E-7}\n\n");
  assert_int_equal(chunk.kind, OPENAI_CHUNK);
  assert_true(chunk.content);
  assert_false(chunk.finished);
  push("{\"choices\":[{\"delta\":{}}]}");
  assert_string_equal(event, "data: {\"id\":\"our\",\"choices\":[{\"delta\":{}}]}\n\n");
}

static void an_event_of_several_lines_leaves_as_one(void **state) {
  (void)state;
  push("{\"id\":1,\n\"choices\":[\n{\"delta\":{\"content\":\"a\\nb\"}}]}");
  assert_string_equal(event,
                      "data: {\"id\":\"our\", \"choices\":[ {\"delta\":{\"content\":\"a\\nb\"}}]}\n\n");
}

static void only_what_a_model_made_counts_as_content(void **state) {
  (void)state;
  static const char *const full[] = {"\"content\":\"a\"", "\"reasoning_content\":\"a\"",
                                     "\"reasoning\":\"a\"", "\"refusal\":\"a\"",
                                     "\"tool_calls\":[{\"index\":0,\"id\":\"c\"}]"};
  static const char *const empty[] = {"\"role\":\"assistant\"", "\"role\":\"assistant\",\"content\":\"\"",
                                      "\"content\":null", "\"tool_calls\":[]", ""};
  char data[256];
  for (size_t i = 0; i < 5; i++) {
    snprintf(data, sizeof data, "{\"id\":1,\"choices\":[{\"index\":0,\"delta\":{%s}}]}", full[i]);
    push(data);
    assert_true(chunk.content);
    snprintf(data, sizeof data, "{\"id\":1,\"choices\":[{\"index\":0,\"delta\":{%s}}]}", empty[i]);
    push(data);
    assert_false(chunk.content);
  }
}

static void a_stream_is_finished_when_all_its_choices_are(void **state) {
  (void)state;
  push("{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}},{\"index\":1,\"delta\":{\"content\":\"b\"}}"
       "]}");
  push("{\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}");
  assert_false(chunk.finished);
  push("{\"choices\":[{\"index\":1,\"delta\":{},\"finish_reason\":\"length\"}]}");
  assert_true(chunk.finished);
}

static void usage_chunks_are_known_in_every_form(void **state) {
  (void)state;
  static const char *const forms[] = {"\"choices\":[],", "\"choices\":null,", ""};
  static const char *const wanted[] = {"{\"id\":\"our\",\"choices\":[],", "{\"id\":\"our\",\"choices\":[],",
                                       "{"};
  for (size_t i = 0; i < 3; i++) {
    char data[256];
    openai_stream_init(&stream);
    snprintf(data, sizeof data, "{\"id\":\"x\",%s\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5}}",
             forms[i]);
    push(data);
    assert_int_equal(chunk.kind, OPENAI_USAGE);
    assert_true(stream.usage.known);
    assert_int_equal(stream.usage.tokens_in, 10);
    assert_int_equal(stream.usage.tokens_out, 5);
    assert_non_null(strstr(event, wanted[i]));
    assert_non_null(strstr(event, "\"choices\":[]"));
    assert_non_null(strstr(event, "\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5}}"));
  }
}

static void usage_beside_choices_is_read_and_left_out_when_not_asked_for(void **state) {
  (void)state;
  push("{\"id\":\"x\",\"choices\":[{\"delta\":{}}],\"usage\":null}");
  assert_string_equal(event, "data: {\"id\":\"our\",\"choices\":[{\"delta\":{}}]}\n\n");
  push("{\"usage\":{\"prompt_tokens\":3},\"choices\":[{\"delta\":{}}]}");
  assert_string_equal(event, "data: {\"id\":\"our\",\"choices\":[{\"delta\":{}}]}\n\n");
  assert_int_equal(stream.usage.tokens_in, 3);
  push("{\"id\":\"x\", \"usage\" : {\"prompt_tokens\":4} , \"choices\":[{\"delta\":{}}]}");
  assert_string_equal(event, "data: {\"id\":\"our\",  \"choices\":[{\"delta\":{}}]}\n\n");
  push_as("{\"id\":\"x\",\"choices\":[{\"delta\":{}}],\"usage\":{\"prompt_tokens\":9}}", false);
  assert_string_equal(
      event, "data: {\"id\":\"our\",\"choices\":[{\"delta\":{}}],\"usage\":{\"prompt_tokens\":9}}\n\n");
  assert_int_equal(stream.usage.tokens_in, 9);
}

static void done_errors_and_rubbish_are_told_apart(void **state) {
  (void)state;
  push("[DONE]");
  assert_int_equal(chunk.kind, OPENAI_DONE);
  assert_string_equal(event, "");
  push("{\"error\":{\"message\":\"overloaded\"}}");
  assert_int_equal(chunk.kind, OPENAI_FAILED);
  push("{\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"error\":null}");
  assert_int_equal(chunk.kind, OPENAI_CHUNK);
  static const char *const bad[] = {"{\"id\":", "{}", "[]", "hello", "{\"id\":1}{}", "null", "{\"a\":tru}"};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    push(bad[i]);
    assert_int_equal(chunk.kind, OPENAI_MALFORMED);
    assert_string_equal(event, "");
  }
}

static void bad_bytes_become_replacement_characters(void **state) {
  (void)state;
  push("{\"id\":1,\"choices\":[{\"delta\":{\"content\":\"a\xF0\x9F\x98\"}}]}");
  assert_string_equal(event,
                      "data: {\"id\":\"our\",\"choices\":[{\"delta\":{\"content\":\"a\xEF\xBF\xBD\"}}]}\n\n");
}

/* ---- tool calls: c1 asks for Paris, c2 for Oslo ---- */

static void call(const char *body, const char *wanted) {
  char data[512], expected[512];
  snprintf(data, sizeof data, "{\"id\":1,\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[%s]}}]}", body);
  snprintf(expected, sizeof expected,
           "data: {\"id\":\"our\",\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[%s]}}]}\n\n", wanted);
  push(data);
  assert_string_equal(event, expected);
}

static void well_numbered_calls_pass_as_they_are(void **state) {
  (void)state;
  const char *parts[] = {"{\"index\":0,\"id\":\"c1\",\"function\":{\"name\":\"w\",\"arguments\":\"\"}}",
                         "{\"index\":1,\"id\":\"c2\",\"function\":{\"name\":\"w\",\"arguments\":\"\"}}",
                         "{\"index\":0,\"function\":{\"arguments\":\"{\\\"city\\\":\"}}",
                         "{\"index\":1,\"function\":{\"arguments\":\"{\\\"city\\\":\"}}"};
  for (size_t i = 0; i < 4; i++)
    call(parts[i], parts[i]);
}

static void calls_that_are_all_number_0_are_told_apart_by_id(void **state) {
  (void)state;
  call("{\"index\":0,\"id\":\"c1\"}", "{\"index\":0,\"id\":\"c1\"}");
  call("{\"index\":0,\"id\":\"c2\"}", "{\"index\":1,\"id\":\"c2\"}");
  call("{\"index\":0,\"function\":{}}", "{\"index\":1,\"function\":{}}");
  call("{\"index\":0,\"id\":\"c1\"}", "{\"index\":0,\"id\":\"c1\"}");
}

static void calls_without_a_number_get_one(void **state) {
  (void)state;
  call("{\"id\":\"c1\"}", "{\"index\":0,\"id\":\"c1\"}");
  call("{\"function\":{}}", "{\"index\":0,\"function\":{}}");
  call("{\"id\":\"c2\"}", "{\"index\":1,\"id\":\"c2\"}");
  call("{\"id\":\"\",\"function\":{}}", "{\"index\":1,\"id\":\"\",\"function\":{}}");
}

static void two_calls_in_one_chunk_are_numbered_in_order(void **state) {
  (void)state;
  call("{\"id\":\"c1\"},{\"id\":\"c2\"}", "{\"index\":0,\"id\":\"c1\"},{\"index\":1,\"id\":\"c2\"}");
}

static void an_id_that_comes_late_starts_no_new_call(void **state) {
  (void)state;
  call("{\"index\":0,\"function\":{\"name\":\"w\"}}", "{\"index\":0,\"function\":{\"name\":\"w\"}}");
  call("{\"index\":0,\"id\":\"c1\"}", "{\"index\":0,\"id\":\"c1\"}");
}

static void more_calls_than_are_told_apart_do_no_harm(void **state) {
  (void)state;
  for (int i = 0; i < 100; i++) {
    char data[128];
    snprintf(data, sizeof data, "{\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c%d\"}]}}]}",
             i);
    push(data);
    assert_int_equal(chunk.kind, OPENAI_CHUNK);
  }
  assert_int_equal(stream.call_count, OPENAI_MAX_CALLS);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(a_chunk_gets_our_id_and_keeps_its_bytes, begin),
      cmocka_unit_test_setup(an_event_of_several_lines_leaves_as_one, begin),
      cmocka_unit_test_setup(only_what_a_model_made_counts_as_content, begin),
      cmocka_unit_test_setup(a_stream_is_finished_when_all_its_choices_are, begin),
      cmocka_unit_test_setup(usage_chunks_are_known_in_every_form, begin),
      cmocka_unit_test_setup(usage_beside_choices_is_read_and_left_out_when_not_asked_for, begin),
      cmocka_unit_test_setup(done_errors_and_rubbish_are_told_apart, begin),
      cmocka_unit_test_setup(bad_bytes_become_replacement_characters, begin),
      cmocka_unit_test_setup(well_numbered_calls_pass_as_they_are, begin),
      cmocka_unit_test_setup(calls_that_are_all_number_0_are_told_apart_by_id, begin),
      cmocka_unit_test_setup(calls_without_a_number_get_one, begin),
      cmocka_unit_test_setup(two_calls_in_one_chunk_are_numbered_in_order, begin),
      cmocka_unit_test_setup(an_id_that_comes_late_starts_no_new_call, begin),
      cmocka_unit_test_setup(more_calls_than_are_told_apart_do_no_harm, begin),
  };
  return cmocka_run_group_tests_name("dialect/openai_stream", tests, NULL, NULL);
}
