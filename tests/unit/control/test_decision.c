#include "control/decision.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void wish_for_the_value_in_force_is_no_change(void **state) {
  (void)state;
  struct decision d;
  decision_wish(&d, 5, 5, "same");
  assert_false(d.change);
  decision_wish(&d, 5, 6, "from %d to %d", 5, 6);
  assert_true(d.change);
  assert_false(d.blind);
  assert_true(d.value == 6);
  assert_string_equal(d.reason, "from 5 to 6");
}

static void keep_and_blind_leave_the_value_in_force(void **state) {
  (void)state;
  struct decision d;
  decision_keep(&d, 5, "fits");
  assert_false(d.change || d.blind);
  assert_true(d.value == 5);
  decision_blind(&d, 7, "unknown");
  assert_false(d.change);
  assert_true(d.blind);
  assert_true(d.value == 7);
}

static void long_reasons_are_cut(void **state) {
  (void)state;
  struct decision d;
  char text[1000];
  memset(text, 'x', sizeof text - 1);
  text[sizeof text - 1] = 0;
  decision_keep(&d, 5, "%s", text);
  assert_int_equal(strlen(d.reason), REASON_SIZE - 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(wish_for_the_value_in_force_is_no_change),
      cmocka_unit_test(keep_and_blind_leave_the_value_in_force),
      cmocka_unit_test(long_reasons_are_cut),
  };
  return cmocka_run_group_tests_name("decision", tests, NULL, NULL);
}
