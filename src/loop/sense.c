/* The frame: differences of the summed counters, quantiles of the merged sketches, gauges of the plane. */

#include "loop/internal.h"

#include "pipeline/pipeline.h"

#include <math.h>
#include <string.h>

static uint64_t grown(const struct loop *loop, enum counter_id id, unsigned label) {
  return loop->totals.value[id][label] - loop->totals_before.value[id][label];
}

static void sum_shards(struct loop *loop) {
  loop->totals_before = loop->totals;
  memset(&loop->totals, 0, sizeof loop->totals);
  telemetry_window_clear(&loop->window, loop->plane->provider_count);
  for (unsigned i = 0; i < loop->config.shards; i++) {
    struct telemetry *t = loop->config.telemetries[i];
    counters_sum(&t->counters, loop->plane->provider_count, &loop->totals);
    telemetry_take_window(t, loop->plane->provider_count, &loop->window);
  }
}

static void sense_stage(struct loop *loop, enum stage stage) {
  static const enum tunable_id capacities[STAGES] = {TUNABLE_buffer_rag, TUNABLE_buffer_assemble,
                                                     TUNABLE_buffer_inference, TUNABLE_buffer_post,
                                                     TUNABLE_buffer_stream};
  struct frame_stage *s = &loop->frame.stages[stage];
  s->arrivals = grown(loop, COUNTER_stage_arrivals, stage);
  s->completions = grown(loop, COUNTER_stage_completions, stage);
  s->sheds = grown(loop, COUNTER_stage_sheds, stage);
  s->capacity = (uint32_t)tunable_get(&loop->plane->tunables, capacities[stage]) * loop->config.shards;
  s->depth = 0;
  for (unsigned i = 0; i < loop->config.shards; i++)
    s->depth += (uint32_t)pipeline_depth(loop->config.pipelines[i], stage);
  s->sojourn_p50_ms = sketch_quantile(&loop->window.sojourn_ms[stage], 0.5);
  s->sojourn_p95_ms = sketch_quantile(&loop->window.sojourn_ms[stage], 0.95);
}

static void sense_counts(struct loop *loop, unsigned i) {
  struct frame_provider *p = &loop->frame.provider[i];
  p->attempts = grown(loop, COUNTER_attempts, i);
  p->successes = grown(loop, COUNTER_attempt_successes, i);
  p->failures = grown(loop, COUNTER_attempt_failures, i);
  p->timeouts = grown(loop, COUNTER_attempt_timeouts, i);
  p->throttled = grown(loop, COUNTER_attempt_throttled, i);
  p->rejected = grown(loop, COUNTER_attempt_rejected, i);
  p->cancelled = grown(loop, COUNTER_attempt_cancelled, i);
  p->retries = grown(loop, COUNTER_retries, i);
  p->fallbacks = grown(loop, COUNTER_fallbacks, i);
  p->limit_refusals = grown(loop, COUNTER_limit_refusals, i);
  p->tokens_in = grown(loop, COUNTER_tokens_in, i);
  p->tokens_out = grown(loop, COUNTER_tokens_out, i);
  p->usd = (double)grown(loop, COUNTER_cost_nano_usd, i) * 1e-9;
}

static void sense_latency(struct loop *loop, unsigned i) {
  struct frame_provider *p = &loop->frame.provider[i];
  const struct sketch *ttft = &loop->window.ttft_ms[i], *tpot = &loop->window.tpot_ms[i];
  p->ttft_count = ttft->count;
  p->ttft_mean_ms = sketch_mean(ttft);
  p->ttft_p50_ms = sketch_quantile(ttft, 0.5);
  p->ttft_p95_ms = sketch_quantile(ttft, 0.95);
  p->tpot_count = tpot->count;
  p->tpot_mean_ms = sketch_mean(tpot);
  p->tpot_p50_ms = sketch_quantile(tpot, 0.5);
  p->tpot_p95_ms = sketch_quantile(tpot, 0.95);
}

static void sense_gauges(struct loop *loop, unsigned i) {
  struct frame_provider *p = &loop->frame.provider[i];
  struct provider_state *s = &loop->plane->providers[i];
  p->in_flight = atomic_load_explicit(&s->in_flight, memory_order_relaxed);
  p->tokens_in_flight = atomic_load_explicit(&s->tokens_in_flight, memory_order_relaxed);
  p->limit = plane_limit(loop->plane, i);
  p->instances_ready = atomic_load_explicit(&s->ready_instances, memory_order_relaxed);
  p->instances_starting = atomic_load_explicit(&s->starting_instances, memory_order_relaxed);
  p->local = s->spec.local;
  p->cooling = atomic_load_explicit(&s->closed_until_ns, memory_order_relaxed) > loop->now_ns;
  pthread_mutex_lock(&s->lock);
  p->breaker = (uint8_t)s->breaker.state;
  pthread_mutex_unlock(&s->lock);
}

static void sense_whole(struct loop *loop) {
  struct frame *f = &loop->frame;
  f->received = grown(loop, COUNTER_requests_received, 0);
  f->refused = grown(loop, COUNTER_requests_refused, 0);
  f->limited = grown(loop, COUNTER_requests_limited, 0);
  f->admitted = 0;
  for (unsigned p = 0; p < PRIORITIES; p++)
    f->admitted += grown(loop, COUNTER_requests_admitted, p);
  f->answered = grown(loop, COUNTER_requests_answered, 0);
  f->dead_lettered = grown(loop, COUNTER_requests_dead_lettered, 0);
  f->client_gone = grown(loop, COUNTER_requests_client_gone, 0);
  f->coalesced = grown(loop, COUNTER_requests_coalesced, 0);
  f->in_target = grown(loop, COUNTER_requests_in_target, 0);
  f->in_flight = atomic_load_explicit(&loop->plane->requests_in_flight, memory_order_relaxed);
  f->bytes_in_flight = (uint64_t)atomic_load_explicit(&loop->plane->bytes_in_flight, memory_order_relaxed);
  f->usd = 0;
  for (unsigned i = 0; i < f->providers; i++)
    f->usd += f->provider[i].usd;
  memcpy(f->longest_wait_ms, loop->window.longest_wait_ms, sizeof f->longest_wait_ms);
}

void sense_frame(struct loop *loop, double dt_s) {
  struct frame *f = &loop->frame;
  sum_shards(loop);
  f->now_ns = loop->now_ns;
  f->wall_ms = loop->wall_ms;
  f->number++;
  f->dt_s = dt_s;
  f->providers = loop->plane->provider_count;
  for (int s = 0; s < STAGES; s++)
    sense_stage(loop, (enum stage)s);
  for (unsigned i = 0; i < f->providers; i++) {
    sense_counts(loop, i);
    sense_latency(loop, i);
    sense_gauges(loop, i);
  }
  sense_whole(loop);
  if (f->limited > 0) judge_refused(loop->judge, f->limited, loop->now_ns);
}

static void take_outcome(struct loop *loop, const struct outcome *o) {
  rewards_remember(loop, o);
  judge_observe(loop->judge, o, loop->now_ns);
  if (loop->frozen) return;
  if (loop->config.learn) {
    router_outcome(loop->router, o);
    loop->learned_changed = true;
  }
  if (loop->config.evolve) experiments_observe(loop, o);
}

void sense_outcomes(struct loop *loop) {
  for (unsigned i = 0; i < loop->config.shards; i++) {
    struct telemetry *t = loop->config.telemetries[i];
    size_t n = telemetry_take_outcomes(t, &loop->outcomes, &loop->outcome_capacity);
    for (size_t k = 0; k < n; k++)
      take_outcome(loop, &loop->outcomes[k]);
    if (n > 0) loop->sink->outcomes(loop->sink->ctx, loop->outcomes, n, loop->now_ns, loop->wall_ms);
  }
}
