#include "control/anomaly.h"

#include "sys/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static const struct anomaly_settings latency = {.name = "ttft of local",
                                                .unit = "ms",
                                                .transform = ANOMALY_LOG,
                                                .direction = ANOMALY_RISE,
                                                .floor = 0.05,
                                                .critical = 0.5,
                                                .close_after = 30,
                                                .accept_after = 3600};
static const struct anomaly_settings plain = {
    .name = "p95", .unit = "ms", .floor = 1, .critical = 0.5, .close_after = 30, .accept_after = 3600};
static const struct anomaly_settings count = {.name = "sheds",
                                              .unit = "requests",
                                              .transform = ANOMALY_COUNT,
                                              .critical = 1,
                                              .close_after = 30,
                                              .accept_after = 3600};
static const struct anomaly_settings errors = {.name = "errors of local",
                                               .transform = ANOMALY_RATE,
                                               .direction = ANOMALY_RISE,
                                               .critical = 0.1,
                                               .close_after = 30,
                                               .accept_after = 3600};
static const struct anomaly_settings hits = {.name = "hits",
                                             .transform = ANOMALY_RATE,
                                             .direction = ANOMALY_FALL,
                                             .critical = 0.1,
                                             .close_after = 30,
                                             .accept_after = 3600};

static double poisson(struct rng *rng, double mean) {
  double limit = exp(-mean), product = rng_uniform(rng);
  int n = 0;
  for (; product > limit; n++)
    product *= rng_uniform(rng);
  return n;
}

static double binomial(struct rng *rng, int trials, double p) {
  int n = 0;
  for (int i = 0; i < trials; i++)
    n += rng_uniform(rng) < p;
  return n;
}

/* Healthy sources: each returns the sample of one tick. */
static double normal(struct rng *rng, double *memory) {
  (void)memory;
  return 200 + 20 * rng_normal(rng);
}

static double lognormal(struct rng *rng, double *memory) {
  (void)memory;
  return 150 * exp(0.5 * rng_normal(rng));
}

static double counts(struct rng *rng, double *memory) {
  (void)memory;
  return poisson(rng, 5);
}

static double rare_counts(struct rng *rng, double *memory) {
  (void)memory;
  return poisson(rng, 0.2);
}

static double correlated(struct rng *rng, double *memory) {
  *memory = 0.9 * *memory + sqrt(1 - 0.81) * rng_normal(rng);
  return 200 + 20 * *memory;
}

/* Seeds of 100 with an alarm in `ticks`. */
static int false_alarms(double (*source)(struct rng *, double *), const struct anomaly_settings *s,
                        int ticks) {
  int seeds = 0;
  for (uint64_t seed = 1; seed <= 100; seed++) {
    struct rng rng;
    struct anomaly a;
    double memory = 0;
    bool alarm = false;
    rng_seed(&rng, seed, 1);
    anomaly_init(&a);
    for (int i = 0; i < ticks; i++)
      alarm |= anomaly_update(&a, s, source(&rng, &memory)) == ANOMALY_OPENED;
    seeds += alarm;
  }
  return seeds;
}

static void healthy_metrics_do_not_alarm_in_720_ticks(void **state) {
  (void)state;
  assert_true(false_alarms(normal, &plain, 720) <= 1);
  assert_true(false_alarms(lognormal, &latency, 720) <= 1);
  assert_true(false_alarms(counts, &count, 720) <= 1);
  assert_true(false_alarms(rare_counts, &count, 720) <= 1);
  assert_true(false_alarms(correlated, &plain, 720) <= 1);
}

static void healthy_metrics_alarm_at_most_five_times_in_a_million_ticks(void **state) {
  (void)state;
  assert_true(false_alarms(normal, &plain, 10000) <= 5);
  assert_true(false_alarms(lognormal, &latency, 10000) <= 5);
  assert_true(false_alarms(counts, &count, 10000) <= 5);
  assert_true(false_alarms(correlated, &plain, 10000) <= 5);
}

static void threshold_gives_the_run_length_that_was_asked_for(void **state) {
  (void)state;
  assert_true(fabs(anomaly_threshold(0.5, 1e6) - 12.65) < 0.01);
  struct rng rng;
  rng_seed(&rng, 1, 1);
  double h = anomaly_threshold(0.5, 1000), total = 0;
  for (int run = 0; run < 2000; run++)
    for (double up = 0, down = 0; up < h && down < h; total++) {
      double z = rng_normal(&rng);
      up = fmax(0, up + z - 0.5);
      down = fmax(0, down - z - 0.5);
    }
  assert_true(total / 2000 > 850 && total / 2000 < 1150);
}

/* A detector that has seen `ticks` of N(200, 20). */
static struct anomaly trained(const struct anomaly_settings *s, struct rng *rng, int ticks) {
  struct anomaly a;
  anomaly_init(&a);
  for (int i = 0; i < ticks; i++)
    anomaly_update(&a, s, 200 + 20 * rng_normal(rng));
  return a;
}

static void step_of_half_is_found_in_ten_ticks_and_critical_in_twenty(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= 50; seed++) {
    struct rng rng;
    rng_seed(&rng, seed, 2);
    struct anomaly a = trained(&latency, &rng, 600);
    int opened = -1, worsened = -1;
    for (int i = 1; i <= 20; i++) {
      enum anomaly_event event = anomaly_update(&a, &latency, 320 + 20 * rng_normal(&rng));
      if (event == ANOMALY_OPENED) opened = i;
      if (event == ANOMALY_WORSENED) worsened = i;
    }
    assert_true(opened > 0 && opened <= 10);
    assert_true(worsened > opened);
    assert_int_equal(a.severity, ANOMALY_CRITICAL);
  }
}

static void shift_of_one_deviation_is_found_within_a_hundred_ticks(void **state) {
  (void)state;
  int late = 0;
  for (uint64_t seed = 1; seed <= 50; seed++) {
    struct rng rng;
    rng_seed(&rng, seed, 3);
    struct anomaly a = trained(&plain, &rng, 3600);
    int i = 0;
    while (i < 400 && anomaly_update(&a, &plain, 220 + 20 * rng_normal(&rng)) != ANOMALY_OPENED)
      i++;
    late += i >= 100;
  }
  assert_true(late <= 2);
}

static void tenfold_ramp_over_half_an_hour_is_found_before_it_has_doubled(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= 50; seed++) {
    struct rng rng;
    rng_seed(&rng, seed, 4);
    struct anomaly a = trained(&latency, &rng, 3600);
    int i = 0;
    double level = 200;
    while (i < 1800 && anomaly_update(&a, &latency, level * (1 + 0.1 * rng_normal(&rng))) != ANOMALY_OPENED)
      level = 200 * pow(10, ++i / 1800.0);
    assert_true(level < 400);
  }
}

static void hit_rate_that_sinks_over_a_hundred_minutes_is_found(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= 20; seed++) {
    struct rng rng;
    struct anomaly a;
    rng_seed(&rng, seed, 5);
    anomaly_init(&a);
    for (int i = 0; i < 3600; i++)
      assert_int_equal(anomaly_rate_update(&a, &hits, binomial(&rng, 5, 0.3), 5), ANOMALY_QUIET);
    int i = 0;
    double rate = 0.3;
    while (i < 6000 && anomaly_rate_update(&a, &hits, binomial(&rng, 5, rate), 5) != ANOMALY_OPENED)
      rate = 0.3 - 0.24 * ++i / 6000;
    assert_true(rate > 0.15);
  }
}

static void one_tick_of_failures_alarms_on_a_flat_zero_rate(void **state) {
  (void)state;
  struct anomaly a;
  anomaly_init(&a);
  for (int i = 0; i < 1000; i++)
    assert_int_equal(anomaly_rate_update(&a, &errors, 0, 5), ANOMALY_QUIET);
  assert_int_equal(anomaly_rate_update(&a, &errors, 1, 5), ANOMALY_QUIET);
  for (int i = 0; i < 100; i++)
    assert_int_equal(anomaly_rate_update(&a, &errors, 0, 5), ANOMALY_QUIET);
  assert_int_equal(anomaly_rate_update(&a, &errors, 5, 5), ANOMALY_OPENED);
  assert_true(a.spike);
  assert_int_equal(a.severity, ANOMALY_WARNING);
}

static void one_tick_spike_alarms_on_a_flat_zero_metric(void **state) {
  (void)state;
  struct anomaly a;
  anomaly_init(&a);
  for (int i = 0; i < 1000; i++)
    assert_int_equal(anomaly_update(&a, &count, 0), ANOMALY_QUIET);
  assert_int_equal(anomaly_update(&a, &count, 30), ANOMALY_OPENED);
  anomaly_init(&a);
  for (int i = 0; i < 1000; i++)
    assert_int_equal(anomaly_update(&a, &plain, 0), ANOMALY_QUIET);
  assert_int_equal(anomaly_update(&a, &plain, 100), ANOMALY_OPENED);
}

static void a_tenth_of_failures_is_found_within_a_minute_at_five_a_second(void **state) {
  (void)state;
  int late = 0;
  for (uint64_t seed = 1; seed <= 50; seed++) {
    struct rng rng;
    struct anomaly a;
    rng_seed(&rng, seed, 6);
    anomaly_init(&a);
    for (int i = 0; i < 3600; i++)
      anomaly_rate_update(&a, &errors, binomial(&rng, 5, 0.002), 5);
    int i = 0;
    while (i < 600 && anomaly_rate_update(&a, &errors, binomial(&rng, 5, 0.1), 5) != ANOMALY_OPENED)
      i++;
    late += i >= 60;
  }
  assert_true(late <= 5);
}

static void healthy_rates_under_bursty_traffic_do_not_alarm(void **state) {
  (void)state;
  static const double rates[] = {0, 0.001, 0.01, 0.05, 0.3};
  int alarms = 0;
  for (uint64_t seed = 1; seed <= 20; seed++)
    for (int k = 0; k < 5; k++) {
      struct rng rng;
      struct anomaly a;
      bool burst = false;
      rng_seed(&rng, seed, 7);
      anomaly_init(&a);
      for (int i = 0; i < 7200; i++) {
        if (rng_below(&rng, 30) == 0) burst = !burst;
        int trials = (int)poisson(&rng, burst ? 9 : 1);
        alarms +=
            anomaly_rate_update(&a, &errors, binomial(&rng, trials, rates[k]), trials) == ANOMALY_OPENED;
      }
    }
  assert_true(alarms <= 1);
}

static void missing_data_hold_everything(void **state) {
  (void)state;
  struct rng rng;
  rng_seed(&rng, 1, 8);
  struct anomaly a = trained(&latency, &rng, 600), before = a;
  static const double missing[] = {NAN, INFINITY, -INFINITY, 0, -5};
  for (int i = 0; i < 3600; i++)
    assert_int_equal(anomaly_update(&a, &latency, missing[i % 5]), ANOMALY_QUIET);
  assert_memory_equal(&a, &before, sizeof a);
  for (int i = 0; i < 3600; i++) {
    assert_int_equal(anomaly_rate_update(&a, &errors, 0, 0), ANOMALY_QUIET);
    assert_int_equal(anomaly_rate_update(&a, &errors, 3, 2), ANOMALY_QUIET);
    assert_int_equal(anomaly_rate_update(&a, &errors, NAN, 2), ANOMALY_QUIET);
  }
  assert_memory_equal(&a, &before, sizeof a);
}

static void incident_opens_once_and_closes_after_a_calm_stretch(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed <= 20; seed++) {
    struct rng rng;
    rng_seed(&rng, seed, 9);
    struct anomaly a = trained(&latency, &rng, 600);
    int opened = 0, worsened = 0, closed = 0, closed_at = 0;
    for (int i = 0; i < 600; i++) {
      double level = i < 120 ? 600 : 200;
      enum anomaly_event event = anomaly_update(&a, &latency, level + 20 * rng_normal(&rng));
      opened += event == ANOMALY_OPENED;
      worsened += event == ANOMALY_WORSENED;
      if (event == ANOMALY_CLOSED) closed_at = i;
      closed += event == ANOMALY_CLOSED;
    }
    assert_int_equal(opened, 1);
    assert_int_equal(worsened, 1);
    assert_int_equal(closed, 1);
    assert_true(closed_at >= 150 && closed_at <= 200);
    assert_false(a.accepted);
  }
}

static void change_that_lasts_becomes_the_new_normal(void **state) {
  (void)state;
  struct rng rng;
  rng_seed(&rng, 1, 10);
  struct anomaly a = trained(&latency, &rng, 600);
  int opened = 0, closed = 0;
  for (int i = 0; i < 7200; i++) {
    enum anomaly_event event = anomaly_update(&a, &latency, 400 + 20 * rng_normal(&rng));
    opened += event == ANOMALY_OPENED;
    closed += event == ANOMALY_CLOSED;
  }
  assert_int_equal(opened, 1);
  assert_int_equal(closed, 1);
  assert_true(fabs(exp(a.reference.centre) - 400) < 10);
}

static void good_news_is_no_incident(void **state) {
  (void)state;
  struct rng rng;
  rng_seed(&rng, 1, 11);
  struct anomaly a = trained(&latency, &rng, 600);
  for (int i = 0; i < 3600; i++)
    assert_int_equal(anomaly_update(&a, &latency, 50 + 5 * rng_normal(&rng)), ANOMALY_QUIET);
}

static void relearning_closes_and_accepts_the_new_level_in_silence(void **state) {
  (void)state;
  struct rng rng;
  rng_seed(&rng, 1, 12);
  struct anomaly a = trained(&latency, &rng, 600);
  for (int i = 0; i < 60; i++)
    anomaly_update(&a, &latency, 600 + 20 * rng_normal(&rng));
  assert_int_equal(a.severity, ANOMALY_CRITICAL);
  anomaly_relearn(&a);
  assert_int_equal(anomaly_update(&a, &latency, 600), ANOMALY_CLOSED);
  for (int i = 0; i < 600; i++)
    assert_int_equal(anomaly_update(&a, &latency, 600 + 20 * rng_normal(&rng)), ANOMALY_QUIET);
}

static void metric_that_swings_by_itself_alarms_ever_less(void **state) {
  (void)state;
  int alarms = 0;
  for (uint64_t seed = 1; seed <= 20; seed++) {
    struct rng rng;
    struct anomaly a;
    rng_seed(&rng, seed, 13);
    anomaly_init(&a);
    bool high = false;
    for (int i = 0; i < 43200; i++) {
      if (rng_below(&rng, 100) == 0) high = !high;
      alarms += anomaly_update(&a, &count, poisson(&rng, high ? 15 : 5)) == ANOMALY_OPENED;
    }
  }
  assert_true(alarms <= 100); /* 20 half days */
}

static void message_names_value_and_expectation(void **state) {
  (void)state;
  struct anomaly a;
  char text[160];
  anomaly_init(&a);
  for (int i = 0; i < 200; i++)
    anomaly_rate_update(&a, &errors, 0, 20);
  assert_int_equal(anomaly_rate_update(&a, &errors, 10, 20), ANOMALY_OPENED);
  anomaly_message(&a, &errors, text, sizeof text);
  assert_non_null(strstr(text, "errors of local rose: 50 %, usually 0 %"));
}

/* A share that rises a little at each block: the tick that fills the block may be a good one. */
static void message_of_a_slow_rise_names_the_block_and_not_its_last_tick(void **state) {
  (void)state;
  struct anomaly a;
  char text[160];
  anomaly_init(&a);
  for (int i = 0; i < 4 * 200; i++)
    anomaly_rate_update(&a, &errors, 0, 5);
  enum anomaly_event event = ANOMALY_QUIET;
  for (int i = 0; i < 400 && event != ANOMALY_OPENED; i++)
    event = anomaly_rate_update(&a, &errors, i % 4 == 0, 5);
  assert_int_equal(event, ANOMALY_OPENED);
  assert_false(a.spike);
  anomaly_message(&a, &errors, text, sizeof text);
  assert_non_null(strstr(text, "errors of local rose: 5 %, usually 0"));
}

static void change_too_small_to_matter_is_learned_in_silence(void **state) {
  (void)state;
  struct anomaly_settings s = latency;
  s.least = 0.5;
  struct rng rng;
  struct anomaly a;
  rng_seed(&rng, 1, 15);
  anomaly_init(&a);
  for (int i = 0; i < 20000; i++)
    assert_int_equal(anomaly_update(&a, &s, (i < 2000 ? 100 : 130) * exp(0.05 * rng_normal(&rng))),
                     ANOMALY_QUIET);
  assert_true(fabs(exp(a.reference.centre) - 130) < 5);
  int late = 0;
  while (late < 100 && anomaly_update(&a, &s, 260) != ANOMALY_OPENED)
    late++;
  assert_true(late < 20);
}

static void spike_of_few_samples_is_no_incident(void **state) {
  (void)state;
  struct anomaly a, thin;
  struct rng rng;
  rng_seed(&rng, 1, 16);
  anomaly_init(&a);
  anomaly_init(&thin);
  for (int i = 0; i < 1000; i++) {
    double value = 100 * exp(0.1 * rng_normal(&rng));
    anomaly_update(&a, &latency, value);
    anomaly_thin_update(&thin, &latency, value);
  }
  assert_int_equal(anomaly_thin_update(&thin, &latency, 9000), ANOMALY_QUIET);
  assert_int_equal(anomaly_update(&a, &latency, 9000), ANOMALY_OPENED);
  int late = 0;
  while (late < 100 && anomaly_thin_update(&thin, &latency, 200) != ANOMALY_OPENED)
    late++;
  assert_true(late < 20);
}

static void update_takes_microseconds_at_most(void **state) {
  (void)state;
  enum { UPDATES = 200000 };
  struct rng rng;
  struct anomaly a;
  struct timespec start, end;
  rng_seed(&rng, 1, 14);
  anomaly_init(&a);
  static double values[UPDATES];
  for (int i = 0; i < UPDATES; i++)
    values[i] = 150 * exp(0.5 * rng_normal(&rng));
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);
  for (int i = 0; i < UPDATES; i++)
    anomaly_update(&a, &latency, values[i]);
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
  double ns = ((double)(end.tv_sec - start.tv_sec) * 1e9 + (double)(end.tv_nsec - start.tv_nsec)) / UPDATES;
  print_message("%.0f ns an update\n", ns);
  assert_true(ns < 20000); /* wide, for sanitizers and valgrind; the figure is printed */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(healthy_metrics_do_not_alarm_in_720_ticks),
      cmocka_unit_test(healthy_metrics_alarm_at_most_five_times_in_a_million_ticks),
      cmocka_unit_test(threshold_gives_the_run_length_that_was_asked_for),
      cmocka_unit_test(step_of_half_is_found_in_ten_ticks_and_critical_in_twenty),
      cmocka_unit_test(shift_of_one_deviation_is_found_within_a_hundred_ticks),
      cmocka_unit_test(tenfold_ramp_over_half_an_hour_is_found_before_it_has_doubled),
      cmocka_unit_test(hit_rate_that_sinks_over_a_hundred_minutes_is_found),
      cmocka_unit_test(one_tick_of_failures_alarms_on_a_flat_zero_rate),
      cmocka_unit_test(one_tick_spike_alarms_on_a_flat_zero_metric),
      cmocka_unit_test(a_tenth_of_failures_is_found_within_a_minute_at_five_a_second),
      cmocka_unit_test(healthy_rates_under_bursty_traffic_do_not_alarm),
      cmocka_unit_test(missing_data_hold_everything),
      cmocka_unit_test(incident_opens_once_and_closes_after_a_calm_stretch),
      cmocka_unit_test(change_that_lasts_becomes_the_new_normal),
      cmocka_unit_test(good_news_is_no_incident),
      cmocka_unit_test(relearning_closes_and_accepts_the_new_level_in_silence),
      cmocka_unit_test(metric_that_swings_by_itself_alarms_ever_less),
      cmocka_unit_test(message_names_value_and_expectation),
      cmocka_unit_test(message_of_a_slow_rise_names_the_block_and_not_its_last_tick),
      cmocka_unit_test(change_too_small_to_matter_is_learned_in_silence),
      cmocka_unit_test(spike_of_few_samples_is_no_incident),
      cmocka_unit_test(update_takes_microseconds_at_most),
  };
  return cmocka_run_group_tests_name("anomaly", tests, NULL, NULL);
}
