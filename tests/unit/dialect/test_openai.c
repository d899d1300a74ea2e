#include "dialect/buffer.h"
#include "dialect/openai.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MESSAGES "\"messages\":[{\"role\":\"user\",\"content\":\"Hello you\"}]"

static int parse(const char *body, struct openai_request *request, struct openai_error *error) {
  memset(error, 0, sizeof *error);
  return openai_parse_chat(body, strlen(body), 0, request, error);
}

static void assert_taken(const char *body) {
  struct openai_request request;
  struct openai_error error;
  if (parse(body, &request, &error) != 0) fail_msg("refused: %s: %s", body, error.message);
}

/* Refused, with that code, for that parameter. */
static void assert_refused(const char *body, const char *code, const char *param) {
  struct openai_request request;
  struct openai_error error;
  if (parse(body, &request, &error) != -EINVAL) fail_msg("taken: %s", body);
  assert_string_equal(error.type, "invalid_request_error");
  assert_string_equal(error.code, code);
  if (param)
    assert_string_equal(error.param, param);
  else
    assert_null(error.param);
  assert_true(strlen(error.message) > 10);
}

static void a_request_is_read(void **state) {
  (void)state;
  const char *body =
      "{\"model\":\"gpt-4o\"," MESSAGES ",\"stream\":true,\"stream_options\":{\"include_usage\":true},"
      "\"user\":\"u-1\",\"max_tokens\":100,\"n\":2,\"temperature\":0}";
  struct openai_request r;
  struct openai_error error;
  assert_int_equal(parse(body, &r, &error), 0);
  assert_string_equal(r.model, "gpt-4o");
  assert_memory_equal(body + r.model_at, "\"gpt-4o\"", r.model_size);
  assert_int_equal(r.model_size, 8);
  assert_true(r.stream && r.include_usage);
  assert_memory_equal(body + r.session_at, "u-1", 3);
  assert_int_equal(r.session_size, 3);
  assert_int_equal(r.max_tokens, 100);
  assert_int_equal(r.n, 2);
  assert_int_equal(r.tokens_in, strlen("\"Hello you\"") / 4);
}

static void what_is_not_said_has_its_default(void **state) {
  (void)state;
  struct openai_request r;
  struct openai_error error;
  assert_int_equal(
      parse("{\"model\":\"m\"," MESSAGES ",\"stream\":null,\"max_tokens\":null,\"stop\":null}", &r, &error),
      0);
  assert_false(r.stream || r.include_usage);
  assert_int_equal(r.max_tokens, -1);
  assert_int_equal(r.n, 1);
  assert_int_equal(r.session_size, 0);
}

static void the_newer_name_of_max_tokens_wins(void **state) {
  (void)state;
  struct openai_request r;
  struct openai_error error;
  assert_int_equal(
      parse("{\"model\":\"m\"," MESSAGES ",\"max_completion_tokens\":7,\"max_tokens\":9}", &r, &error), 0);
  assert_int_equal(r.max_tokens, 7);
  assert_int_equal(
      parse("{\"model\":\"m\"," MESSAGES ",\"max_tokens\":9,\"max_completion_tokens\":7}", &r, &error), 0);
  assert_int_equal(r.max_tokens, 7);
}

static void numbers_must_be_numbers_of_the_right_kind(void **state) {
  (void)state;
  static const char *const max_tokens[] = {"1.5", "-1",   "\"100\"", "100.0",
                                           "0",   "true", "1e400",   "99999999999999999999"};
  for (size_t i = 0; i < sizeof max_tokens / sizeof max_tokens[0]; i++) {
    char body[256];
    snprintf(body, sizeof body, "{\"model\":\"m\"," MESSAGES ",\"max_tokens\":%s}", max_tokens[i]);
    assert_refused(body, "invalid_type", "max_tokens");
  }
  struct openai_request r;
  struct openai_error error;
  assert_int_equal(parse("{\"model\":\"m\"," MESSAGES ",\"max_tokens\":4294967297}", &r, &error), 0);
  assert_int_equal(r.max_tokens, INT64_C(4294967297));
  assert_refused("{\"model\":\"m\"," MESSAGES ",\"temperature\":\"0\"}", "invalid_type", "temperature");
  assert_refused("{\"model\":\"m\"," MESSAGES ",\"n\":0}", "invalid_type", "n");
  assert_taken("{\"model\":\"m\"," MESSAGES
               ",\"temperature\":0,\"seed\":0,\"presence_penalty\":0,\"stream\":false}");
  assert_taken("{\"model\":\"m\"," MESSAGES
               ",\"x\":[9007199254740993,12345678901234567890,1E-7,20000.0,1e400]}");
}

static void what_is_missing_or_of_the_wrong_type_is_named(void **state) {
  (void)state;
  assert_refused("{" MESSAGES "}", "missing_field", "model");
  assert_refused("{\"model\":[\"a\"]," MESSAGES "}", "invalid_type", "model");
  assert_refused("{\"model\":\"\"," MESSAGES "}", "invalid_type", "model");
  assert_refused("{\"model\":\"m\"}", "missing_field", "messages");
  assert_refused("{\"model\":\"m\",\"messages\":[]}", "invalid_type", "messages");
  assert_refused("{\"model\":\"m\",\"messages\":{\"role\":\"user\"}}", "invalid_type", "messages");
  assert_refused("{\"model\":\"m\",\"messages\":[\"hi\"]}", "invalid_type", "messages");
  assert_refused("{\"model\":\"m\",\"messages\":[{\"content\":\"hi\"}]}", "missing_field", "messages");
  assert_refused("{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":7}]}", "invalid_type",
                 "messages");
  assert_refused("{\"model\":\"m\"," MESSAGES ",\"stream\":\"yes\"}", "invalid_type", "stream");
  assert_refused("{\"model\":\"m\"," MESSAGES ",\"stream_options\":1}", "invalid_type", "stream_options");
  assert_refused("{\"model\":\"m\"," MESSAGES ",\"user\":5}", "invalid_type", "user");
}

static void content_may_be_parts_null_or_absent(void **state) {
  (void)state;
  assert_taken(
      "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
      "{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/"
      "png;base64,AAAA\"}},{\"type\":\"x_new\",\"v\":1}]}]}");
  assert_taken("{\"model\":\"m\",\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{"
               "\"id\":\"a\"}]},"
               "{\"role\":\"assistant\"}]}");
}

static void what_is_no_json_is_refused_without_a_parameter(void **state) {
  (void)state;
  assert_refused("", "invalid_json", NULL);
  assert_refused("not json", "invalid_json", NULL);
  assert_refused("[]", "invalid_json", NULL);
  assert_refused("{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"\xC3(\"}]}", "invalid_json",
                 NULL);
  assert_refused("{\"model\":\"a\"," MESSAGES ",\"model\":\"b\"}", "invalid_json", NULL);
  assert_refused("{\"model\":\"a\"," MESSAGES ",\"mod\\u0065l\":\"b\"}", "invalid_json", NULL);
}

static void fields_that_choose_the_upstream_are_refused(void **state) {
  (void)state;
  assert_refused("{\"model\":\"m\"," MESSAGES ",\"api_base\":\"http://127.0.0.1:9\"}", "unsupported_field",
                 "api_base");
  assert_refused("{\"model\":\"m\"," MESSAGES ",\"base_url\":\"http://127.0.0.1:9\"}", "unsupported_field",
                 "base_url");
  assert_refused("{\"model\":\"m\"," MESSAGES ",\"api_key\":\"k\"}", "unsupported_field", "api_key");
  assert_refused("{\"model\":\"m\"," MESSAGES ",\"extra_body\":{\"api_base\":\"x\"}}", "unsupported_field",
                 "api_base");
  assert_refused("{\"model\":\"m\"," MESSAGES ",\"metadata\":{\"base_url\":\"x\"}}", "unsupported_field",
                 "base_url");
  assert_taken("{\"model\":\"m\"," MESSAGES ",\"metadata\":{\"tokens_in\":\"5\"}}");
}

static void a_name_that_is_too_long_is_cut_and_marked(void **state) {
  (void)state;
  char body[512], name[200] = "";
  for (int i = 0; i < 19; i++)
    strcat(name, "0123456789");
  snprintf(body, sizeof body, "{\"model\":\"%s\"," MESSAGES "}", name);
  struct openai_request r;
  struct openai_error error;
  assert_int_equal(parse(body, &r, &error), 0);
  assert_int_equal(strlen(r.model), NAME_SIZE - 1);
  assert_string_equal(r.model + NAME_SIZE - 4, "...");
  assert_int_equal(r.model_size, 192);
}

/* ---- the short form ---- */

static void a_prompt_is_read_and_becomes_a_chat(void **state) {
  (void)state;
  const char *body = "{\"session\":\"s1\", \"input\" : \"say "
                     "\\\"hi\\\"\",\"model\":\"auto\",\"max_tokens\":5,\"x\":1E-7,\"stream\":true}";
  struct openai_request r;
  struct openai_error error;
  assert_int_equal(openai_parse_prompt(body, strlen(body), 0, &r, &error), 0);
  assert_string_equal(r.model, "auto");
  assert_memory_equal(body + r.session_at, "s1", 2);
  assert_int_equal(r.session_size, 2);
  assert_true(r.stream);
  char *chat;
  size_t size, at, model_size;
  assert_int_equal(openai_chat_from_prompt(body, strlen(body), &chat, &size, &at, &model_size), 0);
  const char *wanted = "{\"messages\":[{\"role\":\"user\",\"content\":\"say "
                       "\\\"hi\\\"\"}],\"model\":\"auto\",\"max_tokens\":5,"
                       "\"x\":1E-7,\"stream\":true}";
  assert_int_equal(size, strlen(wanted));
  assert_memory_equal(chat, wanted, size);
  assert_memory_equal(chat + at, "\"auto\"", model_size);
  assert_int_equal(openai_parse_chat(chat, size, 0, &r, &error), 0);
  free(chat);
}

static void a_prompt_needs_no_more_than_input(void **state) {
  (void)state;
  const char *body = "{\"input\":\"hi\"}";
  struct openai_request r;
  struct openai_error error;
  char *chat;
  size_t size, at, model_size;
  assert_int_equal(openai_parse_prompt(body, strlen(body), 0, &r, &error), 0);
  assert_int_equal(r.model_size, 0);
  assert_int_equal(r.tokens_in, 1);
  assert_int_equal(openai_chat_from_prompt(body, strlen(body), &chat, &size, &at, &model_size), 0);
  assert_int_equal(model_size, 0);
  struct buffer out = {0};
  assert_int_equal(openai_prepare_body(chat, size, at, model_size, "m", false, &out), 0);
  assert_int_equal(out.size,
                   strlen("{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}"));
  assert_memory_equal(out.bytes, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}",
                      out.size);
  buffer_free(&out);
  free(chat);
  static const char *const bad[] = {"{}", "{\"input\":\"\"}", "{\"input\":7}",
                                    "{\"input\":\"a\",\"messages\":[]}"};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    assert_int_equal(openai_parse_prompt(bad[i], strlen(bad[i]), 0, &r, &error), -EINVAL);
}

/* ---- what is sent upstream ---- */

static void assert_prepared(const char *body, bool add_usage, const char *wanted) {
  struct openai_request r;
  struct openai_error error;
  struct buffer out = {0};
  assert_int_equal(parse(body, &r, &error), 0);
  assert_int_equal(
      openai_prepare_body(body, strlen(body), r.model_at, r.model_size, "new/m", add_usage, &out), 0);
  buffer_append(&out, "", 1);
  assert_string_equal(out.bytes, wanted);
  buffer_free(&out);
}

static void only_the_model_changes(void **state) {
  (void)state;
  assert_prepared("{ \"x\": 12345678901234567890 , \"model\" : \"auto\", " MESSAGES ", \"y\": 20000.0}",
                  false,
                  "{ \"x\": 12345678901234567890 , \"model\" : \"new/m\", " MESSAGES ", \"y\": 20000.0}");
}

static void a_stream_is_made_to_tell_its_usage(void **state) {
  (void)state;
  assert_prepared("{\"model\":\"a\"," MESSAGES ",\"stream\":true}", true,
                  "{\"stream_options\":{\"include_usage\":true},\"model\":\"new/m\"," MESSAGES
                  ",\"stream\":true}");
  assert_prepared("{\"model\":\"a\"," MESSAGES ",\"stream_options\":{}}", true,
                  "{\"model\":\"new/m\"," MESSAGES ",\"stream_options\":{\"include_usage\":true}}");
  assert_prepared("{\"stream_options\":null,\"model\":\"a\"," MESSAGES "}", true,
                  "{\"stream_options\":{\"include_usage\":true},\"model\":\"new/m\"," MESSAGES "}");
  assert_prepared("{\"model\":\"a\"," MESSAGES ",\"stream_options\":{\"include_usage\":false,\"z\":1}}", true,
                  "{\"model\":\"new/m\"," MESSAGES ",\"stream_options\":{\"include_usage\":true,\"z\":1}}");
  assert_prepared("{\"model\":\"a\"," MESSAGES ",\"stream_options\":{ \"z\":1}}", true,
                  "{\"model\":\"new/m\"," MESSAGES ",\"stream_options\":{\"include_usage\":true, \"z\":1}}");
  assert_prepared(
      "{\"model\":\"a\",\"messages\":[{\"role\":\"user\",\"content\":\"stream_options\"}]}", true,
      "{\"stream_options\":{\"include_usage\":true},\"model\":\"new/m\",\"messages\":[{\"role\":\"user\","
      "\"content\":\"stream_options\"}]}");
  assert_prepared("{\"model\":\"a\"," MESSAGES ",\"stream_option\\u0073\":{}}", true,
                  "{\"model\":\"new/m\"," MESSAGES ",\"stream_option\\u0073\":{\"include_usage\":true}}");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_request_is_read),
      cmocka_unit_test(what_is_not_said_has_its_default),
      cmocka_unit_test(the_newer_name_of_max_tokens_wins),
      cmocka_unit_test(numbers_must_be_numbers_of_the_right_kind),
      cmocka_unit_test(what_is_missing_or_of_the_wrong_type_is_named),
      cmocka_unit_test(content_may_be_parts_null_or_absent),
      cmocka_unit_test(what_is_no_json_is_refused_without_a_parameter),
      cmocka_unit_test(fields_that_choose_the_upstream_are_refused),
      cmocka_unit_test(a_name_that_is_too_long_is_cut_and_marked),
      cmocka_unit_test(a_prompt_is_read_and_becomes_a_chat),
      cmocka_unit_test(a_prompt_needs_no_more_than_input),
      cmocka_unit_test(only_the_model_changes),
      cmocka_unit_test(a_stream_is_made_to_tell_its_usage),
  };
  return cmocka_run_group_tests_name("dialect/openai", tests, NULL, NULL);
}
