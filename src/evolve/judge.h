#ifndef EVOLVE_JUDGE_H
#define EVOLVE_JUDGE_H

/* Did a change do harm? The last hour in blocks of 10 s; mean utility a request before a change against after
 * it, with a one-sided confidence sequence that stays valid though it is looked at every tick. Utility is
 * worked out anew at every judgement with one vector of qualities, so that learning about quality does not
 * look like an effect.
 *
 * Pure; one thread. */

#include "bus/limits.h"
#include "bus/objective.h"

#include <stdbool.h>
#include <stdint.h>

struct outcome;
struct judge;

enum {
  JUDGE_BLOCKS = 360, /* held: an hour */
  JUDGE_BEFORE = 60,  /* at most so many are the "before" */
  JUDGE_MIN_BEFORE = 6,
  JUDGE_MIN_AFTER = 4,     /* the first one after the change is skipped */
  JUDGE_MIN_REQUESTS = 60, /* on each side */
  JUDGE_TRIALS = 32,       /* open at once, for judge_attribute */
  JUDGE_WORDS_SIZE = 256
};

#define JUDGE_BLOCK_NS INT64_C(10000000000)

enum judge_finding {
  JUDGE_UNDECIDED, /* too little seen, or still looking; at the end of the horizon: there was no traffic to
                      judge by */
  JUDGE_HARM,
  JUDGE_NO_HARM /* the horizon has passed and no harm was found */
};

struct judge_view {        /* what better means at the time of judging */
  const double *qualities; /* of each provider */
  const struct objective *objective;
};

struct judge_verdict {
  enum judge_finding finding;
  double before, after;     /* mean utility a request; NAN without data */
  double effect, low, high; /* after - before */
  int blocks_before, blocks_after;
  bool late; /* harm: not from the start on, but in the last blocks, which `after` then means */
  double requests_before, requests_after;
  char words[JUDGE_WORDS_SIZE];
};

struct judge *judge_create(unsigned provider_count, int64_t now_ns); /* NULL: no memory */
void judge_destroy(struct judge *j);

/* Every outcome, at the tick that brought it; now_ns never goes back. */
void judge_observe(struct judge *j, const struct outcome *outcome, int64_t now_ns);

/* Requests turned away at admission: they count as served badly. */
void judge_refused(struct judge *j, uint64_t count, int64_t now_ns);

/* Judges the change made at start_ns. horizon_ns: how long to look, usually 30 minutes. */
void judge_trial(const struct judge *j, int64_t start_ns, int64_t now_ns, int64_t horizon_ns,
                 const struct judge_view *view, struct judge_verdict *verdict);

/* What a change can spoil, for judge_attribute. */
enum judge_channel {
  JUDGE_LOST = 1, /* no answer */
  JUDGE_LATE = 2, /* answered past the targets */
  JUDGE_DOLLARS = 4,
  JUDGE_QUALITY = 8 /* answered by lesser models */
};

struct judge_suspect {
  int64_t start_ns;
  unsigned channels; /* enum judge_channel that it acts through first */
};

/* Of several open trials, at least one of which was found harmful: which one did it? Suspects are those begun
 * before the utility broke, or so shortly after the likeliest break that they may be its cause just as well.
 * Of those begun within a minute of each other the one that acts through the channel that was hurt most is
 * preferred; then the latest. Returns its index, or -1 when all began too late; *onset_ns is where it broke.
 * At most JUDGE_TRIALS. */
int judge_attribute(const struct judge *j, const struct judge_suspect *suspects, unsigned count,
                    int64_t now_ns, const struct judge_view *view, int64_t *onset_ns);

/* Leaves these blocks out of every later judgement: the harm of one change must not be held against the
 * others. The blocks that hold from_ns and to_ns are left out too; from_ns lies in the past, to_ns may lie in
 * the future. */
void judge_exclude(struct judge *j, int64_t from_ns, int64_t to_ns);

/* What was measured from from_ns to to_ns: for scores of snapshots. All NAN but requests without data. */
struct judge_score {
  double requests, utility, in_target, quality, usd_per_request;
};

void judge_score(const struct judge *j, int64_t from_ns, int64_t to_ns, const struct judge_view *view,
                 struct judge_score *score);

#endif
