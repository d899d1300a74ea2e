#include "evolve/switchback.h"
#include "sys/clock.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void every_group_has_equal_blocks_and_one_treatment(void **state) {
  (void)state;
  struct switchback s;
  struct switchback_difference d;
  int place[4] = {0};
  switchback_init(&s, 5, 0.25, 0);
  assert_int_equal(s.size, 4);
  for (int64_t t = 0, group = 0; group < 400; t += NS_PER_S) {
    uint64_t before = s.number;
    switchback_advance(&s, t, &d);
    if (s.number == before) continue;
    group++;
    int treated = 0;
    int64_t length = s.now.blocks[0].end_ns - s.now.blocks[0].start_ns;
    assert_in_range(length, 60 * NS_PER_S, 120 * NS_PER_S);
    for (unsigned i = 0; i < 4; i++) {
      assert_int_equal(s.now.blocks[i].end_ns - s.now.blocks[i].start_ns, length);
      if (i > 0) assert_int_equal(s.now.blocks[i].start_ns, s.now.blocks[i - 1].end_ns);
      treated += s.now.blocks[i].treated;
      place[i] += s.now.blocks[i].treated;
    }
    assert_int_equal(treated, 1);
  }
  for (int i = 0; i < 4; i++)
    assert_in_range(place[i], 65, 135);
}

static void the_first_fifth_is_carry_over_and_late_answers_still_count(void **state) {
  (void)state;
  struct switchback s;
  struct switchback_difference d;
  const double bad[MEASURES] = {-9, 1, 1}, good[MEASURES] = {0.9, 0, 0}, fair[MEASURES] = {0.5, 1, 0};
  bool treated;
  switchback_init(&s, 6, 0.5, 0);
  assert_false(switchback_advance(&s, 0, &d));
  int64_t length = s.now.blocks[0].end_ns, end = s.now.blocks[1].end_ns;
  for (unsigned i = 0; i < 2; i++)
    assert_false(switchback_add(&s, s.now.blocks[i].start_ns + length / 5 - 1, bad, &treated));
  assert_false(switchback_advance(&s, end + NS_PER_S, &d));
  for (unsigned i = 0; i < 2; i++)
    for (int k = 0; k < 3; k++) {
      assert_true(switchback_add(&s, s.before.blocks[i].start_ns + length / 5 + k,
                                 s.before.blocks[i].treated ? good : fair, &treated));
      assert_int_equal(treated, s.before.blocks[i].treated);
    }
  assert_false(switchback_advance(&s, end + 59 * NS_PER_S, &d));
  assert_true(switchback_advance(&s, end + 60 * NS_PER_S, &d));
  assert_float_equal(d.value[MEASURE_UTILITY], 0.4, 1e-6);
  assert_float_equal(d.value[MEASURE_ERROR], -1, 1e-6);
  assert_int_equal(d.control_blocks, 1);
  assert_false(switchback_add(&s, length / 2, good, &treated));
}

/* As when the daemon hung: nobody was there to apply the arms. */
static void a_group_that_ended_in_a_pause_gives_no_difference(void **state) {
  (void)state;
  struct switchback s;
  struct switchback_difference d;
  const double value[MEASURES] = {0.5, 0, 0};
  bool treated;
  switchback_init(&s, 6, 0.5, 0);
  assert_false(switchback_advance(&s, 0, &d));
  int64_t end = s.now.blocks[1].end_ns;
  for (unsigned i = 0; i < 2; i++)
    for (int k = 1; k <= 3; k++)
      assert_true(switchback_add(&s, s.now.blocks[i].end_ns - k, value, &treated));
  assert_false(switchback_advance(&s, end + 61 * NS_PER_S, &d));
  assert_false(switchback_advance(&s, end + 62 * NS_PER_S, &d));
}

static void the_calendar_replays_from_its_seed(void **state) {
  (void)state;
  struct switchback a, b, other;
  struct switchback_difference d;
  int differ = 0;
  switchback_init(&a, 7, 0.5, 0);
  switchback_init(&b, 7, 0.5, 0);
  switchback_init(&other, 8, 0.5, 0);
  for (int64_t t = 0; t < 20000 * NS_PER_S; t += NS_PER_S) {
    switchback_advance(&a, t, &d);
    switchback_advance(&b, t, &d);
    switchback_advance(&other, t, &d);
    assert_int_equal(switchback_treats(&a, t), switchback_treats(&b, t));
    differ += switchback_treats(&a, t) != switchback_treats(&other, t);
  }
  assert_in_range(differ, 7000, 13000);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_group_has_equal_blocks_and_one_treatment),
      cmocka_unit_test(the_first_fifth_is_carry_over_and_late_answers_still_count),
      cmocka_unit_test(a_group_that_ended_in_a_pause_gives_no_difference),
      cmocka_unit_test(the_calendar_replays_from_its_seed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
