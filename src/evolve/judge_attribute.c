/* Of several trials, which one did it? Utility is searched for the place where it broke, and each suspect for
 * how much of the break it can explain. */

#include "evolve/judge_blocks.h"

#include <math.h>
#include <stdlib.h>

#define AS_LIKELY 12.0 /* twice the difference of log-likelihoods, of blocks that resemble each other */
#define NEAR_NS (60 * INT64_C(1000000000))
enum { ONSET_SLACK = 2 };

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
  series_gather(j, block_number(earliest) - JUDGE_BEFORE, block_number(now_ns) - 1, JUDGE_BLOCKS, view, &s);
  series_centre(&s);
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
