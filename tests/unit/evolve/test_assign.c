#include "bus/tunables.h"
#include "evolve/assign.h"
#include "sys/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { FIRST = 1000, LAST = 2000 };

static uint64_t user(int number) {
  char text[32];
  int n = snprintf(text, sizeof text, "user-%d", number);
  return hash_bytes(text, (uint64_t)n, 0);
}

static double chi_square(double seen, double expected, double n) {
  double off = seen - expected;
  return off * off / expected + off * off / (n - expected);
}

/* 10.83 is the 0.1 % point of chi-square with one degree of freedom. */
static void sequential_ids_split_evenly(void **state) {
  (void)state;
  for (int64_t id = 1; id <= 20; id++) {
    uint64_t salt = assign_salt(42, id);
    int treated = 0;
    for (int i = FIRST; i < LAST; i++)
      treated += assign_treats(user(i), salt, 0.5);
    assert_true(chi_square(treated, 500, 1000) < 10.83);
  }
}

static void bare_numbers_split_evenly_in_every_block_of_a_hundred(void **state) {
  (void)state;
  uint64_t salt = assign_salt(42, 7);
  for (int block = FIRST; block < LAST; block += 100) {
    int treated = 0;
    for (int i = block; i < block + 100; i++)
      treated += assign_treats((uint64_t)i, salt, 0.5);
    assert_in_range(treated, 33, 67);
  }
}

static void small_shares_are_kept(void **state) {
  (void)state;
  int treated = 0;
  for (int i = 0; i < 100000; i++)
    treated += assign_treats((uint64_t)i, assign_salt(1, 1), 0.1);
  assert_true(chi_square(treated, 10000, 100000) < 10.83);
}

static void experiments_are_independent_of_each_other(void **state) {
  (void)state;
  int both = 0, n = 20000;
  for (int i = 0; i < n; i++)
    both +=
        assign_treats(user(i), assign_salt(42, 1), 0.5) && assign_treats(user(i), assign_salt(42, 2), 0.5);
  assert_true(chi_square(both, n / 4.0, n) < 10.83);
  assert_true(assign_salt(42, 1) != assign_salt(42, 2));
  assert_true(assign_salt(42, 1) != assign_salt(43, 1));
}

static void agrees_with_what_the_shards_read(void **state) {
  (void)state;
  static struct tunables t;
  tunables_init(&t);
  uint64_t salt = assign_salt(9, 3);
  tunables_treat(&t, TUNABLE_retry_attempts, 1, salt, 0.3);
  for (int i = 0; i < 5000; i++)
    assert_int_equal(tunables_treats(&t, user(i)), assign_treats(user(i), salt, 0.3));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(sequential_ids_split_evenly),
      cmocka_unit_test(bare_numbers_split_evenly_in_every_block_of_a_hundred),
      cmocka_unit_test(small_shares_are_kept),
      cmocka_unit_test(experiments_are_independent_of_each_other),
      cmocka_unit_test(agrees_with_what_the_shards_read),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
