#ifndef BUS_OBJECTIVE_H
#define BUS_OBJECTIVE_H

/* What better means: utility of a request = quality_weight * quality * [whole and in target] - usd_weight *
 * dollars. The user's setting; router, experiments and rollback all maximise it. */

#include <stdbool.h>
#include <stdint.h>

struct objective {
  double ttft_ms, tpot_ms;           /* targets: time to first token, time per output token after it */
  double usd_weight, quality_weight; /* usd_weight: utility that a dollar is worth */
};

/* Streams: both targets. Whole answers: total time at most ttft + tpot * output tokens (ttft_ms, tpot_ms
 * unused). */
static inline bool objective_in_target(const struct objective *o, bool stream, double ttft_ms, double tpot_ms,
                                       double total_ms, uint32_t tokens_out) {
  if (stream) return ttft_ms <= o->ttft_ms && !(tpot_ms > o->tpot_ms);
  return total_ms <= o->ttft_ms + o->tpot_ms * tokens_out;
}

/* Time per token of a whole answer, whose first token nobody saw: the first counts for as many tokens as half
 * of its target is worth. Without it the wait for the first would look like slow tokens wherever answers are
 * short, and every one of them would seem late. */
static inline double objective_ms_per_token(const struct objective *o, double total_ms, uint32_t tokens_out) {
  return total_ms * o->tpot_ms / (0.5 * o->ttft_ms + o->tpot_ms * tokens_out);
}

static inline double objective_utility(const struct objective *o, double quality, bool in_target,
                                       double usd) {
  return (in_target ? o->quality_weight * quality : 0.0) - o->usd_weight * usd;
}

#endif
