#include "scratch.h"

#include "sim/dataset.h"
#include "sim/plant.h"
#include "sys/clock.h"
#include "sys/timer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define START_NS (100 * NS_PER_S)
#define SERVER                                                                                               \
  "[[provider]]\nname = \"own\"\nkind = \"server\"\nmodel = \"small\"\nslots = 4\nkv_tokens = 10000\n"       \
  "prefill_tok_per_s = 1000\nd0_ms = 10\nd1_ms = 2\nmax_queue = 3\nusd_per_m_in = 1\nusd_per_m_out = 2\n"    \
  "start_s = 30\nmin_instances = 1\nstart_instances = 1\nmax_instances = 3\nusd_per_instance_hour = 6\n"
#define HOSTED                                                                                               \
  "[[provider]]\nname = \"hosted\"\nkind = \"hosted\"\nmodel = \"middle\"\nttft_median_ms = 400\n"           \
  "ttft_sigma = 0.4\ntail_share = 0.01\ntail_alpha = 1.8\ntpot_ms = 10\ntpot_cv = 0.15\n"                    \
  "requests_per_min = 60\ntokens_per_min = 60000\nratelimit_headers = true\nretry_after_share = 1.0\n"       \
  "usd_per_m_in = 1\nusd_per_m_out = 10\n"

enum { OWN, HOSTED_ONE, CALLS = 4096 };

struct rig {
  struct scenario *scenario;
  struct dataset *data;
  struct timers *timers;
  struct plant *plant;
  int64_t now_ns;
};

struct end {
  bool done;
  int64_t first_ns, done_ns;
  struct plant_result result;
};

static struct end ends[CALLS];

static void first_token(void *ctx, int64_t now_ns) {
  ((struct end *)ctx)->first_ns = now_ns;
}

static void done(void *ctx, const struct plant_result *result, int64_t now_ns) {
  struct end *e = ctx;
  assert_false(e->done);
  e->done = true;
  e->done_ns = now_ns;
  e->result = *result;
}

static const struct plant_client client = {first_token, done};

static void open_rig(struct rig *r, const char *events) {
  char text[4096], error[512];
  snprintf(text, sizeof text, "[run]\nhours = 10\n" SERVER HOSTED "%s", events);
  memset(ends, 0, sizeof ends);
  *r = (struct rig){.scenario = scratch_scenario(text, 1, error, sizeof error), .now_ns = START_NS};
  if (!r->scenario) fail_msg("%s", error);
  r->data = dataset_load(r->scenario, "data", 1, error, sizeof error);
  if (!r->data) fail_msg("%s", error);
  r->timers = timers_create();
  r->plant = plant_create(&(struct plant_options){.scenario = r->scenario,
                                                  .data = r->data,
                                                  .timers = r->timers,
                                                  .seed = 1,
                                                  .start_ns = START_NS,
                                                  .speed = 1});
  assert_non_null(r->plant);
}

static void close_rig(struct rig *r) {
  plant_destroy(r->plant);
  assert_true(timers_next_ns(r->timers) == NS_NEVER);
  timers_destroy(r->timers);
  dataset_destroy(r->data);
  scenario_destroy(r->scenario);
}

static void run_for(struct rig *r, int64_t ns) {
  int64_t until = r->now_ns + ns, next;
  while ((next = timers_next_ns(r->timers)) <= until) {
    r->now_ns = next > r->now_ns ? next : r->now_ns;
    timers_run(r->timers, r->now_ns);
  }
  r->now_ns = until;
}

static struct plant_call *begin(struct rig *r, unsigned provider, unsigned i, uint32_t in, uint32_t out) {
  return plant_begin(r->plant, provider, in, out, i, &client, &ends[i], r->now_ns);
}

static double ms_since_start(int64_t ns) {
  return (double)(ns - START_NS) / 1e6;
}

/* ---- servers ---- */

static void a_lone_call_takes_prefill_and_its_steps(void **state) {
  (void)state;
  struct rig r;
  open_rig(&r, "");
  begin(&r, OWN, 0, 500, 101);
  run_for(&r, 60 * NS_PER_S);
  assert_float_equal(ms_since_start(ends[0].first_ns), 500, 0.01);           /* 500 tokens at 1000/s */
  assert_float_equal(ms_since_start(ends[0].done_ns), 500 + 100 * 12, 0.01); /* d0 + d1 * 1 */
  assert_int_equal(ends[0].result.end, PLANT_OK);
  assert_int_equal(ends[0].result.tokens_out, 101);
  assert_float_equal(ends[0].result.usd, (500 * 1 + 101 * 2) * 1e-6, 1e-12);
  close_rig(&r);
}

static void time_per_token_is_d0_and_d1_times_the_batch(void **state) {
  (void)state;
  struct rig r;
  open_rig(&r, "");
  for (unsigned i = 0; i < 4; i++)
    begin(&r, OWN, i, 100, 1001);
  run_for(&r, 60 * NS_PER_S);
  for (unsigned i = 0; i < 4; i++) {
    assert_float_equal(ms_since_start(ends[i].first_ns), 400, 0.01); /* prefill is shared by four */
    assert_float_equal((double)(ends[i].done_ns - ends[i].first_ns) / 1e6 / 1000, 10 + 2 * 4, 0.001);
  }
  close_rig(&r);
}

static void a_batch_gets_faster_as_it_empties(void **state) {
  (void)state;
  struct rig r;
  open_rig(&r, "");
  begin(&r, OWN, 0, 100, 101);
  begin(&r, OWN, 1, 100, 201);
  run_for(&r, 60 * NS_PER_S);
  assert_float_equal((double)(ends[0].done_ns - ends[0].first_ns) / 1e6, 100 * 14, 0.01);
  assert_float_equal((double)(ends[1].done_ns - ends[1].first_ns) / 1e6, 100 * 14 + 100 * 12, 0.01);
  close_rig(&r);
}

static void time_to_first_token_grows_with_the_queue(void **state) {
  (void)state;
  struct rig r;
  open_rig(&r, "");
  for (unsigned i = 0; i < 7; i++)
    begin(&r, OWN, i, 100, 101);
  struct plant_view v = plant_look(r.plant, OWN, r.now_ns);
  assert_int_equal(v.prefilling, 4);
  assert_int_equal(v.queued, 3);
  run_for(&r, 60 * NS_PER_S);
  assert_float_equal(ms_since_start(ends[3].first_ns), 400, 0.01);
  assert_true(ms_since_start(ends[4].first_ns) > 400 + 100 * 18);
  assert_true(ends[6].first_ns >= ends[4].first_ns);
  close_rig(&r);
}

static void past_the_queue_comes_503(void **state) {
  (void)state;
  struct rig r;
  open_rig(&r, "");
  for (unsigned i = 0; i < 9; i++)
    begin(&r, OWN, i, 100, 101);
  assert_false(ends[7].done); /* never from inside begin */
  run_for(&r, 60 * NS_PER_S);
  for (unsigned i = 0; i < 9; i++)
    assert_int_equal(ends[i].result.end, i < 7 ? PLANT_OK : PLANT_OVERLOADED);
  assert_float_equal(ends[8].result.usd, 0, 0);
  close_rig(&r);
}

static void key_value_memory_bounds_the_batch(void **state) {
  (void)state;
  struct rig r;
  open_rig(&r, "");
  begin(&r, OWN, 0, 6000, 100);
  begin(&r, OWN, 1, 6000, 100);
  begin(&r, OWN, 2, 9950, 100); /* more than there is: 400 */
  struct plant_view v = plant_look(r.plant, OWN, r.now_ns);
  assert_int_equal(v.prefilling, 1);
  assert_int_equal(v.queued, 1);
  assert_float_equal(v.kv_used, 6100, 0);
  run_for(&r, 60 * NS_PER_S);
  assert_int_equal(ends[1].result.end, PLANT_OK);
  assert_int_equal(ends[2].result.end, PLANT_TOO_LONG);
  assert_float_equal(plant_look(r.plant, OWN, r.now_ns).kv_used, 0, 0);
  close_rig(&r);
}

/* Answers within 2 s to the first token and 50 ms a token, a second, at an offered rate. */
static double goodput_at(double rate) {
  struct rig r;
  open_rig(&r, "");
  unsigned n = (unsigned)(120 * rate), good = 0;
  static int64_t begun[CALLS];
  for (unsigned i = 0; i < n; i++) {
    begun[i] = r.now_ns;
    begin(&r, OWN, i, 200, 60);
    run_for(&r, (int64_t)(1e9 / rate));
  }
  run_for(&r, 120 * NS_PER_S);
  for (unsigned i = 0; i < n; i++) {
    assert_true(ends[i].done);
    good += ends[i].result.end == PLANT_OK && ends[i].first_ns - begun[i] <= 1000 * NS_PER_MS;
  }
  close_rig(&r);
  return good / 120.0;
}

static void goodput_falls_past_the_knee(void **state) {
  (void)state;
  double light = goodput_at(1), knee = goodput_at(2), flooded = goodput_at(8);
  assert_float_equal(light, 1, 0.02);
  assert_float_equal(knee, 2, 0.1);
  assert_true(flooded < knee / 2);
}

static void a_cancelled_call_frees_its_slot_and_is_paid_for_what_it_got(void **state) {
  (void)state;
  struct rig r;
  struct plant_result result;
  open_rig(&r, "");
  struct plant_call *call = begin(&r, OWN, 0, 100, 1001);
  run_for(&r, 100 * NS_PER_MS + 10 * 12 * NS_PER_MS + NS_PER_MS); /* first token and ten steps */
  assert_int_equal(plant_tokens(r.plant, call, r.now_ns), 11);
  plant_cancel(r.plant, call, &result, r.now_ns);
  assert_int_equal(result.tokens_out, 11);
  assert_float_equal(result.usd, (100 * 1 + 11 * 2) * 1e-6, 1e-12);
  assert_int_equal(plant_look(r.plant, OWN, r.now_ns).decoding, 0);
  run_for(&r, 60 * NS_PER_S);
  assert_false(ends[0].done);
  close_rig(&r);
}

static void token_times_are_foretold_as_they_come(void **state) {
  (void)state;
  struct rig r;
  open_rig(&r, "");
  struct plant_call *call = begin(&r, OWN, 0, 100, 51);
  run_for(&r, 200 * NS_PER_MS);
  assert_float_equal(ms_since_start(plant_token_ns(r.plant, call, 50, r.now_ns)), 100 + 49 * 12, 0.01);
  assert_true(plant_token_ns(r.plant, call, 52, r.now_ns) == NS_NEVER);
  close_rig(&r);
}

/* ---- instances ---- */

static void an_instance_starts_late_serves_and_drains(void **state) {
  (void)state;
  struct rig r;
  open_rig(&r, "");
  plant_set_instances(r.plant, OWN, 2, r.now_ns);
  assert_int_equal(plant_ready(r.plant, OWN), 1);
  assert_int_equal(plant_starting(r.plant, OWN), 1);
  run_for(&r, 31 * NS_PER_S);
  assert_int_equal(plant_ready(r.plant, OWN), 2);
  for (unsigned i = 0; i < 8; i++)
    begin(&r, OWN, i, 100, 101);
  assert_int_equal(plant_look(r.plant, OWN, r.now_ns).prefilling, 8); /* four each */
  plant_set_instances(r.plant, OWN, 1, r.now_ns);
  assert_int_equal(plant_ready(r.plant, OWN), 1);
  run_for(&r, 60 * NS_PER_S);
  for (unsigned i = 0; i < 8; i++)
    assert_int_equal(ends[i].result.end, PLANT_OK);
  close_rig(&r);
}

static void instance_hours_are_paid_from_the_start_to_the_last_answer(void **state) {
  (void)state;
  struct rig r;
  open_rig(&r, "");
  run_for(&r, 3600 * NS_PER_S);
  assert_float_equal(plant_instance_usd(r.plant, OWN, r.now_ns), 6, 1e-9);
  plant_set_instances(r.plant, OWN, 9, r.now_ns); /* three at most */
  assert_int_equal(plant_starting(r.plant, OWN), 2);
  run_for(&r, 1800 * NS_PER_S);
  assert_float_equal(plant_instance_usd(r.plant, OWN, r.now_ns), 6 + 3 * 3, 1e-9);
  plant_set_instances(r.plant, OWN, 0, r.now_ns);
  run_for(&r, 3600 * NS_PER_S);
  assert_float_equal(plant_instance_usd(r.plant, OWN, r.now_ns), 15, 1e-9);
  begin(&r, OWN, 0, 100, 10);
  run_for(&r, NS_PER_S);
  assert_int_equal(ends[0].result.end, PLANT_OVERLOADED);
  close_rig(&r);
}

/* ---- hosted ---- */

static void hosted_times_have_their_median_tail_and_pace(void **state) {
  (void)state;
  struct rig r;
  open_rig(&r, "");
  enum { N = 4000 };
  double below = 0, slow = 0, pace = 0;
  static int64_t begun[N];
  for (unsigned i = 0; i < N; i++) {
    run_for(&r, 2 * NS_PER_S);
    begun[i] = r.now_ns;
    begin(&r, HOSTED_ONE, i, 10, 101);
  }
  run_for(&r, 600 * NS_PER_S);
  for (unsigned i = 0; i < N; i++) {
    assert_int_equal(ends[i].result.end, PLANT_OK);
    double ttft_ms = (double)(ends[i].first_ns - begun[i]) / 1e6;
    below += ttft_ms < 400;
    slow += ttft_ms > 400 * exp(0.4 * 3.5);
    pace += (double)(ends[i].done_ns - ends[i].first_ns) / 1e6 / 100;
  }
  assert_float_equal(below / N, 0.5, 0.03);
  assert_true(slow / N > 0.0005 && slow / N < 0.005); /* a lognormal alone: 0.0002 */
  assert_float_equal(pace / N, 10, 0.1);
  close_rig(&r);
}

static void hidden_buckets_throttle_and_refill(void **state) {
  (void)state;
  struct rig r;
  open_rig(&r, "");
  for (unsigned i = 0; i < 70; i++)
    begin(&r, HOSTED_ONE, i, 10, 10);
  run_for(&r, 100 * NS_PER_MS);
  unsigned throttled = 0;
  for (unsigned i = 0; i < 70; i++)
    throttled += ends[i].done && ends[i].result.end == PLANT_THROTTLED;
  assert_int_equal(throttled, 10); /* sixty fit */
  assert_true(ends[69].result.retry_after_ns == NS_PER_S);
  assert_float_equal(ends[69].result.requests_left, 0, 0);
  run_for(&r, 30 * NS_PER_S);
  assert_float_equal(plant_look(r.plant, HOSTED_ONE, r.now_ns).requests_bucket, 30, 0.2);
  begin(&r, HOSTED_ONE, 70, 10, 10);
  run_for(&r, 60 * NS_PER_S);
  assert_int_equal(ends[70].result.end, PLANT_OK);
  close_rig(&r);
}

static void tokens_are_limited_too(void **state) {
  (void)state;
  struct rig r;
  open_rig(&r, "");
  begin(&r, HOSTED_ONE, 0, 50000, 500);
  begin(&r, HOSTED_ONE, 1, 20000, 500);
  run_for(&r, 100 * NS_PER_MS);
  assert_int_equal(ends[1].result.end, PLANT_THROTTLED);
  assert_true(ends[1].result.retry_after_ns == 11 * NS_PER_S); /* 11,000 tokens short at 1,000 a second */
  close_rig(&r);
}

/* ---- events ---- */

static void an_outage_refuses_and_cuts(void **state) {
  (void)state;
  struct rig r;
  open_rig(&r, "[[event]]\nfrom_min = 1\nwhat = \"outage\"\nprovider = \"own\"\nfor_min = 2\n");
  run_for(&r, 59 * NS_PER_S);
  begin(&r, OWN, 0, 100, 1001);
  run_for(&r, 2 * NS_PER_S);
  assert_int_equal(ends[0].result.end, PLANT_CUT);
  assert_in_range(ends[0].result.tokens_out, 70, 80);
  begin(&r, OWN, 1, 100, 10);
  run_for(&r, NS_PER_S);
  assert_int_equal(ends[1].result.end, PLANT_REFUSED);
  assert_true(plant_look(r.plant, OWN, r.now_ns).out);
  run_for(&r, 120 * NS_PER_S);
  begin(&r, OWN, 2, 100, 10);
  run_for(&r, 10 * NS_PER_S);
  assert_int_equal(ends[2].result.end, PLANT_OK);
  close_rig(&r);
}

static void a_brownout_slows_and_breaks_some(void **state) {
  (void)state;
  struct rig r;
  open_rig(&r, "[[event]]\nfrom_min = 0\nwhat = \"brownout\"\nprovider = \"own\"\nfor_min = 600\n");
  run_for(&r, NS_PER_S);
  unsigned n = 2000, errors = 0, cuts = 0;
  for (unsigned i = 0; i < n; i++) {
    begin(&r, OWN, i, 60, 11);
    run_for(&r, 2 * NS_PER_S);
    errors += ends[i].result.end == PLANT_ERROR;
    cuts += ends[i].result.end == PLANT_CUT;
    if (ends[i].result.end == PLANT_OK)
      assert_float_equal((double)(ends[i].done_ns - ends[i].first_ns) / 1e6, 10 * 24, 0.01);
  }
  assert_in_range(errors, 70, 130); /* 5 % */
  assert_in_range(cuts, 20, 65);    /* 2 % */
  close_rig(&r);
}

static void capacity_prices_and_limits_change_and_come_back(void **state) {
  (void)state;
  struct rig r;
  open_rig(
      &r,
      "[[event]]\nfrom_min = 1\nwhat = \"capacity\"\nprovider = \"own\"\nfactor = 0.5\nfor_min = 1\n"
      "[[event]]\nfrom_min = 1\nwhat = \"price\"\nprovider = \"hosted\"\nfactor = 4\n"
      "[[event]]\nfrom_min = 3\nwhat = \"price\"\nprovider = \"hosted\"\nfactor = 0.25\n"
      "[[event]]\nfrom_min = 1\nwhat = \"rate_limit\"\nprovider = \"hosted\"\nfactor = 0.5\nfor_min = 1\n");
  assert_float_equal(plant_price(r.plant, HOSTED_ONE).out, 10, 0);
  run_for(&r, 61 * NS_PER_S);
  assert_float_equal(plant_price(r.plant, HOSTED_ONE).out, 40, 1e-9);
  assert_float_equal(plant_look(r.plant, HOSTED_ONE, r.now_ns).requests_bucket, 30, 0.1);
  for (unsigned i = 0; i < 4; i++)
    begin(&r, OWN, i, 100, 11);
  assert_int_equal(plant_look(r.plant, OWN, r.now_ns).prefilling, 2); /* of four slots */
  run_for(&r, 130 * NS_PER_S);
  assert_float_equal(plant_price(r.plant, HOSTED_ONE).out, 10, 1e-9);
  for (unsigned i = 4; i < 8; i++)
    begin(&r, OWN, i, 100, 11);
  assert_int_equal(plant_look(r.plant, OWN, r.now_ns).prefilling, 4);
  close_rig(&r);
}

static void quality_ramps_and_is_clipped(void **state) {
  (void)state;
  struct rig r;
  open_rig(&r, "[[event]]\nfrom_min = 1\nwhat = \"quality_ramp\"\nmodel = \"middle\"\nclass = \"*\"\n"
               "delta = -0.5\nover_min = 10\n");
  int middle = scenario_find_model(r.scenario, "middle");
  size_t prompt = 0;
  while (r.data->prompts[prompt].quality[r.data->model_column[middle]] != 1)
    prompt++;
  assert_float_equal(plant_quality(r.plant, (unsigned)middle, prompt, r.now_ns), 1, 0);
  run_for(&r, 360 * NS_PER_S);
  assert_float_equal(plant_quality(r.plant, (unsigned)middle, prompt, r.now_ns), 0.75, 1e-6);
  assert_float_equal(plant_quality(r.plant, 0, prompt, r.now_ns),
                     r.data->prompts[prompt].quality[r.data->model_column[0]], 1e-6);
  run_for(&r, 3600 * NS_PER_S);
  assert_float_equal(plant_quality(r.plant, (unsigned)middle, prompt, r.now_ns), 0.5, 1e-6);
  close_rig(&r);
}

static void a_newcomer_refuses_until_it_comes(void **state) {
  (void)state;
  struct rig r;
  open_rig(&r, "[[event]]\nfrom_min = 5\nwhat = \"newcomer\"\nname = \"fresh\"\n");
  unsigned fresh = (unsigned)scenario_find_provider(r.scenario, "fresh");
  begin(&r, fresh, 0, 10, 10);
  run_for(&r, 301 * NS_PER_S);
  assert_int_equal(ends[0].result.end, PLANT_REFUSED);
  begin(&r, fresh, 1, 10, 10);
  run_for(&r, 60 * NS_PER_S);
  assert_int_equal(ends[1].result.end, PLANT_OK);
  close_rig(&r);
}

static void an_event_can_be_started_by_hand(void **state) {
  (void)state;
  struct rig r;
  struct scenario_event e;
  open_rig(&r, "");
  assert_int_equal(scenario_event_init(&e, "outage"), 0);
  e.provider = OWN;
  e.until_ns = 10 * NS_PER_S;
  plant_event(r.plant, &e, r.now_ns);
  assert_true(plant_look(r.plant, OWN, r.now_ns).out);
  run_for(&r, 11 * NS_PER_S);
  assert_false(plant_look(r.plant, OWN, r.now_ns).out);
  assert_true(scenario_event_init(&e, "nothing") < 0);
  close_rig(&r);
}

static void a_calls_luck_is_its_own(void **state) {
  (void)state;
  struct rig r;
  int64_t alone;
  open_rig(&r, "");
  begin(&r, HOSTED_ONE, 7, 10, 101);
  run_for(&r, 60 * NS_PER_S);
  alone = ends[7].done_ns;
  close_rig(&r);
  open_rig(&r, "");
  for (unsigned i = 0; i < 20; i++)
    begin(&r, HOSTED_ONE, i, 10, 101);
  run_for(&r, 60 * NS_PER_S);
  assert_true(ends[7].done_ns == alone);
  close_rig(&r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_lone_call_takes_prefill_and_its_steps),
      cmocka_unit_test(time_per_token_is_d0_and_d1_times_the_batch),
      cmocka_unit_test(a_batch_gets_faster_as_it_empties),
      cmocka_unit_test(time_to_first_token_grows_with_the_queue),
      cmocka_unit_test(past_the_queue_comes_503),
      cmocka_unit_test(key_value_memory_bounds_the_batch),
      cmocka_unit_test(goodput_falls_past_the_knee),
      cmocka_unit_test(a_cancelled_call_frees_its_slot_and_is_paid_for_what_it_got),
      cmocka_unit_test(token_times_are_foretold_as_they_come),
      cmocka_unit_test(an_instance_starts_late_serves_and_drains),
      cmocka_unit_test(instance_hours_are_paid_from_the_start_to_the_last_answer),
      cmocka_unit_test(hosted_times_have_their_median_tail_and_pace),
      cmocka_unit_test(hidden_buckets_throttle_and_refill),
      cmocka_unit_test(tokens_are_limited_too),
      cmocka_unit_test(an_outage_refuses_and_cuts),
      cmocka_unit_test(a_brownout_slows_and_breaks_some),
      cmocka_unit_test(capacity_prices_and_limits_change_and_come_back),
      cmocka_unit_test(quality_ramps_and_is_clipped),
      cmocka_unit_test(a_newcomer_refuses_until_it_comes),
      cmocka_unit_test(an_event_can_be_started_by_hand),
      cmocka_unit_test(a_calls_luck_is_its_own),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
