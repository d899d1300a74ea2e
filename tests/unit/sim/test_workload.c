#include "sim/dataset.h"
#include "sim/scenario.h"
#include "sim/workload.h"
#include "sys/clock.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct world {
  struct scenario *scenario;
  struct dataset *data;
};

static char error[512];

static struct world open_world(const char *file) {
  struct world w = {.scenario = scenario_load(file, 1, error, sizeof error)};
  if (w.scenario) w.data = dataset_load(w.scenario, "data", 1, error, sizeof error);
  if (!w.data) fail_msg("%s", error);
  return w;
}

static void close_world(struct world *w) {
  dataset_destroy(w->data);
  scenario_destroy(w->scenario);
}

static void data_are_as_their_readme_says(void **state) {
  (void)state;
  struct world w = open_world("data/scenarios/week.toml");
  const double means[] = {0.7931, 0.9231, 0.9322};
  assert_int_equal(w.data->prompt_count, 1824);
  assert_int_equal(w.data->lengths_count, 19366);
  for (unsigned m = 0; m < 3; m++) {
    double sum = 0;
    for (size_t i = 0; i < w.data->prompt_count; i++)
      sum += w.data->prompts[i].quality[w.data->model_column[m]];
    assert_float_equal(sum / 1824, means[m], 1e-4);
  }
  assert_int_equal(w.data->shape_count, 1008);
  close_world(&w);
}

static void prompts_are_found_by_their_text(void **state) {
  (void)state;
  struct world w = open_world("data/scenarios/week.toml");
  for (size_t i = 0; i < w.data->prompt_count; i += 97) {
    const struct dataset_prompt *p = &w.data->prompts[i];
    long found = dataset_find_prompt(w.data, p->text, p->size);
    assert_true(found >= 0);
    assert_int_equal(w.data->prompts[found].size, p->size);
    assert_memory_equal(w.data->prompts[found].text, p->text, p->size);
  }
  assert_true(dataset_find_prompt(w.data, "never asked", 11) < 0);
  close_world(&w);
}

static void missing_data_name_the_file(void **state) {
  (void)state;
  struct scenario *s = scenario_load("data/scenarios/week.toml", 1, error, sizeof error);
  assert_null(dataset_load(s, "no-such-directory", 1, error, sizeof error));
  assert_non_null(strstr(error, "paretobandit_test_k3"));
  scenario_destroy(s);
}

/* Mean rate and coefficient of variation of the gaps. */
static void count_gaps(const struct world *w, uint64_t seed, double *rate, double *cv) {
  struct workload *load = workload_create(w->scenario, w->data, seed);
  struct intent in;
  double n = 0, sum = 0, squares = 0;
  int64_t before = -1;
  while (workload_next(load, &in)) {
    double gap = (double)(in.at_ns - before) / 1e9;
    if (before >= 0) {
      n++;
      sum += gap;
      squares += gap * gap;
    }
    before = in.at_ns;
  }
  double mean = sum / n;
  *rate = 1 / mean;
  *cv = sqrt(squares / n - mean * mean) / mean;
  workload_destroy(load);
}

static void arrivals_have_the_scenarios_rate_and_the_traces_variation(void **state) {
  (void)state;
  double rate, cv;
  struct world w = open_world("data/scenarios/closed-quality.toml");
  w.scenario->length_ns = 24 * 3600 * NS_PER_S;
  count_gaps(&w, 1, &rate, &cv);
  assert_float_equal(rate, 4.0, 0.04);
  assert_float_equal(cv, 1.09, 0.02); /* the conversation trace */
  close_world(&w);
}

static void bursty_gaps_are_bursty(void **state) {
  (void)state;
  double rate, cv;
  struct scenario *s = scenario_load("data/scenarios/closed-quality.toml", 1, error, sizeof error);
  strcpy(s->gaps, "azure_code");
  s->length_ns = 72 * 3600 * NS_PER_S;
  struct world w = {s, dataset_load(s, "data", 1, error, sizeof error)};
  assert_non_null(w.data);
  count_gaps(&w, 1, &rate, &cv);
  assert_float_equal(rate, 4.0, 0.4);
  assert_true(cv > 10 && cv < 16); /* the code trace: 13.15 */
  close_world(&w);
}

static void a_flash_crowd_multiplies_the_rate_while_it_lasts(void **state) {
  (void)state;
  struct world w = open_world("data/scenarios/closed-load.toml");
  const struct scenario_event *e = &w.scenario->events[0];
  struct workload *load = workload_create(w.scenario, w.data, 1);
  struct intent in;
  double inside = 0, outside = 0, crowd_s = (double)(e->until_ns - e->at_ns) / 1e9;
  while (workload_next(load, &in))
    *(in.at_ns >= e->at_ns && in.at_ns < e->until_ns ? &inside : &outside) += 1;
  assert_float_equal(workload_rate(load, e->at_ns), 18, 1e-9);
  assert_float_equal(workload_rate(load, e->at_ns - 1), 6, 1e-9);
  assert_float_equal(inside / crowd_s, 18, 0.6);
  assert_float_equal(outside / (7200 - crowd_s), 6, 0.25);
  workload_destroy(load);
  close_world(&w);
}

static void the_week_brings_two_point_four_million(void **state) {
  (void)state;
  struct world w = open_world("data/scenarios/week.toml");
  struct workload *load = workload_create(w.scenario, w.data, 1);
  struct intent in;
  uint64_t n = 0;
  while (workload_next(load, &in))
    n++;
  assert_in_range(n, 2400000, 2460000);
  workload_destroy(load);
  close_world(&w);
}

static void shares_are_as_the_scenario_says(void **state) {
  (void)state;
  struct world w = open_world("data/scenarios/closed-capacity.toml");
  struct workload *load = workload_create(w.scenario, w.data, 1);
  struct intent in;
  double n = 0, streams = 0, repeats = 0, feedback = 0, low = 0, in_tokens = 0, out_tokens = 0;
  for (; workload_next(load, &in); n++) {
    streams += in.stream;
    repeats += in.repeats;
    feedback += in.gives_feedback;
    low += in.priority == PRIORITY_LOW;
    in_tokens += in.tokens_in;
    out_tokens += in.tokens_out;
    assert_true(in.session != 0 && in.tenant != 0);
    assert_in_range(in.comes_back_after_ns, NS_PER_S, 5 * NS_PER_S);
  }
  assert_float_equal(streams / n, 0.70, 0.01);
  assert_float_equal(repeats / n, 0.10, 0.01);
  assert_float_equal(feedback / n, 0.05, 0.005);
  assert_float_equal(low / n, 0.20, 0.01);
  assert_float_equal(in_tokens / n, 1155, 25);
  assert_float_equal(out_tokens / n, 211, 6);
  workload_destroy(load);
  close_world(&w);
}

static void the_mix_drifts_to_equal_shares(void **state) {
  (void)state;
  struct world w = open_world("data/scenarios/closed-capacity.toml");
  struct workload *load = workload_create(w.scenario, w.data, 1);
  struct intent in;
  double late = 0, classes[3] = {0};
  while (workload_next(load, &in)) {
    if (in.at_ns < w.scenario->length_ns * 9 / 10 || in.repeats) continue;
    late++;
    classes[w.data->prompts[in.prompt].class_index]++;
  }
  for (unsigned c = 0; c < 3; c++)
    assert_float_equal(classes[c] / late, 1.0 / 3, 0.03);
  workload_destroy(load);
  close_world(&w);
}

static void same_seed_asks_the_same_and_another_seed_does_not(void **state) {
  (void)state;
  struct world w = open_world("data/scenarios/closed-load.toml");
  struct workload *a = workload_create(w.scenario, w.data, 5), *b = workload_create(w.scenario, w.data, 5);
  struct workload *c = workload_create(w.scenario, w.data, 6);
  struct intent x, y, z;
  unsigned differing = 0;
  for (int i = 0; i < 1000; i++) {
    assert_true(workload_next(a, &x) && workload_next(b, &y) && workload_next(c, &z));
    assert_int_equal(x.at_ns, y.at_ns);
    assert_int_equal(x.prompt, y.prompt);
    assert_int_equal(x.session, y.session);
    assert_int_equal(x.tokens_out, y.tokens_out);
    differing += x.prompt != z.prompt;
  }
  assert_true(differing > 900);
  workload_destroy(a);
  workload_destroy(b);
  workload_destroy(c);
  close_world(&w);
}

static void sessions_have_two_to_twenty_turns_of_one_tenant(void **state) {
  (void)state;
  enum { KEPT = 1 << 14 };
  struct world w = open_world("data/scenarios/closed-quality.toml");
  struct workload *load = workload_create(w.scenario, w.data, 1);
  struct intent in;
  unsigned char *turns = calloc(KEPT, 1);
  uint64_t *ids = calloc(KEPT, sizeof *ids), *tenants = calloc(KEPT, sizeof *tenants);
  while (workload_next(load, &in)) {
    size_t at = in.session % KEPT;
    while (ids[at] && ids[at] != in.session)
      at = (at + 1) % KEPT;
    if (!ids[at]) tenants[at] = in.repeats ? 0 : in.tenant;
    ids[at] = in.session;
    turns[at]++;
    if (!tenants[at] && !in.repeats) tenants[at] = in.tenant;
    if (!in.repeats) assert_int_equal(tenants[at], in.tenant);
  }
  for (size_t i = 0; i < KEPT; i++)
    assert_true(turns[i] <= 20);
  free(turns);
  free(ids);
  free(tenants);
  workload_destroy(load);
  close_world(&w);
}

static void no_rate_means_no_arrivals(void **state) {
  (void)state;
  struct world w = open_world("data/scenarios/closed-quality.toml");
  w.scenario->mean_rps = 0;
  struct workload *load = workload_create(w.scenario, w.data, 1);
  struct intent in;
  assert_false(workload_next(load, &in));
  workload_destroy(load);
  close_world(&w);
}

static void feedback_is_noisy_clipped_and_sometimes_upside_down(void **state) {
  (void)state;
  struct intent in = {.feedback_noise = 0.05};
  assert_float_equal(intent_feedback(&in, 0.7), 0.75, 1e-12);
  in.feedback_noise = 0.5;
  assert_float_equal(intent_feedback(&in, 0.7), 1, 0);
  in.feedback_wrong = true;
  assert_float_equal(intent_feedback(&in, 0.7), 0, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(data_are_as_their_readme_says),
      cmocka_unit_test(prompts_are_found_by_their_text),
      cmocka_unit_test(missing_data_name_the_file),
      cmocka_unit_test(arrivals_have_the_scenarios_rate_and_the_traces_variation),
      cmocka_unit_test(bursty_gaps_are_bursty),
      cmocka_unit_test(a_flash_crowd_multiplies_the_rate_while_it_lasts),
      cmocka_unit_test(the_week_brings_two_point_four_million),
      cmocka_unit_test(shares_are_as_the_scenario_says),
      cmocka_unit_test(the_mix_drifts_to_equal_shares),
      cmocka_unit_test(same_seed_asks_the_same_and_another_seed_does_not),
      cmocka_unit_test(sessions_have_two_to_twenty_turns_of_one_tenant),
      cmocka_unit_test(no_rate_means_no_arrivals),
      cmocka_unit_test(feedback_is_noisy_clipped_and_sometimes_upside_down),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
