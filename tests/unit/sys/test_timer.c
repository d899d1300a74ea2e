#include "sys/clock.h"
#include "sys/rng.h"
#include "sys/timer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { MANY = 500 };

static struct timers *timers;
static int64_t fired_at[8 * MANY], fired_due[8 * MANY];
static unsigned fired;

static void note_fire(struct timer *t, int64_t now_ns) {
  fired_due[fired] = t->due_ns;
  fired_at[fired++] = now_ns;
}

static int setup(void **state) {
  (void)state;
  timers = timers_create();
  fired = 0;
  return timers ? 0 : -1;
}

static int teardown(void **state) {
  (void)state;
  timers_destroy(timers);
  return 0;
}

static void timers_fire_in_order_of_due_time_however_they_were_armed(void **state) {
  (void)state;
  struct timer t[MANY] = {0};
  struct rng rng;
  rng_seed(&rng, 3, 0);
  for (int i = 0; i < MANY; i++)
    t[i].fire = note_fire;
  for (int i = 0; i < 4 * MANY; i++) {
    struct timer *one = &t[rng_below(&rng, MANY)];
    if (rng_below(&rng, 4) == 0)
      timer_disarm(timers, one);
    else
      timer_arm(timers, one, (int64_t)rng_below(&rng, 1000));
  }
  unsigned armed = 0;
  for (int i = 0; i < MANY; i++)
    armed += t[i].slot != 0;
  timers_run(timers, 1000);
  assert_int_equal(fired, armed);
  for (unsigned i = 1; i < fired; i++)
    assert_true(fired_due[i - 1] <= fired_due[i]);
  assert_true(timers_next_ns(timers) == NS_NEVER);
}

static void equal_times_fire_in_the_order_of_arming(void **state) {
  (void)state;
  struct timer t[MANY] = {0};
  for (int i = 0; i < MANY; i++)
    t[i].fire = note_fire;
  for (int i = MANY - 1; i >= 0; i--)
    timer_arm(timers, &t[i], 5);
  uint64_t order = 0;
  while (timers_next_ns(timers) == 5) {
    struct timer *next = NULL;
    for (int i = 0; i < MANY; i++)
      if (t[i].slot == 1) next = &t[i];
    assert_non_null(next);
    assert_true(next->order >= order);
    order = next->order;
    timer_disarm(timers, next);
  }
}

static void what_is_not_due_stays_armed(void **state) {
  (void)state;
  struct timer t = {.fire = note_fire};
  timer_arm(timers, &t, 10);
  timers_run(timers, 9);
  assert_int_equal(fired, 0);
  assert_int_equal(timers_next_ns(timers), 10);
  timer_arm(timers, &t, 20);
  timers_run(timers, 19);
  assert_int_equal(fired, 0);
  timers_run(timers, 25);
  assert_int_equal(fired, 1);
  assert_int_equal(fired_at[0], 25);
}

static void rearm(struct timer *t, int64_t now_ns) {
  if (++fired < 3) timer_arm(timers, t, now_ns);
}

static void a_callback_may_arm_its_own_timer_again(void **state) {
  (void)state;
  struct timer t = {.fire = rearm};
  timer_arm(timers, &t, 1);
  timers_run(timers, 1);
  assert_int_equal(fired, 3);
}

static void equal_seeds_draw_equal_numbers_and_streams_differ(void **state) {
  (void)state;
  struct rng a, b, c;
  rng_seed(&a, 9, 1);
  rng_seed(&b, 9, 1);
  rng_seed(&c, 9, 2);
  unsigned same = 0;
  for (int i = 0; i < 1000; i++) {
    uint64_t x = rng_u64(&a);
    assert_true(x == rng_u64(&b));
    same += x == rng_u64(&c);
  }
  assert_int_equal(same, 0);
}

static void variates_have_their_moments(void **state) {
  (void)state;
  struct rng r;
  double normal = 0, square = 0, exponential = 0, uniform = 0;
  rng_seed(&r, 4, 0);
  for (int i = 0; i < 200000; i++) {
    double z = rng_normal(&r);
    normal += z;
    square += z * z;
    exponential += rng_exponential(&r, 3);
    uniform += rng_uniform(&r);
  }
  assert_true(normal / 200000 > -0.01 && normal / 200000 < 0.01);
  assert_true(square / 200000 > 0.98 && square / 200000 < 1.02);
  assert_true(exponential / 200000 > 2.95 && exponential / 200000 < 3.05);
  assert_true(uniform / 200000 > 0.495 && uniform / 200000 < 0.505);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(timers_fire_in_order_of_due_time_however_they_were_armed, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(equal_times_fire_in_the_order_of_arming, setup, teardown),
      cmocka_unit_test_setup_teardown(what_is_not_due_stays_armed, setup, teardown),
      cmocka_unit_test_setup_teardown(a_callback_may_arm_its_own_timer_again, setup, teardown),
      cmocka_unit_test(equal_seeds_draw_equal_numbers_and_streams_differ),
      cmocka_unit_test(variates_have_their_moments),
  };
  return cmocka_run_group_tests_name("timer and rng", tests, NULL, NULL);
}
