#include "dialect/openai_answer.h"
#include "rig.h"

static struct rig *rig;
static struct call call;

static int open_echo(void **state) {
  (void)state;
  struct provider_settings s = {.name = "e", .model = "echo-1", .kind = PROVIDER_ECHO};
  rig = rig_create(&s);
  return 0;
}

static int close_echo(void **state) {
  (void)state;
  call_free(&call);
  rig_destroy(rig);
  return 0;
}

static void the_last_user_message_comes_back(void **state) {
  (void)state;
  call_init(
      &call, rig,
      "{\"model\":\"auto\",\"messages\":[{\"role\":\"user\",\"content\":\"first\"},{\"role\":\"user\","
      "\"content\":"
      "[{\"type\":\"text\",\"text\":\"say \\\"hi\\\" twice\"}]},{\"role\":\"assistant\",\"content\":null}]}",
      false);
  assert_int_equal(call_start(&call), 0);
  assert_int_equal(call.ends, 0);
  assert_true(call_wait(&call, 1000));
  struct openai_answer answer;
  assert_int_equal(openai_parse_answer(call.result.body, call.result.body_size, &answer), 0);
  assert_memory_equal(call.result.body + answer.content_at, "\"say \\\"hi\\\" twice\"", answer.content_size);
  assert_memory_equal(call.result.body + answer.model_at, "\"echo-1\"", answer.model_size);
  assert_non_null(memmem(call.result.body, call.result.body_size, call.request.id_text, 25));
  assert_int_equal(call.result.tokens_out, 3);
  assert_int_equal(call.result.tokens_in, 4);
  assert_int_equal(answer.usage.tokens_out, 3);
}

static void a_stream_brings_word_for_word(void **state) {
  (void)state;
  call_init(&call, rig, BODY, true);
  call.request.spec.include_usage = true;
  assert_int_equal(call_start(&call), 0);
  assert_true(call_wait(&call, 1000));
  call.events[call.events_size] = '\0';
  assert_int_equal(call.request.attempt.tokens, 2);
  assert_int_equal(call.event_count, 6);
  assert_non_null(strstr(call.events, "{\"role\":\"assistant\",\"content\":\"\"}"));
  assert_non_null(strstr(call.events, "{\"content\":\"Hello\"}"));
  assert_non_null(strstr(call.events, "{\"content\":\"  you\"}"));
  assert_non_null(strstr(call.events, "\"finish_reason\":\"stop\""));
  assert_non_null(strstr(call.events, "\"choices\":[],\"usage\":{\"prompt_tokens\":2,"));
  assert_string_equal(call.events + call.events_size - 14, "data: [DONE]\n\n");
  assert_null(call.result.body);
}

static void cancel_ends_it_before_and_inside(void **state) {
  (void)state;
  call_init(&call, rig, BODY, true);
  assert_int_equal(call_start(&call), 0);
  call_cancel(&call);
  rig_turn(rig, 10);
  assert_int_equal(call.event_count + call.ends, 0);
  for (unsigned at = 1; at <= 5; at++) {
    call_init(&call, rig, BODY, true);
    call.cancel_at = at;
    assert_int_equal(call_start(&call), 0);
    rig_turn(rig, 10);
    assert_int_equal(call.event_count, at);
    assert_int_equal(call.ends, 0);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(the_last_user_message_comes_back, open_echo, close_echo),
      cmocka_unit_test_setup_teardown(a_stream_brings_word_for_word, open_echo, close_echo),
      cmocka_unit_test_setup_teardown(cancel_ends_it_before_and_inside, open_echo, close_echo),
  };
  return cmocka_run_group_tests_name("provider/echo", tests, NULL, NULL);
}
