/* Outcomes, summed in blocks of 10 s. */

#include "evolve/judge_blocks.h"

#include "bus/outcome.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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

void series_gather(const struct judge *j, int64_t from, int64_t to, unsigned most,
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

void series_centre(struct series *s) {
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
