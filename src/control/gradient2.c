/* Per window of at least ten samples and one second, with L the limit, T the window's mean latency and T_long
 * its exponential mean over 600 windows:
 *
 *   g = clamp(1.5 T_long / T, 0.5, 1)        L <- 0.8 L + 0.2 (g L + 4)
 *
 * No change while fewer than L/2 calls are in flight: nothing is learned about a limit that does not bind.
 * When T_long is more than twice T it is pulled down by 5 %, for it was learned under load. At rest L (1 - g)
 * = 4, so by itself the limit does not fall under 8; and T_long rises with an overload that lasts. Both are
 * why a target may be given: above it the limit shrinks by a tenth a window, as AIMD does, provided that the
 * latency is also half as much again as the least one known (a provider that is slow when idle is not helped
 * by fewer calls). The least of many noisy windows is far below what is usual: where the noise is a
 * provider's own and not the queue that we make, the least is that of a mean over several windows.
 *
 * A server may be full long before half of its limit is in flight: it refuses what its queue does not hold,
 * and the limit would never bind. So when latency has been above the target for three windows in succession a
 * limit that does not bind shrinks, too, to twice what is in flight; from there on it is one that binds. One
 * window, or two, may be the slow answers that every provider has. */

#include "control/gradient2.h"

#include <math.h>

const struct gradient2_settings gradient2_defaults = {
    .min = 1,
    .max = 1000,
    .smoothing = 0.2,
    .queue = 4,
    .tolerance = 1.5,
    .long_window = 600,
    .min_samples = 10,
    .min_window_ns = INT64_C(1000000000),
    .max_window_ns = INT64_C(60000000000),
    .target_ms = NAN,
    .least_over = 1,
};

enum { WARMUP = 10, LASTING = 3 };
static const double shortest_ms = 0.1; /* less is an error answered at once, not a model */
static const double over_least = 1.5, cut = 0.9, least_growth = 1.001;

double warm_mean_add(struct warm_mean *m, double window, uint32_t warmup, double sample) {
  if (m->count < warmup) {
    m->count++;
    m->sum += sample;
    m->value = m->sum / m->count;
    return m->value;
  }
  double weight = 2 / (window + 1);
  m->value = m->value * (1 - weight) + sample * weight;
  return m->value;
}

static double clamp(double x, double low, double high) {
  return x < low ? low : x > high ? high : x;
}

static void open_window(struct gradient2 *g, int64_t now_ns) {
  g->window_sum_ms = 0;
  g->window_samples = 0;
  g->window_in_flight = 0;
  g->window_start_ns = now_ns;
}

void gradient2_init(struct gradient2 *g, const struct gradient2_settings *s, double limit) {
  *g = (struct gradient2){
      .limit = isnan(limit) ? s->min : clamp(limit, s->min, s->max), .least_ms = NAN, .stepped_ns = -1};
  open_window(g, -1);
}

static void collect(struct gradient2 *g, const struct gradient2_settings *s,
                    const struct gradient2_sample *sample) {
  bool stale = g->window_start_ns >= 0 && sample->now_ns - g->window_start_ns > s->max_window_ns;
  if (g->window_start_ns < 0 || stale) open_window(g, sample->now_ns);
  if (sample->in_flight > g->window_in_flight) g->window_in_flight = sample->in_flight;
  if (sample->samples == 0 || !isfinite(sample->mean_ms) || sample->mean_ms < shortest_ms) return;
  g->window_sum_ms += sample->mean_ms * (double)sample->samples;
  g->window_samples += sample->samples;
}

/* T_long with this window in it, pulled down when it was learned under load. */
static double long_term(struct gradient2 *g, const struct gradient2_settings *s, double now_ms) {
  double mean = warm_mean_add(&g->long_ms, s->long_window, WARMUP, now_ms);
  if (mean / now_ms > 2) g->long_ms.value *= 0.95;
  double smooth = warm_mean_add(&g->smooth_ms, 2.0 * s->least_over - 1, s->least_over, now_ms);
  if (g->smooth_ms.count >= s->least_over) /* the first answers to come are the quick ones */
    g->least_ms = isnan(g->least_ms) ? smooth : fmin(smooth, g->least_ms * least_growth);
  return mean;
}

static bool above_target(const struct gradient2 *g, const struct gradient2_settings *s, double now_ms) {
  return now_ms > s->target_ms && now_ms > over_least * g->least_ms; /* false when either is NAN */
}

static double whole(const struct gradient2 *g) {
  return floor(g->limit + 1e-9);
}

static void step(struct gradient2 *g, const struct gradient2_settings *s, double now_ms, uint32_t in_flight,
                 struct decision *decision) {
  double current = whole(g), before = g->limit, usual_ms = long_term(g, s, now_ms);
  bool cuts = above_target(g, s, now_ms), binds = in_flight >= before / 2;
  g->above = cuts ? g->above + 1 : 0;
  if (!binds && g->above < LASTING) {
    decision_keep(decision, current, "%u in flight use less than half of %.0f", in_flight, current);
    return;
  }
  double gradient = clamp(s->tolerance * usual_ms / now_ms, 0.5, 1);
  double wish = before * (1 - s->smoothing) + (before * gradient + s->queue) * s->smoothing;
  if (cuts) wish = fmin(wish, binds ? before * cut : fmax(before * cut, 2.0 * in_flight));
  g->limit = clamp(wish, s->min, s->max);
  if (cuts)
    decision_wish(decision, current, whole(g), "latency %.1f ms above the target of %.0f ms, usual %.1f ms",
                  now_ms, s->target_ms, usual_ms);
  else
    decision_wish(decision, current, whole(g),
                  "latency %.1f ms against usual %.1f ms: gradient %.2f, %u in flight", now_ms, usual_ms,
                  gradient, in_flight);
}

void gradient2_update(struct gradient2 *g, const struct gradient2_settings *s,
                      const struct gradient2_sample *sample, struct decision *decision) {
  collect(g, s, sample);
  if (g->window_samples == 0) {
    decision_blind(decision, whole(g), "no answers: held");
    return;
  }
  if (g->window_samples < s->min_samples || sample->now_ns - g->window_start_ns < s->min_window_ns) {
    decision_keep(decision, whole(g), "window not full: %llu answers", (unsigned long long)g->window_samples);
    return;
  }
  double now_ms = g->window_sum_ms / (double)g->window_samples;
  uint32_t in_flight = g->window_in_flight;
  open_window(g, sample->now_ns);
  g->stepped_ns = sample->now_ns;
  step(g, s, now_ms, in_flight, decision);
}

bool gradient2_is_deaf(const struct gradient2 *g, const struct gradient2_settings *s, int64_t now_ns) {
  return g->stepped_ns < 0 || now_ns - g->stepped_ns > s->max_window_ns;
}

void gradient2_applied(struct gradient2 *g, const struct gradient2_settings *s, double applied) {
  if (!isfinite(applied) || applied == whole(g)) return;
  g->limit = clamp(applied, s->min, s->max);
}
