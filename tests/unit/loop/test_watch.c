/* Incidents, in the simulated world. */

#include "steady.h"

static const struct anomaly_row *find(struct world *w, const char *metric, const char *provider) {
  struct recorder *r = world_recorder(w);
  for (size_t i = 0; i < recorder_anomaly_count(r); i++) {
    const struct anomaly_row *row = recorder_anomaly(r, i);
    if (strcmp(row->metric, metric) == 0 && row->provider && strcmp(row->provider, provider) == 0) return row;
  }
  return NULL;
}

static void a_calm_hour_has_no_incident_but_a_rare_false_one(void **state) {
  (void)state;
  struct world *w = make(false);
  world_run_until(w, 60 * MINUTE_NS);
  size_t count = recorder_anomaly_count(world_recorder(w));
  count -= find(w, "breaker", "hosted-new") != NULL; /* which is not there yet */
  assert_in_range(count, 0, 1);
  world_destroy(w);
}

static void an_outage_is_one_incident_of_the_breaker_from_its_begin_to_its_end(void **state) {
  (void)state;
  struct scenario_event *outage = &scenario->events[0];
  assert_int_equal(scenario_event_init(outage, "outage"), 0);
  outage->provider = 1;
  outage->at_ns = 30 * MINUTE_NS;
  outage->until_ns = 40 * MINUTE_NS;
  scenario->event_count = 1;
  struct world *w = make(false);
  int64_t begin_ms = world_wall_ms(w);
  world_run_until(w, 60 * MINUTE_NS);
  const struct anomaly_row *row = find(w, "breaker", scenario->providers[1].name);
  assert_non_null(row);
  assert_in_range(row->opened_ms - begin_ms, 30 * 60000, 31 * 60000);
  assert_in_range(row->closed_ms - begin_ms, 40 * 60000, 45 * 60000);
  world_destroy(w);
  scenario->event_count = 0;
}

static void a_breaker_that_opens_again_and_again_is_one_incident(void **state) {
  (void)state;
  struct scenario_event *brownout = &scenario->events[0];
  assert_int_equal(scenario_event_init(brownout, "brownout"), 0);
  brownout->provider = 1;
  brownout->error_share = 0.5;
  brownout->at_ns = 30 * MINUTE_NS;
  brownout->until_ns = 50 * MINUTE_NS;
  scenario->event_count = 1;
  struct world *w = make(false);
  world_run_until(w, 60 * MINUTE_NS);
  struct recorder *r = world_recorder(w);
  struct counter_totals totals;
  unsigned incidents = 0;
  for (size_t i = 0; i < recorder_anomaly_count(r); i++) {
    const struct anomaly_row *row = recorder_anomaly(r, i);
    incidents +=
        strcmp(row->metric, "breaker") == 0 && strcmp(row->provider, scenario->providers[1].name) == 0;
  }
  world_counters(w, &totals);
  assert_true(totals.value[COUNTER_breaker_opened][1] >= 6);
  assert_in_range(incidents, 1, 2);
  world_destroy(w);
  scenario->event_count = 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_calm_hour_has_no_incident_but_a_rare_false_one),
      cmocka_unit_test(an_outage_is_one_incident_of_the_breaker_from_its_begin_to_its_end),
      cmocka_unit_test(a_breaker_that_opens_again_and_again_is_one_incident),
  };
  return cmocka_run_group_tests_name("watch", tests, open_data, close_data);
}
