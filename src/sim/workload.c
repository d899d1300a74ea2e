/* Arrivals are a renewal process in operational time: gaps of mean 1, drawn from the trace, are stretched by
 * the rate, which is constant between two changes (steps of the daily shape, flash crowds). Everything else
 * about an intent comes from a generator of its own, seeded by its number. */

#include "sim/workload.h"

#include "sim/dataset.h"
#include "sim/scenario.h"
#include "sys/clock.h"
#include "sys/rng.h"

#include <math.h>
#include <stdlib.h>

enum { SESSIONS = 100, REMEMBERED = 10000 };

struct session {
  uint64_t id, tenant;
  unsigned turns_left;
};

struct workload {
  const struct scenario *scenario;
  const struct dataset *data;
  uint64_t seed;
  struct rng gaps;
  int64_t at_ns;
  uint64_t count;
  struct session sessions[SESSIONS];
  struct intent *past;               /* the last REMEMBERED, a ring by number */
  double *tenant_share, *past_share; /* cumulated Zipf weights */
};

static double *zipf(unsigned n, double exponent) {
  double *share = malloc(n * sizeof *share), sum = 0;
  for (unsigned i = 0; share && i < n; i++)
    share[i] = sum += pow(i + 1, -exponent);
  return share;
}

/* An index below n with the cumulated weights. */
static unsigned draw_rank(const double *share, unsigned n, double u) {
  double x = u * share[n - 1];
  unsigned low = 0, high = n - 1;
  while (low < high) {
    unsigned middle = (low + high) / 2;
    if (share[middle] > x)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

struct workload *workload_create(const struct scenario *s, const struct dataset *data, uint64_t seed) {
  struct workload *w = calloc(1, sizeof *w);
  if (!w) return NULL;
  w->scenario = s;
  w->data = data;
  w->seed = seed;
  rng_seed(&w->gaps, seed, 0x6a95);
  w->past = calloc(REMEMBERED, sizeof *w->past);
  w->tenant_share = zipf(s->tenants, 1.0);
  w->past_share = zipf(REMEMBERED, 1.1);
  if (!w->past || !w->tenant_share || !w->past_share) {
    workload_destroy(w);
    return NULL;
  }
  return w;
}

void workload_destroy(struct workload *w) {
  if (!w) return;
  free(w->past);
  free(w->tenant_share);
  free(w->past_share);
  free(w);
}

/* ---- when ---- */

static double rate_until(const struct workload *w, int64_t at_ns, int64_t *change_ns) {
  const struct scenario *s = w->scenario;
  double rate = s->mean_rps;
  *change_ns = s->length_ns;
  if (w->data->shape_step_ns) {
    int64_t step = at_ns / w->data->shape_step_ns;
    rate *= w->data->shape[(uint64_t)step % w->data->shape_count];
    if ((step + 1) * w->data->shape_step_ns < *change_ns) *change_ns = (step + 1) * w->data->shape_step_ns;
  }
  for (unsigned i = 0; i < s->event_count; i++) {
    const struct scenario_event *e = &s->events[i];
    if (e->kind != EVENT_FLASH_CROWD) continue;
    if (at_ns >= e->at_ns && at_ns < e->until_ns) rate *= e->factor;
    if (at_ns < e->at_ns && e->at_ns < *change_ns) *change_ns = e->at_ns;
    if (at_ns < e->until_ns && e->until_ns < *change_ns) *change_ns = e->until_ns;
  }
  return rate;
}

double workload_rate(const struct workload *w, int64_t at_ns) {
  int64_t change;
  return rate_until(w, at_ns, &change);
}

static bool next_arrival(struct workload *w) {
  double gap = w->data->gaps[rng_below(&w->gaps, w->data->gap_count)];
  while (w->at_ns < w->scenario->length_ns) {
    int64_t change;
    double rate = rate_until(w, w->at_ns, &change), most = rate * (double)(change - w->at_ns) / 1e9;
    if (most > gap) {
      w->at_ns += (int64_t)(gap / rate * 1e9);
      return w->at_ns < w->scenario->length_ns;
    }
    gap -= most;
    w->at_ns = change;
  }
  return false;
}

/* ---- what ---- */

static uint64_t name_of(uint64_t seed, uint64_t kind, uint64_t number) {
  uint64_t h = mix64(seed ^ mix64(number * 8 + kind));
  return h ? h : 1;
}

static void draw_session(struct workload *w, struct intent *in, struct rng *rng) {
  const struct scenario *s = w->scenario;
  struct session *session = &w->sessions[rng_below(rng, SESSIONS)];
  double tenant = rng_uniform(rng);
  uint64_t turns = s->turns_min + rng_below(rng, s->turns_max - s->turns_min + 1);
  if (session->turns_left == 0) {
    session->id = name_of(w->seed, 1, w->count);
    session->tenant = name_of(w->seed, 2, draw_rank(w->tenant_share, s->tenants, tenant));
    session->turns_left = (unsigned)turns;
  }
  session->turns_left--;
  in->session = session->id;
  in->tenant = session->tenant;
}

/* The mix of classes goes from the shares of the data to equal shares over the run. */
static uint32_t draw_prompt(const struct workload *w, struct rng *rng) {
  const struct dataset *d = w->data;
  double done = (double)w->at_ns / (double)w->scenario->length_ns, u = rng_uniform(rng), sum = 0;
  unsigned classes = w->scenario->class_count, filled = 0, c = 0;
  for (unsigned i = 0; i < classes; i++)
    filled += d->class_share[i] > 0;
  for (unsigned i = 0; i < classes; i++) {
    if (d->class_share[i] <= 0) continue;
    c = i;
    sum += (1 - done) * d->class_share[i] + done / filled;
    if (u < sum) break;
  }
  size_t n = d->class_start[c + 1] - d->class_start[c];
  return (uint32_t)(d->class_start[c] + rng_below(rng, n));
}

static enum priority draw_priority(const struct scenario *s, double u) {
  double sum = 0;
  for (int i = 0; i < PRIORITIES; i++)
    if (u < (sum += s->priorities[i])) return (enum priority)i;
  return PRIORITY_NORMAL;
}

/* A repeat asks what was asked before, as it was asked, in a session of its own. */
static bool repeat(const struct workload *w, struct intent *in, double u) {
  uint64_t known = w->count < REMEMBERED ? w->count : REMEMBERED;
  if (known == 0) return false;
  uint64_t back = 1 + draw_rank(w->past_share, (unsigned)known, u);
  const struct intent *before = &w->past[(w->count - back) % REMEMBERED];
  in->prompt = before->prompt;
  in->tokens_in = before->tokens_in;
  in->tokens_out = before->tokens_out;
  in->stream = before->stream;
  in->tenant = before->tenant;
  return true;
}

static void draw_aftermath(const struct scenario *s, struct intent *in, struct rng *rng) {
  in->comes_back = rng_uniform(rng) < s->client_retry_share;
  in->comes_back_after_ns = (int64_t)((1 + 4 * rng_uniform(rng)) * 1e9);
  in->gives_feedback = rng_uniform(rng) < s->explicit_share;
  in->feedback_wrong = rng_uniform(rng) < s->wrong_share;
  in->feedback_noise = s->noise_sigma * rng_normal(rng);
  in->feedback_after_ns = s->delay_mean_s > 0 ? (int64_t)(rng_exponential(rng, s->delay_mean_s) * 1e9) : 0;
}

bool workload_next(struct workload *w, struct intent *in) {
  const struct scenario *s = w->scenario;
  struct rng rng;
  if (!next_arrival(w)) return false;
  rng_seed(&rng, w->seed ^ mix64(w->count), 0x1e7);
  *in = (struct intent){.number = w->count, .at_ns = w->at_ns};
  draw_session(w, in, &rng);
  in->priority = draw_priority(s, rng_uniform(&rng));
  in->prompt = draw_prompt(w, &rng);
  const struct dataset_lengths *l = &w->data->lengths[rng_below(&rng, w->data->lengths_count)];
  in->tokens_in = l->in;
  in->tokens_out = l->out;
  in->stream = rng_uniform(&rng) < s->stream_share;
  double repeats = rng_uniform(&rng), which = rng_uniform(&rng);
  in->repeats = repeats < s->repeat_share && repeat(w, in, which);
  draw_aftermath(s, in, &rng);
  w->past[w->count++ % REMEMBERED] = *in;
  return true;
}

double intent_feedback(const struct intent *in, double quality) {
  double value = fmin(1, fmax(0, quality + in->feedback_noise));
  return in->feedback_wrong ? 1 - value : value;
}
