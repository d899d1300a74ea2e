#include "scratch.h"

#include "sys/clock.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define MINUTE_NS (60 * NS_PER_S)
#define HOSTED                                                                                               \
  "[[provider]]\nname = \"h\"\nkind = \"hosted\"\nmodel = \"small\"\nttft_median_ms = 100\ntpot_ms = 10\n"   \
  "usd_per_m_in = 1\nusd_per_m_out = 2\n"

static char error[512];

static void refuses(const char *text, const char *where, const char *what) {
  error[0] = '\0';
  assert_null(scratch_scenario(text, 1, error, sizeof error));
  if (!strstr(error, where) || !strstr(error, what)) print_error("said: %s\n", error);
  assert_non_null(strstr(error, where));
  assert_non_null(strstr(error, what));
}

static void the_week_is_read_whole(void **state) {
  (void)state;
  struct scenario *s = scenario_load("data/scenarios/week.toml", 1, error, sizeof error);
  assert_non_null(s);
  assert_string_equal(s->name, "week");
  assert_int_equal(s->length_ns, 7 * 24 * 60 * MINUTE_NS);
  assert_int_equal(s->provider_count, 6); /* five and the newcomer */
  assert_int_equal(s->event_count, 11);
  assert_int_equal(s->class_count, 3);
  assert_float_equal(s->providers[0].slots, 16, 0);
  assert_float_equal(s->providers[4].price.out, 10, 0);
  assert_float_equal(s->lambda_per_usd, 5, 0);
  scenario_destroy(s);
}

static void newcomer_has_a_third_of_the_dearest_price_and_the_next_ones_limits(void **state) {
  (void)state;
  struct scenario *s = scenario_load("data/scenarios/week.toml", 1, error, sizeof error);
  int i = scenario_find_provider(s, "hosted-new");
  assert_int_equal(i, 5);
  const struct scenario_provider *p = &s->providers[i];
  assert_true(p->newcomer);
  assert_float_equal(p->price.in, 1.25 / 3, 1e-9);
  assert_float_equal(p->price.out, 10.0 / 3, 1e-9);
  assert_float_equal(p->ttft_median_ms, 500, 0);
  assert_float_equal(p->requests_per_min, 300, 0);
  assert_string_equal(s->models[p->model_index].name, "hosted-new");
  assert_string_equal(s->models[p->model_index].like, "dear");
  scenario_destroy(s);
}

static void base_gives_everything_but_events(void **state) {
  (void)state;
  struct scenario *s = scenario_load("data/scenarios/closed-quality.toml", 1, error, sizeof error);
  assert_non_null(s);
  assert_int_equal(s->length_ns, 120 * MINUTE_NS);
  assert_int_equal(s->provider_count, 5);
  assert_int_equal(s->event_count, 1);
  assert_int_equal(s->events[0].kind, EVENT_QUALITY_RAMP);
  assert_int_equal(s->events[0].class_index, ANY_INDEX);
  assert_int_equal(s->events[0].model, scenario_find_model(s, "middle"));
  assert_float_equal(s->events[0].delta, -0.30, 1e-12);
  assert_float_equal(s->explicit_share, 0.20, 0);
  assert_float_equal(s->noise_sigma, 0.1, 0);
  assert_string_equal(s->daily_shape, "flat");
  scenario_destroy(s);
}

static void event_times_fall_in_their_window_and_depend_on_the_seed(void **state) {
  (void)state;
  int64_t first = 0;
  bool moved = false;
  for (uint64_t seed = 1; seed <= 20; seed++) {
    struct scenario *s = scenario_load("data/scenarios/closed-capacity.toml", seed, error, sizeof error);
    int64_t at = s->events[0].at_ns;
    assert_in_range(at, 40 * MINUTE_NS, 60 * MINUTE_NS);
    assert_int_equal(s->events[0].until_ns - at, 60 * MINUTE_NS);
    moved |= seed > 1 && at != first;
    first = at;
    scenario_destroy(s);
  }
  assert_true(moved);
}

static void same_seed_gives_same_times(void **state) {
  (void)state;
  struct scenario *a = scenario_load("data/scenarios/week.toml", 7, error, sizeof error);
  struct scenario *b = scenario_load("data/scenarios/week.toml", 7, error, sizeof error);
  for (unsigned i = 0; i < a->event_count; i++)
    assert_int_equal(a->events[i].at_ns, b->events[i].at_ns);
  scenario_destroy(a);
  scenario_destroy(b);
}

static void unknown_keys_are_errors_with_their_line(void **state) {
  (void)state;
  refuses("[run]\nhours = 1\nmean_rsp = 3\n" HOSTED, ":3: ", "mean_rsp");
  refuses("[targets]\nttft = 3\n" HOSTED, ":2: ", "ttft_ms");
  refuses("[runs]\nhours = 1\n" HOSTED, ":1: ", "runs");
}

static void values_out_of_range_are_errors_with_what_is_allowed(void **state) {
  (void)state;
  refuses("[run]\nstream_share = 1.5\n" HOSTED, ":2: ", "from 0 to 1");
  refuses("[run]\nmean_rps = \"many\"\n" HOSTED, ":2: ", "number");
  refuses("[run]\npriorities = { critical = 0.5, high = 0.2 }\n" HOSTED, ":2: ", "sum to 1");
}

static void a_provider_must_be_complete(void **state) {
  (void)state;
  refuses("[[provider]]\nname = \"x\"\nmodel = \"small\"\n", ":1: ", "kind");
  refuses("[[provider]]\nname = \"x\"\nmodel = \"small\"\nkind = \"server\"\nusd_per_m_in = 1\nusd_per_m_out "
          "= 1\n",
          ":1: ", "needs slots");
  refuses(HOSTED HOSTED, ":9: ", "two providers");
  refuses("[run]\nhours = 1\n", "", "at least one");
}

static void events_must_name_what_exists(void **state) {
  (void)state;
  refuses(HOSTED "[[event]]\nfrom_min = 1\nwhat = \"outage\"\nprovider = \"nobody\"\n", ":9: ", "nobody");
  refuses(HOSTED "[[event]]\nfrom_min = 1\nwhat = \"flood\"\n", ":9: ", "one of");
  refuses(HOSTED "[[event]]\nwhat = \"outage\"\n", ":9: ", "from_min");
  refuses(HOSTED "[[event]]\nfrom_min = 9\nto_min = 1\nwhat = \"outage\"\n", ":9: ", "before it begins");
}

static void a_missing_base_is_an_error(void **state) {
  (void)state;
  refuses("base = \"no-such-file.toml\"\n", "no-such-file.toml", "");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_week_is_read_whole),
      cmocka_unit_test(newcomer_has_a_third_of_the_dearest_price_and_the_next_ones_limits),
      cmocka_unit_test(base_gives_everything_but_events),
      cmocka_unit_test(event_times_fall_in_their_window_and_depend_on_the_seed),
      cmocka_unit_test(same_seed_gives_same_times),
      cmocka_unit_test(unknown_keys_are_errors_with_their_line),
      cmocka_unit_test(values_out_of_range_are_errors_with_what_is_allowed),
      cmocka_unit_test(a_provider_must_be_complete),
      cmocka_unit_test(events_must_name_what_exists),
      cmocka_unit_test(a_missing_base_is_an_error),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
