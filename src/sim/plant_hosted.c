/* A hosted API: the first token after a lognormal time, with a Pareto factor on a small share, then a steady
 * pace with noise from call to call. Two hidden buckets, of requests and of tokens; a call that finds too
 * little in either gets 429, with or without the time to wait. */

#include "sim/plant_internal.h"

#include <math.h>

#define THROTTLED_AFTER_NS (40 * NS_PER_MS)

struct limit {
  struct hidden_bucket *bucket;
  double rate, depth; /* a second; most that it holds. rate 0: no limit */
};

static struct limit limit_of(struct plant *plant, struct hidden_bucket *bucket, double per_min,
                             double factor) {
  double rate = per_min / 60 * factor;
  return (struct limit){bucket, rate, rate * plant->scenario->bucket_s};
}

static void refill(struct limit *l, int64_t now_ns) {
  l->bucket->level = fmin(l->depth, l->bucket->level + l->rate * (double)(now_ns - l->bucket->at_ns) / 1e9);
  l->bucket->at_ns = now_ns;
}

/* Seconds until n can be taken; more than the bucket holds counts as all that it holds. */
static double wait_s(const struct limit *l, double n) {
  if (l->rate <= 0) return 0;
  return fmax(0, fmin(n, l->depth) - l->bucket->level) / l->rate;
}

static void limits(struct plant *plant, unsigned provider, int64_t now_ns, struct limit *requests,
                   struct limit *tokens) {
  struct plant_provider *p = &plant->providers[provider];
  double factor = plant_condition(plant, provider, now_ns).rate;
  *requests = limit_of(plant, &p->requests, p->spec->requests_per_min, factor);
  *tokens = limit_of(plant, &p->tokens, p->spec->tokens_per_min, factor);
  refill(requests, now_ns);
  refill(tokens, now_ns);
}

void hosted_start(struct plant *plant, unsigned provider) {
  struct plant_provider *p = &plant->providers[provider];
  p->requests =
      (struct hidden_bucket){p->spec->requests_per_min / 60 * plant->scenario->bucket_s, plant->start_ns};
  p->tokens =
      (struct hidden_bucket){p->spec->tokens_per_min / 60 * plant->scenario->bucket_s, plant->start_ns};
}

void hosted_levels(struct plant *plant, unsigned provider, int64_t now_ns, double *requests, double *tokens) {
  struct limit r, t;
  limits(plant, provider, now_ns, &r, &t);
  *requests = r.bucket->level;
  *tokens = t.bucket->level;
}

/* The reset is the time until the next request would pass. */
void hosted_headers(struct plant_call *call, struct plant_result *result, int64_t now_ns) {
  struct limit r, t;
  limits(call->plant, call->provider, now_ns, &r, &t);
  if (r.rate > 0) {
    result->requests_left = floor(r.bucket->level);
    result->requests_reset_ns = (int64_t)(wait_s(&r, 1) * 1e9);
  }
  if (t.rate > 0) result->tokens_left = floor(t.bucket->level);
}

static bool take(struct plant_call *call, struct rng *rng, int64_t now_ns) {
  struct limit r, t;
  double tokens = (double)call->tokens_in + (double)call->tokens_out, said = rng_uniform(rng);
  limits(call->plant, call->provider, now_ns, &r, &t);
  double wait = fmax(wait_s(&r, 1), wait_s(&t, tokens));
  if (wait > 0) {
    if (said < call->plant->providers[call->provider].spec->retry_after_share)
      call->retry_after_ns = (int64_t)fmax(1, ceil(wait)) * NS_PER_S;
    return false;
  }
  r.bucket->level -= 1;
  t.bucket->level -= fmin(tokens, t.depth);
  return true;
}

static double noise(struct rng *rng, double cv) {
  double variance = log1p(cv * cv);
  return exp(sqrt(variance) * rng_normal(rng) - variance / 2);
}

void hosted_begin(struct plant_call *call, struct rng *rng, int64_t now_ns) {
  const struct scenario_provider *spec = call->plant->providers[call->provider].spec;
  struct condition c = plant_condition(call->plant, call->provider, now_ns);
  if (!take(call, rng, now_ns)) {
    plant_fail_call(call, PLANT_THROTTLED, THROTTLED_AFTER_NS, now_ns);
    return;
  }
  double ttft_ms = spec->ttft_median_ms * exp(spec->ttft_sigma * rng_normal(rng));
  double tail = rng_uniform(rng), size = 1 - rng_uniform(rng);
  if (tail < spec->tail_share) ttft_ms *= pow(size, -1 / spec->tail_alpha);
  call->token_ns = fmax(1, spec->tpot_ms * noise(rng, spec->tpot_cv) * c.tpot * 1e6);
  call->phase = CALL_WAITING;
  call->first_ns = 0;
  timer_arm(call->plant->timers, &call->timer, now_ns + (int64_t)fmin(ttft_ms * c.ttft * 1e6, 3600e9));
}

void hosted_fired(struct plant_call *call, int64_t now_ns) {
  if (call->phase == CALL_STREAMING) {
    plant_end_call(call, now_ns);
    return;
  }
  call->phase = CALL_STREAMING;
  timer_arm(call->plant->timers, &call->timer,
            now_ns + (int64_t)ceil((call->stop_after - 1) * call->token_ns));
  plant_first_token(call, now_ns); /* may cancel the call */
}
