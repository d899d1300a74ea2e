#include "dialect/buffer.h"
#include "dialect/openai_answer.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define TAIL                                                                                                 \
  "\"model\":\"m-1\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Hi "        \
  "\\u00e9\"}}],"                                                                                            \
  "\"seed\":12345678901234567890"

static void the_id_becomes_ours_and_all_else_stays(void **state) {
  (void)state;
  const char *body = "{ \"id\" : \"theirs\", " TAIL "}";
  struct buffer out = {0};
  struct openai_answer answer;
  assert_int_equal(openai_rewrite_answer(body, strlen(body), "chatcmpl-0123", &answer, &out), 0);
  buffer_append(&out, "", 1);
  assert_string_equal(out.bytes, "{ \"id\" : \"chatcmpl-0123\", " TAIL "}");
  assert_memory_equal(out.bytes + answer.content_at, "\"Hi \\u00e9\"", answer.content_size);
  assert_memory_equal(out.bytes + answer.model_at, "\"m-1\"", answer.model_size);
  assert_false(answer.usage.known);
  buffer_free(&out);
}

static void an_answer_without_an_id_gets_one(void **state) {
  (void)state;
  const char *body = "{" TAIL "}";
  struct buffer out = {0};
  struct openai_answer answer;
  buffer_text(&out, "before ");
  assert_int_equal(openai_rewrite_answer(body, strlen(body), "x", &answer, &out), 0);
  buffer_append(&out, "", 1);
  assert_string_equal(out.bytes, "before {\"id\":\"x\"," TAIL "}");
  assert_memory_equal(out.bytes + answer.content_at, "\"Hi \\u00e9\"", answer.content_size);
  buffer_free(&out);
}

static void usage_is_read_with_cached_tokens_and_cost(void **state) {
  (void)state;
  const char *body =
      "{\"choices\":[{}],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5.0,\"total_tokens\":15,"
      "\"prompt_tokens_details\":{\"cached_tokens\":4},\"cost\":0.00125}}";
  struct openai_answer answer;
  assert_int_equal(openai_parse_answer(body, strlen(body), &answer), 0);
  assert_true(answer.usage.known);
  assert_int_equal(answer.usage.tokens_in, 10);
  assert_int_equal(answer.usage.tokens_out, 5);
  assert_int_equal(answer.usage.tokens_cached, 4);
  assert_true(answer.usage.cost_usd == 0.00125);
}

static void strange_usage_does_no_harm(void **state) {
  (void)state;
  const char *body = "{\"choices\":[{}],\"usage\":{\"prompt_tokens\":-3,\"completion_tokens\":99999999999999,"
                     "\"prompt_tokens_details\":{\"cached_tokens\":4},\"cost\":\"free\"}}";
  struct openai_answer answer;
  assert_int_equal(openai_parse_answer(body, strlen(body), &answer), 0);
  assert_int_equal(answer.usage.tokens_in, 0);
  assert_int_equal(answer.usage.tokens_cached, 0);
  assert_int_equal(answer.usage.tokens_out, UINT32_MAX);
  assert_true(isnan(answer.usage.cost_usd));
  static const char *const costs[] = {"1e300", "50000000000", "-0.1"};
  for (int i = 0; i < 3; i++) {
    char claim[96];
    snprintf(claim, sizeof claim, "{\"choices\":[{}],\"usage\":{\"prompt_tokens\":7,\"cost\":%s}}", costs[i]);
    assert_int_equal(openai_parse_answer(claim, strlen(claim), &answer), 0);
    assert_int_equal(answer.usage.tokens_in, 7);
    assert_true(isnan(answer.usage.cost_usd));
  }
  body = "{\"choices\":[{}],\"usage\":null}";
  assert_int_equal(openai_parse_answer(body, strlen(body), &answer), 0);
  assert_false(answer.usage.known);
}

static void what_is_no_answer_is_an_error(void **state) {
  (void)state;
  static const char *const bad[] = {"",
                                    "<html>",
                                    "{}",
                                    "{\"choices\":[]}",
                                    "{\"choices\":null}",
                                    "{\"error\":{\"message\":\"no\"}}",
                                    "{\"choices\":[{}],\"error\":{\"message\":\"no\"}}",
                                    "{\"choices\":[{}]",
                                    "{\"choices\":[{}]}{}"};
  struct openai_answer answer;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    assert_int_equal(openai_parse_answer(bad[i], strlen(bad[i]), &answer), -EINVAL);
  assert_int_equal(openai_parse_answer("{\"choices\":[{}],\"error\":null}", 29, &answer), 0);
}

static void an_error_has_the_four_fields(void **state) {
  (void)state;
  struct buffer out = {0};
  openai_error_body(&out, "invalid_request_error", "invalid_type", NULL, "say \"what\"");
  buffer_append(&out, "", 1);
  assert_string_equal(out.bytes,
                      "{\"error\":{\"message\":\"say \\\"what\\\"\",\"type\":\"invalid_request_error\","
                      "\"param\":null,\"code\":\"invalid_type\"}}");
  buffer_free(&out);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_id_becomes_ours_and_all_else_stays),
      cmocka_unit_test(an_answer_without_an_id_gets_one),
      cmocka_unit_test(usage_is_read_with_cached_tokens_and_cost),
      cmocka_unit_test(strange_usage_does_no_harm),
      cmocka_unit_test(what_is_no_answer_is_an_error),
      cmocka_unit_test(an_error_has_the_four_fields),
  };
  return cmocka_run_group_tests_name("dialect/openai_answer", tests, NULL, NULL);
}
