/* What one control tick costs: the real loop with 20 providers, 200 answers a second spread over them,
 * rewards, an experiment and a guarded change under judgement. CPU time of the ticking thread, virtual clock,
 * rows kept in memory. Prints one JSON object. */

#include "bus/telemetry.h"
#include "loop.h"
#include "pipeline/pipeline.h"
#include "pipeline/plane.h"
#include "sim/recorder.h"
#include "store/sink.h"
#include "sys/clock.h"
#include "sys/rng.h"
#include "sys/timer.h"

#include <stdio.h>
#include <stdlib.h>

enum { PROVIDERS = 20, ROUTE_CANDIDATES = 16, ANSWERS = 200, WARM_TICKS = 300, TICKS = 2000 };

#define WALL_MS INT64_C(1700000000000)

struct rig {
  struct plane *plane;
  struct telemetry *telemetry;
  struct timers *timers;
  struct pipeline *pipeline;
  struct recorder *recorder;
  struct store_sink sink;
  struct loop *loop;
  struct rng rng;
  int64_t now_ns;
  uint64_t number;
};

static struct plane *make_plane(int64_t now_ns) {
  static struct provider_spec providers[PROVIDERS];
  static struct route_spec route = {.name = "auto", .coalesce = true};
  for (unsigned i = 0; i < PROVIDERS; i++) {
    snprintf(providers[i].name, NAME_SIZE, "provider-%u", i);
    snprintf(providers[i].model, NAME_SIZE, "model-%u", i);
    providers[i].price = (struct price){1, 1, 3};
  }
  for (uint8_t i = 0; i < ROUTE_CANDIDATES; i++)
    route.candidates[i] = i;
  route.candidate_count = route.primary_count = ROUTE_CANDIDATES;
  const struct plane_config config = {.objective = {2000, 50, 5, 1},
                                      .provider_count = PROVIDERS,
                                      .route_count = 1,
                                      .providers = providers,
                                      .routes = &route};
  return plane_create(&config, now_ns);
}

static void build(struct rig *rig) {
  rng_seed(&rig->rng, 1, 1);
  rig->now_ns = 1000 * NS_PER_S;
  rig->plane = make_plane(rig->now_ns);
  rig->telemetry = telemetry_create();
  rig->timers = timers_create();
  rig->recorder = recorder_create();
  rig->sink = recorder_sink(rig->recorder);
  rig->pipeline = pipeline_create(
      &(struct pipeline_env){.plane = rig->plane, .timers = rig->timers, .telemetry = rig->telemetry},
      rig->now_ns);
  const struct loop_config config = {.plane = rig->plane,
                                     .telemetries = &rig->telemetry,
                                     .pipelines = &rig->pipeline,
                                     .shards = 1,
                                     .sink = &rig->sink,
                                     .seed = 1,
                                     .control = true,
                                     .learn = true,
                                     .evolve = true};
  rig->loop = loop_create(&config, rig->now_ns, WALL_MS);
  if (!rig->loop || !rig->pipeline) {
    fprintf(stderr, "tick: out of memory\n");
    exit(2);
  }
}

static void tear_down(struct rig *rig) {
  loop_destroy(rig->loop);
  pipeline_destroy(rig->pipeline);
  recorder_destroy(rig->recorder);
  timers_destroy(rig->timers);
  telemetry_destroy(rig->telemetry);
  plane_destroy(rig->plane);
}

/* One answered request, as a shard writes it down. */
static void answer(struct rig *rig) {
  struct counters *c = &rig->telemetry->counters;
  uint8_t provider = (uint8_t)(rig->number % PROVIDERS);
  double ttft_ms = 300 + 200 * rng_uniform(&rig->rng), tpot_ms = 10 + 10 * rng_uniform(&rig->rng);
  const struct outcome outcome = {.id = ++rig->number,
                                  .arrived_ns = rig->now_ns - 2 * NS_PER_S,
                                  .ended_ns = rig->now_ns,
                                  .session = mix64(rig->number / 8),
                                  .cost_usd = 0.001,
                                  .propensity = 1.0F / PROVIDERS,
                                  .ttft_ms = (float)ttft_ms,
                                  .tpot_ms = (float)tpot_ms,
                                  .total_ms = 2000,
                                  .tokens_in = 500,
                                  .tokens_out = 100,
                                  .provider = provider,
                                  .kind = OUTCOME_ANSWERED,
                                  .priority = PRIORITY_NORMAL,
                                  .attempts = 1,
                                  .tried_count = 1,
                                  .tried[0] = {provider, ATTEMPT_OK},
                                  .stream = true,
                                  .treated = tunables_treats(&rig->plane->tunables, mix64(rig->number / 8)),
                                  .in_target = true};
  telemetry_ttft(rig->telemetry, provider, ttft_ms);
  telemetry_tpot(rig->telemetry, provider, tpot_ms);
  telemetry_outcome(rig->telemetry, &outcome);
  counter_add(c, COUNTER_requests_received, 0, 1);
  counter_add(c, COUNTER_requests_admitted, PRIORITY_NORMAL, 1);
  counter_add(c, COUNTER_requests_answered, 0, 1);
  counter_add(c, COUNTER_requests_in_target, 0, 1);
  counter_add(c, COUNTER_attempts, provider, 1);
  counter_add(c, COUNTER_attempt_successes, provider, 1);
}

static void command(struct rig *rig, struct command c) {
  loop_command(rig->loop, &c, rig->now_ns, WALL_MS);
  free(c.body);
}

static void reward(struct rig *rig) {
  command(rig, (struct command){.kind = COMMAND_REWARD,
                                .request = rig->number - rng_below(&rig->rng, ANSWERS),
                                .value = 0.8,
                                .provider = -1});
}

/* The trial lasts for as long as an effect may take; the next begins when it has ended. */
static void keep_trials_open(struct rig *rig, unsigned tick) {
  command(rig, (struct command){.kind = COMMAND_SET,
                                .change_count = 1,
                                .changes[0] = {"retry_max_ms", 5000 + tick % 2},
                                .reason = "benchmark"});
  command(rig, (struct command){.kind = COMMAND_EXPERIMENT_CREATE,
                                .name = "benchmark",
                                .text = "idle_timeout_ms",
                                .treatment = 14000,
                                .share = 0.5});
}

/* Returns the CPU time of the tick alone. */
static double tick(struct rig *rig, unsigned number) {
  for (int i = 0; i < ANSWERS; i++)
    answer(rig);
  for (int i = 0; i < ANSWERS / 20; i++)
    reward(rig);
  if (number % 50 == 0) keep_trials_open(rig, number);
  rig->now_ns += NS_PER_S;
  int64_t before = clock_thread_cpu_ns();
  loop_tick(rig->loop, rig->now_ns, WALL_MS + rig->now_ns / NS_PER_MS);
  return (double)(clock_thread_cpu_ns() - before) / 1e6;
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

int main(void) {
  static struct rig rig;
  static double ms[TICKS];
  double sum = 0;
  build(&rig);
  for (unsigned i = 0; i < WARM_TICKS; i++)
    tick(&rig, i);
  for (unsigned i = 0; i < TICKS; i++)
    sum += ms[i] = tick(&rig, WARM_TICKS + i);
  qsort(ms, TICKS, sizeof *ms, compare);
  printf("{\"providers\":%d,\"answers_per_tick\":%d,\"ticks\":%d,\"mean_ms\":%.4f,\"p50_ms\":%.4f,\"p99_ms\":"
         "%.4f,"
         "\"max_ms\":%.4f}\n",
         PROVIDERS, ANSWERS, TICKS, sum / TICKS, ms[TICKS / 2], ms[TICKS * 99 / 100], ms[TICKS - 1]);
  tear_down(&rig);
  return 0;
}
