/* Mean utility a request is a ratio, sum of utility over sum of requests, of blocks of 10 s. With residuals
 * e_b = u_b - mean * n_b its variance is sum e_b^2 / N^2 (delta method), times the inflation that
 * neighbouring blocks which resemble each other cause: the larger of (1 + r) / (1 - r) from the lag-1
 * autocorrelation r, pushed up by half its own error, and the variance of sums over a minute against that of
 * blocks.
 *
 * Both means are measured against the variance that is usual without the change: that of the half hour
 * before. Harm is seldom steady (breakers open, the router avoids, limits recover), and the more it swings
 * the wider an interval from its own variance would be. Two things make up for what the past may not have
 * shown: a floor, as if some requests missed their target even in calm times, and a clip, so that one bad
 * block proves nothing.
 *
 * The mean before is one fixed estimate; the mean after is looked at again and again and gets a one-sided
 * confidence sequence. The two errors are independent and add in squares, with quantiles of t for the few
 * blocks. Together with the practical bound that keeps false alarms below one trial in 96: measured,
 * not derived (test_judge.c).
 *
 * Some harm builds up for minutes, while good blocks pile up that would outweigh it. So a further sequence
 * begins at every block; they share a sixth of the risk, and only a minute of plain harm that lasts to this
 * moment counts.
 *
 * Requests count when they end: those of a slow provider are seen later, but nothing is judged by the fast
 * ones alone. */

#include "evolve/judge_blocks.h"

#include "evolve/confseq.h"

#include <gsl/gsl_cdf.h>
#include <math.h>
#include <stdio.h>

#define ALPHA 0.0025
#define TUNED_BLOCKS 12.0
#define PRACTICAL 0.02
#define ALPHA_LATE 0.0005 /* over all sequences that begin later */
#define PRACTICAL_LATE 0.05
#define CALM_MISSES 0.02 /* share of requests */
#define CLIP 3.0         /* usual deviations of a block */
#define MAX_INFLATION 4.0
#define PRIOR_INFLATION 1.5
enum { HISTORY = 180, FEW = 30, MINUTE = 6, MIN_SUMS = 8, MIN_LATE = 6, MAX_LATE = 60 };

/* ---- inflation ---- */

static double from_autocorrelation(const struct series *s) {
  double products = 0.0;
  for (unsigned i = 1; i < s->count; i++)
    if (s->points[i].number == s->points[i - 1].number + 1) products += s->points[i].e * s->points[i - 1].e;
  double r = products / s->squares + 0.5 / sqrt(s->count);
  r = fmin(fmax(r, 0.0), 0.8);
  return (1.0 + r) / (1.0 - r);
}

/* Variance of sums over a minute against what independent blocks would give. */
static double from_minutes(const struct series *s) {
  unsigned sums = s->count / MINUTE;
  if (sums < MIN_SUMS) return 1.0;
  double of_sums = 0.0;
  for (unsigned k = 0; k < sums; k++) {
    double sum = 0.0;
    for (unsigned i = 0; i < MINUTE; i++)
      sum += s->points[k * MINUTE + i].e;
    of_sums += sum * sum;
  }
  double single = s->squares * sums * MINUTE / s->count;
  return of_sums / single / (1.0 - 1.0 / sums);
}

static double inflation(const struct series *history) {
  if (history->squares <= 0.0) return PRIOR_INFLATION;
  double f = fmax(from_autocorrelation(history), from_minutes(history));
  if (history->count < FEW) f = fmax(f, PRIOR_INFLATION);
  return fmin(f, MAX_INFLATION);
}

/* ---- one trial ---- */

/* Variance a request without any change: of the blocks before, at least that of CALM_MISSES. */
static double usual_variance(const struct series *history, double scale) {
  double count = history->count;
  double seen = count > 1 ? history->squares / history->n * count / (count - 1.0) : 0.0;
  return fmax(seen, CALM_MISSES * (1.0 - CALM_MISSES) * scale * scale);
}

/* The last `count` points. */
static struct series last_of(const struct series *s, unsigned count) {
  struct series last = {.count = count};
  for (unsigned i = 0; i < count; i++)
    last.points[i] = s->points[s->count - count + i];
  series_centre(&last);
  return last;
}

/* The mean with no block further from `centre` than `clip` of its usual deviations. */
static double clipped_mean(const struct series *s, double centre, double variance, double clip) {
  double sum = 0.0;
  for (unsigned i = 0; i < s->count; i++) {
    double most = clip * sqrt(variance * s->points[i].n);
    sum += fmin(fmax(s->points[i].u - centre * s->points[i].n, -most), most);
  }
  return centre + sum / s->n;
}

struct yardstick { /* what is usual, and the quantiles of a risk alpha */
  double variance, alpha, z, t;
};

static struct yardstick yardstick_of(const struct series *history, double scale, double alpha) {
  double inflated = inflation(history);
  return (struct yardstick){
      .variance = inflated * usual_variance(history, scale),
      .alpha = alpha,
      .z = gsl_cdf_ugaussian_Qinv(alpha / 2.0),
      .t = gsl_cdf_tdist_Qinv(alpha / 2.0, fmax((history->count - 1.0) / inflated, 2.0))};
}

static void compare(const struct yardstick *y, const struct series *before, const struct series *after,
                    struct judge_verdict *v) {
  double before_half = y->t * sqrt(y->variance / before->n);
  double after_half = y->t / y->z *
                      confseq_half_width_one_sided(y->variance / after->n * after->count, after->count,
                                                   y->alpha, TUNED_BLOCKS);
  double half = hypot(before_half, after_half);
  v->after = after->mean;
  v->blocks_after = (int)after->count;
  v->requests_after = after->n;
  v->effect = after->mean - before->mean;
  /* Where the deviation is known from few blocks only, what is usual is as much wider as the interval: else
   * no number of bad blocks would be enough. */
  double certain = clipped_mean(after, before->mean, y->variance, CLIP * y->t / y->z) - before->mean;
  v->low = fmin(v->effect, certain) - half;
  v->high = fmax(v->effect, certain) + half;
}

static double scale_of(double before, const struct objective *objective) {
  return fmax(fabs(before), 0.05 * objective->quality_weight);
}

static bool does_harm(const struct judge_verdict *v, const struct objective *objective, double practical) {
  return v->high < 0.0 && v->effect < -practical * scale_of(v->before, objective);
}

static double mean_of_last(const struct series *s, unsigned count) {
  double n = 0.0, u = 0.0;
  for (unsigned i = s->count - count; i < s->count; i++) {
    n += s->points[i].n;
    u += s->points[i].u;
  }
  return u / n;
}

/* Harm that came later and is there now. */
static bool has_come_late(const struct series *history, const struct series *before,
                          const struct series *after, double horizon_blocks, const struct judge_view *view,
                          struct judge_verdict *v) {
  double scale = scale_of(before->mean, view->objective);
  if (after->count <= MIN_LATE) return false;
  if (mean_of_last(after, MIN_LATE) > before->mean - PRACTICAL_LATE * scale) return false;
  struct yardstick y = yardstick_of(history, scale, ALPHA_LATE / fmax(horizon_blocks, 1.0));
  for (unsigned count = MIN_LATE; count < after->count && count <= MAX_LATE; count++) {
    struct series last = last_of(after, count);
    struct judge_verdict late = *v;
    late.late = true;
    if (last.n < JUDGE_MIN_REQUESTS) continue;
    compare(&y, before, &last, &late);
    if (!does_harm(&late, view->objective, PRACTICAL_LATE)) continue;
    *v = late;
    return true;
  }
  return false;
}

static void put_words(struct judge_verdict *v, bool enough) {
  static const char *const lead[] = {"No verdict yet", "Harm", "No harm found"};
  if (!enough)
    snprintf(v->words, sizeof v->words,
             "%s: too little traffic to judge by (%.0f requests before, %.0f after).", lead[v->finding],
             v->requests_before, v->requests_after);
  else
    snprintf(v->words, sizeof v->words,
             "%s: utility a request was %.4f over %d blocks of 10 s before and %.4f over %s%d after, a "
             "change of %+.4f (between %+.4f and %+.4f).",
             lead[v->finding], v->before, v->blocks_before, v->after, v->late ? "the last " : "",
             v->blocks_after, v->effect, v->low, v->high);
}

void judge_trial(const struct judge *j, int64_t start_ns, int64_t now_ns, int64_t horizon_ns,
                 const struct judge_view *view, struct judge_verdict *v) {
  struct series history, before, after;
  int64_t start = block_number(start_ns), now = block_number(now_ns),
          end = block_number(start_ns + horizon_ns);
  bool over = now > end;
  series_gather(j, INT64_MIN, start - 1, HISTORY, view, &history);
  series_gather(j, INT64_MIN, start - 1, JUDGE_BEFORE, view, &before);
  series_gather(j, start + 1, over ? end : now - 1, JUDGE_BLOCKS, view, &after);
  series_centre(&history);
  series_centre(&before);
  series_centre(&after);
  *v = (struct judge_verdict){.before = before.mean,
                              .after = after.mean,
                              .effect = NAN,
                              .low = NAN,
                              .high = NAN,
                              .blocks_before = (int)before.count,
                              .blocks_after = (int)after.count,
                              .requests_before = before.n,
                              .requests_after = after.n};
  bool enough = before.count >= JUDGE_MIN_BEFORE && after.count >= JUDGE_MIN_AFTER &&
                before.n >= JUDGE_MIN_REQUESTS && after.n >= JUDGE_MIN_REQUESTS;
  if (enough) {
    struct yardstick y = yardstick_of(&history, scale_of(before.mean, view->objective), ALPHA);
    compare(&y, &before, &after, v);
    bool harm = does_harm(v, view->objective, PRACTICAL) ||
                (!over && has_come_late(&history, &before, &after, (double)(end - start), view, v));
    v->finding = harm ? JUDGE_HARM : over ? JUDGE_NO_HARM : JUDGE_UNDECIDED;
  }
  put_words(v, enough);
}
