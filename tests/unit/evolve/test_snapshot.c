#include "evolve/snapshot.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char names[3][NAME_SIZE] = {"own", "hosted", "a-b"};

static void numbers_use_the_fewest_digits_that_read_back(void **state) {
  (void)state;
  static const struct {
    double value;
    const char *text;
  } cases[] = {{0.1, "0.1"},
               {512, "512"},
               {1.0 / 3, "0.3333333333333333"},
               {0.1 + 0.2, "0.30000000000000004"},
               {1e-3, "0.001"},
               {-0.0, "0"},
               {1e300, "1e+300"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char text[40];
    assert_int_equal(snapshot_number(cases[i].value, text, sizeof text), strlen(cases[i].text));
    assert_string_equal(text, cases[i].text);
  }
}

static char *text_of(const struct tunables *t) {
  static double values[TUNABLES][MAX_PROVIDERS];
  for (unsigned id = 0; id < TUNABLES; id++)
    for (unsigned p = 0; p < 3; p++)
      values[id][p] = tunable_of(t, (enum tunable_id)id, p);
  return snapshot_text(values, names, 3);
}

static void lines_are_sorted_by_name_and_cover_every_provider(void **state) {
  (void)state;
  static struct tunables t;
  tunables_init(&t);
  char *text = text_of(&t);
  assert_non_null(
      strstr(text, "\nconcurrency_limit.a-b=64\nconcurrency_limit.hosted=64\nconcurrency_limit.own=64\n"));
  char last[128] = "";
  int lines = 0;
  for (char *line = text; *line; line = strchr(line, '\n') + 1) {
    char name[128] = "";
    memcpy(name, line, strcspn(line, "="));
    assert_true(strcmp(last, name) < 0);
    memcpy(last, name, sizeof last);
    lines++;
  }
  assert_int_equal(lines, TUNABLES - 2 + 2 * 3);
  free(text);
}

static void the_id_is_sha_256_and_follows_the_content(void **state) {
  (void)state;
  char id[SNAPSHOT_ID_SIZE], other[SNAPSHOT_ID_SIZE];
  assert_int_equal(snapshot_id("abc", id), 0);
  assert_string_equal(id, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  static struct tunables t;
  tunables_init(&t);
  tunable_set(&t, (struct tunable_key){TUNABLE_explore_share, 0}, 0.02);
  char *before = text_of(&t);
  tunable_set(&t, (struct tunable_key){TUNABLE_explore_share, 0}, 0.05);
  char *changed = text_of(&t);
  tunable_set(&t, (struct tunable_key){TUNABLE_explore_share, 0}, 0.02);
  char *back = text_of(&t);
  snapshot_id(before, id);
  snapshot_id(changed, other);
  assert_string_not_equal(id, other);
  snapshot_id(back, other);
  assert_string_equal(id, other);
  char *diff = snapshot_diff(before, changed);
  assert_string_equal(diff, "[{\"name\":\"explore_share\",\"from\":0.02,\"to\":0.05}]");
  free(diff);
  free(before);
  free(changed);
  free(back);
}

static void a_text_reads_back_to_the_same_values(void **state) {
  (void)state;
  static struct tunables t;
  static double values[TUNABLES][MAX_PROVIDERS];
  tunables_init(&t);
  tunable_set(&t, (struct tunable_key){TUNABLE_route_temperature, 0}, 1.0 / 300);
  tunable_set(&t, (struct tunable_key){TUNABLE_concurrency_limit, 1}, 17);
  char *text = text_of(&t);
  assert_int_equal(snapshot_parse(text, names, 3, values, NULL, 0), 0);
  assert_true(values[TUNABLE_route_temperature][0] == 1.0 / 300);
  assert_float_equal(values[TUNABLE_concurrency_limit][1], 17, 0);
  assert_float_equal(values[TUNABLE_buffer_rag][0], 512, 0);
  assert_true(isnan(values[TUNABLE_buffer_rag][1]));
  free(text);
}

static void bad_lines_are_skipped_and_named(void **state) {
  (void)state;
  static double values[TUNABLES][MAX_PROVIDERS];
  char skipped[256];
  int bad =
      snapshot_parse("buffer_rag=100\nnonsense=1\nbuffer_post=9999999\nexplore_share=nan\nmemory_mib=1.5\n"
                     "concurrency_limit.gone=5\nno equals sign\nretry_attempts=2x\nretry_base_ms=20",
                     names, 3, values, skipped, sizeof skipped);
  assert_int_equal(bad, 7);
  assert_string_equal(skipped,
                      "nonsense, buffer_post, explore_share, memory_mib, concurrency_limit.gone, no equals "
                      "sign, retry_attempts");
  assert_float_equal(values[TUNABLE_buffer_rag][0], 100, 0);
  assert_float_equal(values[TUNABLE_retry_base_ms][0], 20, 0);
  assert_true(isnan(values[TUNABLE_buffer_post][0]));
  char tiny[8];
  assert_int_equal(snapshot_parse("nonsense=1\nmore=2\n", names, 3, values, tiny, sizeof tiny), 2);
  assert_string_equal(tiny, "nonsens");
}

static void diff_shows_both_sides_and_what_one_lacks(void **state) {
  (void)state;
  char *diff = snapshot_diff("a=1\nb=2\nd=4\n", "a=1\nb=3\nc=5\n");
  assert_string_equal(diff, "[{\"name\":\"b\",\"from\":2,\"to\":3},{\"name\":\"c\",\"from\":null,\"to\":5},"
                            "{\"name\":\"d\",\"from\":4,\"to\":null}]");
  free(diff);
  diff = snapshot_diff("", "");
  assert_string_equal(diff, "[]");
  free(diff);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(numbers_use_the_fewest_digits_that_read_back),
      cmocka_unit_test(lines_are_sorted_by_name_and_cover_every_provider),
      cmocka_unit_test(the_id_is_sha_256_and_follows_the_content),
      cmocka_unit_test(a_text_reads_back_to_the_same_values),
      cmocka_unit_test(bad_lines_are_skipped_and_named),
      cmocka_unit_test(diff_shows_both_sides_and_what_one_lacks),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
