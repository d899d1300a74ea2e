#ifndef EVOLVE_JUDGE_BLOCKS_H
#define EVOLVE_JUDGE_BLOCKS_H

/* What the judge's files share: the blocks, and series of those that count. */

#include "evolve/judge.h"

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

struct point { /* one block */
  int64_t number;
  double n, u, e; /* requests, utility, residual */
};

struct series {
  unsigned count;
  double n, u, mean, squares; /* sums; mean; sum of squared residuals */
  struct point points[JUDGE_BLOCKS];
};

static inline int64_t block_number(int64_t ns) {
  return ns / JUDGE_BLOCK_NS - (ns % JUDGE_BLOCK_NS < 0);
}

static inline struct block *block_at(const struct judge *j, int64_t number) {
  return (struct block *)&j->blocks[((number % JUDGE_BLOCKS) + JUDGE_BLOCKS) % JUDGE_BLOCKS];
}

/* The blocks from..to (included) that carried traffic and are not excluded; the last `most` of them. In time
 * order. */
void series_gather(const struct judge *j, int64_t from, int64_t to, unsigned most,
                   const struct judge_view *view, struct series *s);
void series_centre(struct series *s); /* fills in sums, mean and residuals */

#endif
