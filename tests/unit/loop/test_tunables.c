/* Every tunable has a consumer: one turn a row of tunables.def, and a row without its turn does not compile.
 * A turn sets up a small world at one value, and says what it saw there; more of the value must show as more.
 * What experiments try on some sessions only must reach its consumer that way, too. */

#include "../pipeline/rig.h"

#include "loop.h"
#include "provider/local.h"
#include "provider/provider.h"
#include "sim/recorder.h"

#include <unistd.h>

struct turn {
  double low, high;
  double (*seen)(double value);
};

static const struct act never[] = {{.what = SILENT}};
static const struct act at_once[] = {{.what = ANSWER, .body = "{}"}};
static const struct act later[] = {{.what = ANSWER, .after_ns = MS(100), .body = "{}"}};
static const struct act broken[] = {{.what = STATUS, .status = 503, .after_ns = 1, .retry_after_ns = -1}};

static struct rig rig;
static bool by_treatment; /* the value is not set, but that of an experiment which treats every session */

static void begin(const struct act *act, enum tunable_id id, double value) {
  rig_open(&rig, true, act, 1, NULL, 0);
  if (by_treatment)
    tunables_treat(&rig.plane->tunables, (int)id, value, 1, 1.0);
  else
    rig_set(&rig, id, value);
}

static double end(double seen) {
  pipeline_abandon(rig.pipeline, rig.now_ns);
  rig_close(&rig);
  return seen;
}

/* As rig_ask, but nothing runs yet. */
static bool submit(unsigned client) {
  rig.clients[client].rig = &rig;
  struct request_spec spec = {.priority = PRIORITY_CRITICAL,
                              .no_coalesce = true,
                              .body = strdup("{}"),
                              .body_size = 2,
                              .ops = &client_ops,
                              .client = &rig.clients[client]};
  enum refusal why;
  int after_s;
  bool taken = pipeline_submit(rig.pipeline, &spec, rig.now_ns, &why, &after_s) != NULL;
  if (!taken) free(spec.body);
  return taken;
}

static double ask_many(unsigned count, enum priority priority, int64_t pause_ns) {
  unsigned taken = 0;
  for (unsigned i = 0; i < count; i++) {
    taken += rig_ask(&rig, i, (struct ask){.priority = priority, .no_coalesce = true}) != NULL;
    rig_until(&rig, pause_ns);
  }
  return taken;
}

/* ---- rings ---- */

static double seen_buffer_rag(double value) {
  unsigned taken = 0;
  begin(never, TUNABLE_buffer_rag, value);
  for (unsigned i = 0; i < 64; i++)
    taken += submit(i);
  return end(taken);
}

static double seen_buffer_assemble(double value) {
  begin(never, TUNABLE_buffer_assemble, value);
  rig_set(&rig, TUNABLE_concurrency_limit, 1);
  rig_set(&rig, TUNABLE_buffer_inference, 8);
  for (unsigned i = 0; i < 64; i++)
    submit(i);
  while (pipeline_run(rig.pipeline, rig.now_ns))
    continue;
  return end((double)pipeline_depth(rig.pipeline, STAGE_ASSEMBLE));
}

static double seen_buffer_inference(double value) {
  begin(never, TUNABLE_buffer_inference, value);
  rig_set(&rig, TUNABLE_concurrency_limit, 1);
  return end(ask_many(64, PRIORITY_CRITICAL, 1));
}

/* A hundred answers come at one moment, with fifty requests behind them. What is where when the next call
 * starts? */
static double finished, in_stream;

static int watch_start(struct upstream *upstream, struct attempt *attempt, int64_t now_ns) {
  if (rig.fakes[0].started == 100) {
    for (unsigned i = 0; i < 150; i++)
      finished += rig.clients[i].finished;
    in_stream = (double)pipeline_depth(rig.pipeline, STAGE_STREAM);
  }
  return fake_start(upstream, attempt, now_ns);
}

static void crowd(enum tunable_id id, double value) {
  static const struct upstream_ops watched = {.start = watch_start, .cancel = fake_cancel};
  begin(later, TUNABLE_concurrency_limit, 100);
  rig_set(&rig, TUNABLE_buffer_stream, 8);
  rig_set(&rig, id, value);
  rig.fakes[0].upstream.ops = &watched;
  finished = 0;
  for (unsigned i = 0; i < 150; i++)
    submit(i);
  rig_until(&rig, MS(150));
  end(0);
}

/* While it is full, answers go out before new calls begin. */
static double seen_buffer_post(double value) {
  crowd(TUNABLE_buffer_post, value);
  return -finished;
}

static double seen_buffer_stream(double value) {
  crowd(TUNABLE_buffer_stream, value);
  return in_stream;
}

/* ---- admission, order ---- */

static double seen_shed_threshold(double value) {
  begin(never, TUNABLE_shed_threshold, value);
  rig_set(&rig, TUNABLE_concurrency_limit, 1);
  rig_set(&rig, TUNABLE_buffer_inference, 20);
  return end(ask_many(40, PRIORITY_NORMAL, 1));
}

static double seen_promotion_interval_ms(double value) {
  begin(later, TUNABLE_promotion_interval_ms, value);
  rig_set(&rig, TUNABLE_concurrency_limit, 1);
  rig_ask(&rig, 500, (struct ask){.priority = PRIORITY_HIGH, .no_coalesce = true});
  rig_ask(&rig, 501, (struct ask){.priority = PRIORITY_LOW, .no_coalesce = true});
  ask_many(200, PRIORITY_HIGH, MS(90));
  rig_until(&rig, S(30));
  return end((double)rig.clients[501].finished_ns);
}

static double seen_rate_limit_rps(double value) {
  begin(at_once, TUNABLE_rate_limit_rps, value);
  rig.plane->rate_limited = true;
  return end(ask_many(300, PRIORITY_NORMAL, MS(10)));
}

static double seen_memory_mib(double value) {
  begin(never, TUNABLE_memory_mib, value);
  atomic_store(&rig.plane->bytes_in_flight, 3 << 20);
  double taken = rig_ask(&rig, 0, (struct ask){0}) != NULL;
  atomic_fetch_sub(&rig.plane->bytes_in_flight, 3 << 20);
  return end(taken);
}

static double seen_coalesce_waiters(double value) {
  begin(later, TUNABLE_coalesce_waiters, value);
  double shared = 0;
  for (unsigned i = 0; i < 10; i++)
    rig_ask(&rig, i, (struct ask){0});
  rig_until(&rig, S(1));
  for (unsigned i = 0; i < 10; i++)
    shared += rig.clients[i].coalesced;
  return end(shared);
}

static double seen_stream_backlog_kib(double value) {
  static const struct act slow[] = {{.what = STREAM, .tokens = 5, .gap_ns = MS(10)}};
  begin(slow, TUNABLE_stream_backlog_kib, value);
  rig.clients[0].backlog = 100 << 10;
  rig_ask(&rig, 0, (struct ask){.stream = true});
  rig_until(&rig, S(1));
  return end(rig.clients[0].events);
}

/* ---- failures ---- */

static double seen_breaker_failure_threshold(double value) {
  begin(broken, TUNABLE_breaker_failure_threshold, value);
  rig_set(&rig, TUNABLE_retry_attempts, 0);
  ask_many(40, PRIORITY_NORMAL, MS(10));
  return end(rig.fakes[0].started);
}

/* How long it takes from half-open to closed, with a probe each 150 ms that succeeds. */
static double seen_breaker_success_rate(double value) {
  static const struct act probes[] = {{.what = STATUS, .status = 503, .retry_after_ns = -1},
                                      {.what = ANSWER, .after_ns = MS(100), .body = "{}"}};
  rig_open(&rig, true, probes, 2, NULL, 0);
  rig_set(&rig, TUNABLE_breaker_success_rate, value);
  rig_set(&rig, TUNABLE_breaker_failure_threshold, 1);
  rig_set(&rig, TUNABLE_breaker_timeout_ms, 1000);
  rig_set(&rig, TUNABLE_retry_attempts, 0);
  ask_many(1, PRIORITY_NORMAL, MS(1100));
  int64_t opened = rig.now_ns;
  while (rig.plane->providers[0].breaker.state != BREAKER_CLOSED && rig.now_ns < opened + S(10))
    ask_many(1, PRIORITY_NORMAL, MS(150));
  return end((double)(rig.now_ns - opened));
}

static double seen_breaker_timeout_ms(double value) {
  begin(broken, TUNABLE_breaker_timeout_ms, value);
  rig_set(&rig, TUNABLE_breaker_failure_threshold, 1);
  rig_set(&rig, TUNABLE_retry_attempts, 0);
  ask_many(200, PRIORITY_NORMAL, MS(100));
  return end((double)(rig.fakes[0].started_at[1] - rig.fakes[0].started_at[0]));
}

static double seen_retry_attempts(double value) {
  begin(broken, TUNABLE_retry_attempts, value);
  ask_many(1, PRIORITY_NORMAL, S(30));
  return end(rig.fakes[0].started);
}

static double first_pause(void) {
  ask_many(1, PRIORITY_NORMAL, S(30));
  return end((double)(rig.fakes[0].started_at[1] - rig.fakes[0].started_at[0]));
}

static double seen_retry_base_ms(double value) {
  begin(broken, TUNABLE_retry_base_ms, value);
  return first_pause();
}

static double seen_retry_max_ms(double value) {
  begin(broken, TUNABLE_retry_max_ms, value);
  rig_set(&rig, TUNABLE_retry_base_ms, 10000);
  return first_pause();
}

static double seen_retry_budget_percent(double value) {
  begin(broken, TUNABLE_retry_budget_percent, value);
  rig_set(&rig, TUNABLE_breaker_failure_threshold, 1000);
  ask_many(100, PRIORITY_NORMAL, MS(20));
  rig_until(&rig, S(5));
  return end(rig.fakes[0].started);
}

/* ---- time ---- */

static double seen_first_token_timeout_ms(double value) {
  begin(never, TUNABLE_first_token_timeout_ms, value);
  rig_ask(&rig, 0, (struct ask){.stream = true});
  rig_until(&rig, S(40));
  return end((double)rig.clients[0].finished_ns);
}

static double seen_idle_timeout_ms(double value) {
  static const struct act stalls[] = {{.what = STREAM, .tokens = 3, .gap_ns = S(5)}};
  begin(stalls, TUNABLE_idle_timeout_ms, value);
  rig_ask(&rig, 0, (struct ask){.stream = true});
  rig_until(&rig, S(30));
  return end(rig.clients[0].events);
}

static double seen_deadline_ms(double value) {
  begin(never, TUNABLE_deadline_ms, value);
  rig_ask(&rig, 0, (struct ask){0});
  rig_until(&rig, S(40));
  return end((double)rig.clients[0].finished_ns);
}

/* ---- capacity ---- */

static double seen_concurrency_limit(double value) {
  begin(later, TUNABLE_concurrency_limit, value);
  ask_many(20, PRIORITY_NORMAL, 1);
  rig_until(&rig, S(5));
  return end(rig.fakes[0].most_active);
}

/* Real processes: how many say within two seconds that they exist. */
static double seen_instances(double value) {
  struct provider_spec spec = {.name = "own", .model = "m", .local = true, .max_instances = 8};
  struct route_spec route = {.name = "m", .candidate_count = 1, .primary_count = 1};
  struct plane_config config = {.provider_count = 1, .providers = &spec, .route_count = 1, .routes = &route};
  struct plane *plane = plane_create(&config, clock_now_ns());
  tunable_set(&plane->tunables, (struct tunable_key){TUNABLE_instances, 0}, value);
  struct provider_settings settings = {.name = "own", .model = "m", .local = true, .command = "sleep 20"};
  struct local_pool *pool = local_pool_create(plane, &settings, 1);
  assert_non_null(pool);
  for (int i = 0; i < 200 && atomic_load(&plane->providers[0].starting_instances) != (unsigned)value; i++)
    usleep(10000);
  double seen = atomic_load(&plane->providers[0].starting_instances);
  local_pool_destroy(pool, 0);
  plane_destroy(plane);
  return seen;
}

/* ---- what the loop reads ---- */

static struct recorder *recorder;
static struct store_sink sink;
static struct loop *loop;
static int64_t wall_ms;

static void begin_loop(const struct act *act, enum tunable_id id, double value) {
  rig_open(&rig, false, act, 1, act, 1);
  rig_set(&rig, id, value);
  recorder = recorder_create();
  sink = recorder_sink(recorder);
  wall_ms = 1700000000000;
}

static void open_loop(bool control) {
  struct loop_config config = {.plane = rig.plane,
                               .telemetries = &rig.telemetry,
                               .pipelines = &rig.pipeline,
                               .shards = 1,
                               .sink = &sink,
                               .seed = 1,
                               .control = control,
                               .learn = true};
  loop = loop_create(&config, rig.now_ns, wall_ms);
  assert_non_null(loop);
}

static double end_loop(double seen) {
  loop_destroy(loop);
  recorder_destroy(recorder);
  return end(seen);
}

static void second(void) {
  rig_until(&rig, S(1));
  loop_tick(loop, rig.now_ns, wall_ms += 1000);
}

static double seen_max_local_instances(double value) {
  static const struct act slow[] = {{.what = ANSWER, .after_ns = S(5), .body = "{}"}};
  begin_loop(slow, TUNABLE_max_local_instances, value);
  rig.plane->providers[0].spec.local = true;
  rig.plane->providers[0].spec.max_instances = 16;
  rig_set(&rig, TUNABLE_concurrency_limit, 2);
  open_loop(true);
  for (unsigned s = 0; s < 400; s++) {
    for (unsigned i = 0; i < 2 && s < 300; i++)
      rig_ask(&rig, 2 * s + i, (struct ask){.no_coalesce = true});
    second();
  }
  return end_loop(tunable_of(&rig.plane->tunables, TUNABLE_instances, 0));
}

static void reward(uint64_t request, double value) {
  struct command c = {.kind = COMMAND_REWARD, .request = request, .value = value, .provider = -1};
  loop_command(loop, &c, rig.now_ns, wall_ms);
  free(c.body);
}

/* Provider 0 answers well for a while and then as the turn says, provider 1 so-so: one answer, one reward a
 * second. */
static void learn(enum tunable_id id, double value, const struct act *then, double before, double after) {
  begin_loop(at_once, id, value);
  rig.plane->providers[0].spec.price = (struct price){1000, 1000, 2000};
  open_loop(false);
  for (unsigned s = 0; s < 400; s++) {
    if (s == 200) rig.fakes[0].script = then;
    struct request *r = rig_ask(&rig, s, (struct ask){.no_coalesce = true});
    uint64_t number = r->id;
    bool first = r->outcome.provider == 0;
    second();
    reward(number, !first ? 0.5 : s < 200 ? before : after);
  }
  second();
}

static double seen_explore_share(double value) {
  learn(TUNABLE_explore_share, value, at_once, 0.9, 0.9);
  return end_loop(rig.fakes[1].started); /* the worse one */
}

static double seen_route_temperature(double value) {
  learn(TUNABLE_route_temperature, value, at_once, 0.9, 0.9);
  return end_loop(rig.fakes[1].started);
}

static double lead(void) {
  const struct route_scores *scores = &rig.plane->table.routes[0];
  return end_loop((double)scores->utility[0] - (double)scores->utility[1]);
}

static double seen_quality_sensitivity(double value) {
  learn(TUNABLE_quality_sensitivity, value, at_once, 0.9, 0.9);
  return lead();
}

static double seen_quality_memory(double value) {
  learn(TUNABLE_quality_memory, value, at_once, 0.9, 0.2);
  return lead();
}

static double seen_cost_sensitivity(double value) {
  learn(TUNABLE_cost_sensitivity, value, at_once, 0.9, 0.9);
  return -lead();
}

static double seen_latency_memory_s(double value) {
  learn(TUNABLE_latency_memory_s, value, broken, 0.9, 0.9);
  return lead();
}

/* ---- the table ---- */

static const struct turn turn_buffer_rag = {8, 32, seen_buffer_rag},
                         turn_buffer_assemble = {8, 16, seen_buffer_assemble},
                         turn_buffer_inference = {8, 32, seen_buffer_inference},
                         turn_buffer_post = {8, 4096, seen_buffer_post},
                         turn_buffer_stream = {8, 64, seen_buffer_stream},
                         turn_shed_threshold = {0.5, 0.9, seen_shed_threshold},
                         turn_promotion_interval_ms = {500, 10000, seen_promotion_interval_ms},
                         turn_rate_limit_rps = {5, 50, seen_rate_limit_rps},
                         turn_breaker_failure_threshold = {2, 20, seen_breaker_failure_threshold},
                         turn_breaker_success_rate = {0.5, 0.99, seen_breaker_success_rate},
                         turn_breaker_timeout_ms = {1000, 8000, seen_breaker_timeout_ms},
                         turn_retry_attempts = {0, 2, seen_retry_attempts},
                         turn_retry_base_ms = {10, 1000, seen_retry_base_ms},
                         turn_retry_max_ms = {10, 5000, seen_retry_max_ms},
                         turn_retry_budget_percent = {0, 100, seen_retry_budget_percent},
                         turn_first_token_timeout_ms = {500, 5000, seen_first_token_timeout_ms},
                         turn_idle_timeout_ms = {1000, 9000, seen_idle_timeout_ms},
                         turn_deadline_ms = {1000, 9000, seen_deadline_ms},
                         turn_concurrency_limit = {2, 8, seen_concurrency_limit},
                         turn_instances = {1, 3, seen_instances},
                         turn_max_local_instances = {2, 5, seen_max_local_instances},
                         turn_explore_share = {0.2, 0.6, seen_explore_share},
                         turn_route_temperature = {0.01, 1, seen_route_temperature},
                         turn_quality_sensitivity = {0.5, 2, seen_quality_sensitivity},
                         turn_cost_sensitivity = {0.5, 2, seen_cost_sensitivity},
                         turn_quality_memory = {10, 2000, seen_quality_memory},
                         turn_latency_memory_s = {5, 2000, seen_latency_memory_s},
                         turn_coalesce_waiters = {0, 5, seen_coalesce_waiters},
                         turn_stream_backlog_kib = {16, 1024, seen_stream_backlog_kib},
                         turn_memory_mib = {2, 64, seen_memory_mib};

static const struct turn *const turns[TUNABLES] = {
#define TUNABLE(id, ...) [TUNABLE_##id] = &turn_##id,
#include "bus/tunables.def"
};

static void turning_it_changes_what_happens(void **state) {
  const struct turn *turn = *state;
  double low = turn->seen(turn->low), high = turn->seen(turn->high);
  if (!(low < high)) print_error("seen %g at %g, and %g at %g\n", low, turn->low, high, turn->high);
  assert_true(low < high);
}

static void a_treatment_does_what_the_value_does(void **state) {
  (void)state;
  for (int id = 0; id < TUNABLES; id++) {
    if (tunable_infos[id].trial != TRIAL_SESSION) continue;
    const struct turn *turn = turns[id];
    double low = turn->seen(turn->low), high = turn->seen(turn->high);
    by_treatment = true;
    if (turn->seen(turn->low) != low || turn->seen(turn->high) != high)
      fail_msg("%s: a treated session is served with another value", tunable_infos[id].name);
    by_treatment = false;
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_treatment_does_what_the_value_does),
#define TUNABLE(id, ...)                                                                                     \
  {"turning " #id " changes what happens", turning_it_changes_what_happens, NULL, NULL, (void *)&turn_##id},
#include "bus/tunables.def"
  };
  return cmocka_run_group_tests_name("tunables", tests, NULL, NULL);
}
