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

#include "evolve/judge.h"

#include "bus/outcome.h"
#include "evolve/confseq.h"

#include <gsl/gsl_cdf.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALPHA 0.0025
#define TUNED_BLOCKS 12.0
#define PRACTICAL 0.02
#define ALPHA_LATE 0.0005 /* over all sequences that begin later */
#define PRACTICAL_LATE 0.05
#define CALM_MISSES 0.02 /* share of requests */
#define CLIP 3.0         /* usual deviations of a block */
#define AS_LIKELY 12.0   /* twice the difference of log-likelihoods, of blocks that resemble each other */
#define NEAR_NS (60 * INT64_C(1000000000))
#define MAX_INFLATION 4.0
#define PRIOR_INFLATION 1.5
enum { HISTORY = 180, FEW = 30, MINUTE = 6, MIN_SUMS = 8, ONSET_SLACK = 2, MIN_LATE = 6, MAX_LATE = 60 };

struct block {
  uint32_t answered[MAX_PROVIDERS], in_target[MAX_PROVIDERS];
  uint32_t unanswered; /* failed, shed, expired, refused, left by their clients */
  double usd;
  bool excluded;
};

struct judge {
  unsigned provider_count;
  int64_t first, newest; /* block numbers: time / JUDGE_BLOCK_NS */
  int64_t exclude_to;    /* blocks still to come are left out up to this one */
  struct block blocks[JUDGE_BLOCKS];
};

static int64_t block_number(int64_t ns) {
  return ns / JUDGE_BLOCK_NS - (ns % JUDGE_BLOCK_NS < 0);
}

static struct block *block_at(const struct judge *j, int64_t number) {
  return (struct block *)&j->blocks[((number % JUDGE_BLOCKS) + JUDGE_BLOCKS) % JUDGE_BLOCKS];
}

struct judge *judge_create(unsigned provider_count, int64_t now_ns) {
  struct judge *j = calloc(1, sizeof *j);
  if (!j) return NULL;
  j->provider_count = provider_count;
  j->first = j->newest = block_number(now_ns);
  j->exclude_to = INT64_MIN;
  return j;
}

void judge_destroy(struct judge *j) {
  free(j);
}

static struct block *advance(struct judge *j, int64_t now_ns) {
  int64_t now = block_number(now_ns);
  if (now - j->newest > JUDGE_BLOCKS) j->newest = now - JUDGE_BLOCKS;
  while (j->newest < now) {
    struct block *b = block_at(j, ++j->newest);
    memset(b, 0, sizeof *b);
    b->excluded = j->newest <= j->exclude_to;
  }
  return block_at(j, j->newest);
}

void judge_observe(struct judge *j, const struct outcome *o, int64_t now_ns) {
  struct block *b = advance(j, now_ns);
  if (o->cost_usd > 0.0 && isfinite(o->cost_usd)) b->usd += o->cost_usd;
  if (o->kind != OUTCOME_ANSWERED || o->provider >= j->provider_count) {
    b->unanswered++;
    return;
  }
  b->answered[o->provider]++;
  b->in_target[o->provider] += o->in_target;
}

void judge_refused(struct judge *j, uint64_t count, int64_t now_ns) {
  advance(j, now_ns)->unanswered += (uint32_t)count;
}

void judge_exclude(struct judge *j, int64_t from_ns, int64_t to_ns) {
  int64_t from = block_number(from_ns), to = block_number(to_ns);
  j->exclude_to = to > j->exclude_to ? to : j->exclude_to;
  for (int64_t n = from > j->newest - JUDGE_BLOCKS ? from : j->newest - JUDGE_BLOCKS + 1;
       n <= to && n <= j->newest; n++)
    block_at(j, n)->excluded = true;
}

/* ---- series ---- */

struct point {
  int64_t number;
  double n, u, e; /* requests, utility, residual */
};

struct series {
  unsigned count;
  double n, u, mean, squares; /* sums; mean; sum of squared residuals */
  struct point points[JUDGE_BLOCKS];
};

static double requests_of(const struct judge *j, const struct block *b) {
  double n = b->unanswered;
  for (unsigned p = 0; p < j->provider_count; p++)
    n += b->answered[p];
  return n;
}

static double utility_of(const struct judge *j, const struct block *b, const struct judge_view *view) {
  double u = -view->objective->usd_weight * b->usd;
  for (unsigned p = 0; p < j->provider_count; p++)
    if (b->in_target[p] > 0) u += view->objective->quality_weight * view->qualities[p] * b->in_target[p];
  return u;
}

/* The blocks from..to (included) that carried traffic and are not excluded; the last `most` of them. In time
 * order. */
static void gather(const struct judge *j, int64_t from, int64_t to, unsigned most,
                   const struct judge_view *view, struct series *s) {
  int64_t oldest = j->newest - JUDGE_BLOCKS + 1;
  if (oldest < j->first) oldest = j->first;
  if (from < oldest) from = oldest;
  if (to > j->newest) to = j->newest;
  s->count = 0;
  for (int64_t number = to; number >= from && s->count < most; number--) {
    const struct block *b = block_at(j, number);
    double n = requests_of(j, b);
    if (b->excluded || n <= 0.0) continue;
    s->points[s->count++] = (struct point){number, n, utility_of(j, b, view), 0.0};
  }
  for (unsigned i = 0; i < s->count / 2; i++) {
    struct point swapped = s->points[i];
    s->points[i] = s->points[s->count - 1 - i];
    s->points[s->count - 1 - i] = swapped;
  }
}

static void centre(struct series *s) {
  s->n = s->u = s->squares = 0.0;
  for (unsigned i = 0; i < s->count; i++) {
    s->n += s->points[i].n;
    s->u += s->points[i].u;
  }
  s->mean = s->n > 0.0 ? s->u / s->n : NAN;
  for (unsigned i = 0; i < s->count; i++) {
    s->points[i].e = s->points[i].u - s->mean * s->points[i].n;
    s->squares += s->points[i].e * s->points[i].e;
  }
}

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
  centre(&last);
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
  gather(j, INT64_MIN, start - 1, HISTORY, view, &history);
  gather(j, INT64_MIN, start - 1, JUDGE_BEFORE, view, &before);
  gather(j, start + 1, over ? end : now - 1, JUDGE_BLOCKS, view, &after);
  centre(&history);
  centre(&before);
  centre(&after);
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

/* ---- which trial ---- */

/* The split with the largest fall, each side weighed by its requests: the maximum of the CUSUM statistic,
 * which is also the likeliest place of one break. */
struct breaks {
  int64_t at;                 /* number of the first block behind it; INT64_MIN: nothing fell */
  double gain;                /* squares that it explains */
  double gains[JUDGE_BLOCKS]; /* of a split before each point; 0 where utility rose */
};

static void find_break(const struct series *s, struct breaks *found) {
  double n = 0.0, u = 0.0;
  found->at = INT64_MIN;
  found->gain = found->gains[0] = 0.0;
  for (unsigned i = 0; i + 1 < s->count; i++) {
    n += s->points[i].n;
    u += s->points[i].u;
    double fall = u / n - (s->u - u) / (s->n - n);
    double gain = found->gains[i + 1] = fall > 0.0 ? fall * fall * n * (s->n - n) / s->n : 0.0;
    if (gain <= found->gain) continue;
    found->gain = gain;
    found->at = s->points[i + 1].number;
  }
}

/* Squares that one block's noise explains in the mean. */
static double noise_of(const struct series *s, const struct breaks *found) {
  double all = 0.0;
  for (unsigned i = 0; i < s->count; i++)
    all += s->points[i].e * s->points[i].e / s->points[i].n;
  return fmax(all - found->gain, 0.0) / s->count;
}

/* What a break caused at `start` explains at most. An effect may be late, never early. */
static double explained_by(const struct series *s, const struct breaks *found, int64_t start) {
  double most = start <= found->at ? found->gain : 0.0;
  for (unsigned i = 1; i < s->count; i++)
    if (s->points[i].number >= start && s->points[i].number <= start + 1) most = fmax(most, found->gains[i]);
  return most;
}

struct parts { /* of the blocks of one side of a break */
  double n, answered, in_target, quality, usd;
};

static struct parts parts_of(const struct judge *j, const struct series *s, int64_t from, int64_t to,
                             const struct judge_view *view) {
  struct parts sum = {0};
  for (unsigned i = 0; i < s->count; i++) {
    if (s->points[i].number < from || s->points[i].number > to) continue;
    const struct block *b = block_at(j, s->points[i].number);
    sum.n += s->points[i].n;
    sum.usd += b->usd;
    for (unsigned p = 0; p < j->provider_count; p++) {
      sum.answered += b->answered[p];
      sum.in_target += b->in_target[p];
      if (b->answered[p] > 0) sum.quality += view->qualities[p] * b->answered[p];
    }
  }
  return sum;
}

/* The channel through which most of the utility went at the break. */
static unsigned hurt_channel(const struct judge *j, const struct series *s, int64_t onset,
                             const struct judge_view *view) {
  struct parts a = parts_of(j, s, INT64_MIN, onset - 1, view), b = parts_of(j, s, onset, INT64_MAX, view);
  double worth = view->objective->quality_weight, quality = a.quality / fmax(a.answered, 1.0);
  double lost = (a.answered / a.n - b.answered / b.n) * quality * worth;
  double late = ((b.answered - b.in_target) / b.n - (a.answered - a.in_target) / a.n) * quality * worth;
  double dollars = (b.usd / b.n - a.usd / a.n) * view->objective->usd_weight;
  double lesser = (quality - b.quality / fmax(b.answered, 1.0)) * b.in_target / b.n * worth;
  const double losses[] = {lost, late, dollars, lesser};
  unsigned most = 0;
  for (unsigned c = 1; c < 4; c++)
    if (losses[c] > losses[most]) most = c;
  return 1u << most;
}

/* Whether b is a better suspect than a. `clear`: from which difference one explains clearly more. */
static bool suspects_more(const struct judge_suspect *a, double by_a, const struct judge_suspect *b,
                          double by_b, unsigned hurt, double clear) {
  bool near = llabs(a->start_ns - b->start_ns) <= NEAR_NS;
  bool hurts_a = a->channels & hurt, hurts_b = b->channels & hurt;
  if (fabs(by_a - by_b) > clear) return by_b > by_a;
  return near && hurts_a != hurts_b ? hurts_b : b->start_ns >= a->start_ns;
}

int judge_attribute(const struct judge *j, const struct judge_suspect *suspects, unsigned count,
                    int64_t now_ns, const struct judge_view *view, int64_t *onset_ns) {
  int64_t earliest = INT64_MAX;
  for (unsigned i = 0; i < count; i++)
    if (suspects[i].start_ns < earliest) earliest = suspects[i].start_ns;
  if (count == 0) return -1;
  struct series s;
  struct breaks found;
  gather(j, block_number(earliest) - JUDGE_BEFORE, block_number(now_ns) - 1, JUDGE_BLOCKS, view, &s);
  centre(&s);
  find_break(&s, &found);
  if (found.at == INT64_MIN) return -1;
  *onset_ns = found.at * JUDGE_BLOCK_NS;
  unsigned hurt = hurt_channel(j, &s, found.at, view);
  double clear = AS_LIKELY * noise_of(&s, &found), by_best = 0.0;
  int best = -1;
  for (unsigned i = 0; i < count; i++) {
    int64_t start = block_number(suspects[i].start_ns);
    double by = explained_by(&s, &found, start);
    if (start > found.at + ONSET_SLACK && found.gain - by > clear) continue;
    if (best >= 0 && !suspects_more(&suspects[best], by_best, &suspects[i], by, hurt, clear)) continue;
    best = (int)i;
    by_best = by;
  }
  return best;
}

void judge_score(const struct judge *j, int64_t from_ns, int64_t to_ns, const struct judge_view *view,
                 struct judge_score *score) {
  double n = 0.0, u = 0.0, hits = 0.0, answered = 0.0, quality = 0.0, usd = 0.0;
  int64_t from = block_number(from_ns), to = block_number(to_ns);
  if (from < j->newest - JUDGE_BLOCKS + 1) from = j->newest - JUDGE_BLOCKS + 1;
  for (int64_t number = from < j->first ? j->first : from; number <= to && number <= j->newest; number++) {
    const struct block *b = block_at(j, number);
    n += requests_of(j, b);
    u += utility_of(j, b, view);
    usd += b->usd;
    for (unsigned p = 0; p < j->provider_count; p++) {
      hits += b->in_target[p];
      answered += b->answered[p];
      if (b->answered[p] > 0) quality += view->qualities[p] * b->answered[p];
    }
  }
  *score = (struct judge_score){.requests = n,
                                .utility = n > 0.0 ? u / n : NAN,
                                .in_target = n > 0.0 ? hits / n : NAN,
                                .quality = answered > 0.0 ? quality / answered : NAN,
                                .usd_per_request = n > 0.0 ? usd / n : NAN};
}
