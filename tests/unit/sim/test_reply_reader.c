#include "sim/reply_reader.h"
#include "sim/wording.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct wording_usage usage = {.tokens_in = 12, .tokens_out = 5, .usd = 0.25};

/* A stream of five tokens, as the simulated fleet says it. */
static size_t say_stream(char *out, bool done) {
  struct wording w;
  size_t used = 0;
  wording_init(&w, "middle", "a prompt", 8, 7, 1700000000);
  used += wording_role(&w, out + used);
  for (uint32_t n = 0; n < usage.tokens_out; n++)
    used += wording_token(&w, n, out + used);
  used += wording_finish(&w, "stop", out + used);
  used += wording_usage_event(&w, &usage, out + used);
  if (done) used += wording_done(out + used);
  return used;
}

static void stream_in_pieces_of_any_size_reads_the_same(void **state) {
  (void)state;
  char text[16 * WORDING_EVENT];
  size_t size = say_stream(text, true);
  for (size_t piece = 1; piece < size; piece = piece * 2 + 1) {
    struct reply_reader reader;
    uint32_t events = 0;
    reply_reader_init(&reader, true);
    for (size_t at = 0; at < size; at += piece)
      events += reply_reader_feed(&reader, 200, text + at, size - at < piece ? size - at : piece);
    reply_reader_end(&reader, 200);
    assert_true(reader.reply.complete);
    assert_int_equal(events, 5);
    assert_int_equal(reader.reply.events, 5);
    assert_int_equal(reader.reply.tokens_in, 12);
    assert_int_equal(reader.reply.tokens_out, 5);
    assert_true(fabs(reader.reply.usd - 0.25) < 1e-9);
    assert_string_equal(reader.reply.model, "middle");
    assert_memory_equal(reader.reply.id, "chatcmpl-", 9);
    reply_reader_free(&reader);
  }
}

static void stream_without_its_end_is_not_complete(void **state) {
  (void)state;
  char text[16 * WORDING_EVENT];
  struct reply_reader reader;
  reply_reader_init(&reader, true);
  reply_reader_feed(&reader, 200, text, say_stream(text, false));
  reply_reader_end(&reader, 200);
  assert_false(reader.reply.complete);
  assert_false(reader.reply.broken);
  assert_int_equal(reader.reply.events, 5);
  reply_reader_free(&reader);
}

static void error_frame_in_a_stream_is_an_error(void **state) {
  (void)state;
  static const char frame[] =
      "data: {\"error\":{\"message\":\"gone\",\"type\":\"upstream_error\"}}\n\ndata: [DONE]\n\n";
  struct reply_reader reader;
  reply_reader_init(&reader, true);
  reply_reader_feed(&reader, 200, frame, sizeof frame - 1);
  reply_reader_end(&reader, 200);
  assert_false(reader.reply.complete);
  assert_string_equal(reader.reply.error_type, "upstream_error");
  reply_reader_free(&reader);
}

static void whole_answer_gives_usage_and_model(void **state) {
  (void)state;
  struct wording w;
  struct reply_reader reader;
  size_t size;
  wording_init(&w, "small", "a prompt", 8, 7, 1700000000);
  char *body = wording_answer(&w, &usage, "stop", &size);
  assert_non_null(body);
  reply_reader_init(&reader, false);
  reply_reader_feed(&reader, 200, body, size);
  reply_reader_end(&reader, 200);
  assert_true(reader.reply.complete);
  assert_string_equal(reader.reply.model, "small");
  assert_int_equal(reader.reply.tokens_out, 5);
  reply_reader_free(&reader);
  free(body);
}

static void error_body_is_not_complete_and_names_its_type(void **state) {
  (void)state;
  char body[WORDING_EVENT];
  size_t size = wording_error("rate_limit_error", "rate_limit_exceeded", "slow down", body);
  for (int stream = 0; stream < 2; stream++) {
    struct reply_reader reader;
    reply_reader_init(&reader, stream);
    reply_reader_feed(&reader, 429, body, size);
    reply_reader_end(&reader, 429);
    assert_false(reader.reply.complete);
    assert_string_equal(reader.reply.error_type, "rate_limit_error");
    reply_reader_free(&reader);
  }
}

static void nonsense_is_broken_not_a_crash(void **state) {
  (void)state;
  static const char *const texts[] = {"",         "data: {\n\n",  "data: 7\n\n", "{\"choices\":[",
                                      "\n\n\n\n", "data: [1]\n\n"};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
    for (int stream = 0; stream < 2; stream++) {
      struct reply_reader reader;
      reply_reader_init(&reader, stream);
      reply_reader_feed(&reader, 200, texts[i], strlen(texts[i]));
      reply_reader_end(&reader, 200);
      assert_false(reader.reply.complete);
      assert_true(isnan(reader.reply.usd));
      reply_reader_free(&reader);
    }
}

static void words_depend_on_model_and_prompt_alone(void **state) {
  (void)state;
  struct wording a, b, c;
  char first[WORDING_EVENT], second[WORDING_EVENT];
  wording_init(&a, "small", "a prompt", 8, 1, 1);
  wording_init(&b, "small", "a prompt", 8, 2, 1);
  wording_init(&c, "middle", "a prompt", 8, 1, 1);
  assert_int_equal(a.seed, b.seed);
  assert_int_not_equal(a.seed, c.seed);
  assert_string_not_equal(a.id, b.id);
  snprintf(b.id, sizeof b.id, "%s", a.id);
  for (uint32_t n = 0; n < 100; n++) {
    wording_token(&a, n, first);
    wording_token(&b, n, second);
    assert_string_equal(first, second);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(stream_in_pieces_of_any_size_reads_the_same),
      cmocka_unit_test(stream_without_its_end_is_not_complete),
      cmocka_unit_test(error_frame_in_a_stream_is_an_error),
      cmocka_unit_test(whole_answer_gives_usage_and_model),
      cmocka_unit_test(error_body_is_not_complete_and_names_its_type),
      cmocka_unit_test(nonsense_is_broken_not_a_crash),
      cmocka_unit_test(words_depend_on_model_and_prompt_alone),
  };
  return cmocka_run_group_tests_name("reply_reader", tests, NULL, NULL);
}
