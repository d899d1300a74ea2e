/* Trials: changes that are judged. One trial at a time in an effect group, so that an outcome has one cause.
 * Every ten seconds (at once when an incident becomes critical) each open trial is compared with the time
 * before it. Harm undoes the trial that did it, which with several open is the latest begun before the
 * utility broke; the harmful stretch is then left out when the others are judged. */

#include "loop/internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLOSE_NS (120 * NS_PER_S)
#define SETTLE_NS (20 * NS_PER_S) /* after an undo, before blocks count again */

uint32_t groups_taken(const struct loop *loop) {
  uint32_t groups = probation_groups(loop->probation);
  for (unsigned i = 0; i < loop->trial_count; i++)
    groups |= loop->trials[i].groups;
  for (unsigned i = 0; i < loop->experiment_count; i++)
    groups |= 1u << tunable_infos[experiment_spec(loop->experiments[i].experiment)->key.id].group;
  return groups;
}

bool trials_full(const struct loop *loop) {
  return loop->trial_count == TRIALS_MAX;
}

struct trial *trial_open(struct loop *loop, const char *actor, bool guarded) {
  struct trial *t = &loop->trials[loop->trial_count++];
  *t = (struct trial){.start_ns = loop->now_ns, .guarded = guarded};
  snprintf(t->actor, sizeof t->actor, "%s", actor);
  return t;
}

void trial_add(struct loop *loop, struct trial *t, struct tunable_key key, double from, double to,
               int64_t ledger_id) {
  const struct tunable_info *info = &tunable_infos[key.id];
  (void)loop;
  if (t->change_count == 0) t->id = ledger_id;
  t->changes[t->change_count].key = key;
  t->changes[t->change_count].from = from;
  t->changes[t->change_count].to = to;
  t->changes[t->change_count++].ledger_id = ledger_id;
  t->groups |= 1u << info->group;
  if (info->window_s * NS_PER_S > t->window_ns) t->window_ns = info->window_s * NS_PER_S;
}

void judge_qualities(const struct loop *loop, double *qualities) {
  for (unsigned i = 0; i < loop->plane->provider_count; i++)
    qualities[i] = router_quality(loop->router, i);
}

static void close_trial(struct loop *loop, unsigned i, const char *outcome, const struct judge_verdict *v,
                        const char *words) {
  struct trial *t = &loop->trials[i];
  for (unsigned c = 0; c < t->change_count; c++) {
    struct judgement_row row = {.ledger_id = t->changes[c].ledger_id,
                                .wall_ms = loop->wall_ms,
                                .outcome = outcome,
                                .effect = v ? v->effect : NAN,
                                .low = v ? v->low : NAN,
                                .high = v ? v->high : NAN,
                                .words = words};
    loop->sink->judgement(loop->sink->ctx, &row);
  }
  loop->trials[i] = loop->trials[--loop->trial_count];
}

/* Two changes so close that nothing told them apart: the first one that was undone was the wrong one when
 * harm went on without it. Then it is made again, and judged again. `culprit` is the one undone now. */
static void revise(struct loop *loop, const struct trial *culprit) {
  const struct trial *wrong = &loop->undone;
  bool close = llabs(culprit->start_ns - wrong->start_ns) <= CLOSE_NS && culprit->start_ns < loop->undone_ns;
  if (!loop->undone_ns || !close || loop->now_ns - loop->undone_ns > wrong->window_ns) return;
  if (trials_full(loop) || groups_taken(loop) & wrong->groups) return;
  for (unsigned c = 0; c < wrong->change_count; c++) {
    const struct actuator *a = actuator_of(loop, wrong->changes[c].key);
    if (value_now(loop, wrong->changes[c].key) != wrong->changes[c].from || is_held(a, loop->wall_ms)) return;
  }
  char reason[REASON_SIZE];
  snprintf(reason, sizeof reason,
           "made again: harm went on without it, so it was not the cause; trial %lld was",
           (long long)culprit->id);
  struct trial *again = trial_open(loop, wrong->actor, true);
  for (unsigned c = 0; c < wrong->change_count; c++) {
    struct tunable_key key = wrong->changes[c].key;
    int64_t id = apply_change(loop, key, wrong->changes[c].to, "judge", reason, NULL, c ? again->id : -1);
    trial_add(loop, again, key, wrong->changes[c].from, wrong->changes[c].to, id);
    actuator_of(loop, key)->hold_until_ms = INT64_MAX;
    put_value(loop, key);
    regulators_moved(loop, key);
  }
}

void leave_out_harm(struct loop *loop, int64_t onset_ns) {
  judge_exclude(loop->judge, onset_ns, loop->now_ns + SETTLE_NS);
}

static void undo(struct loop *loop, unsigned i, const struct judge_verdict *v, int64_t onset_ns) {
  struct trial t = loop->trials[i];
  for (unsigned c = 0; c < t.change_count; c++) {
    struct tunable_key key = t.changes[c].key;
    struct actuator *a = actuator_of(loop, key);
    if (value_now(loop, key) != t.changes[c].to) continue; /* its controller or somebody else moved on */
    a->hold_until_ms = 0;
    apply_change(loop, key, t.changes[c].from, "rollback", v->words, NULL, t.id);
    regulators_moved(loop, key);
  }
  leave_out_harm(loop, onset_ns);
  close_trial(loop, i, "undone", v, v->words);
  revise(loop, &t);
  loop->undone = t;
  loop->undone_ns = loop->now_ns;
}

static void judge_with(const struct loop *loop, const struct trial *t, const double *qualities,
                       struct judge_verdict *v) {
  struct judge_view view = {qualities, &loop->plane->objective};
  judge_trial(loop->judge, t->start_ns, loop->now_ns, t->window_ns, &view, v);
}

/* Through what the values of an effect group can do harm. */
static const unsigned channels_of_group[GROUPS] = {
    [GROUP_BUFFERS] = JUDGE_LOST,
    [GROUP_QUEUE] = JUDGE_LOST | JUDGE_LATE,
    [GROUP_ADMISSION] = JUDGE_LOST,
    [GROUP_BREAKER] = JUDGE_LOST | JUDGE_QUALITY,
    [GROUP_RETRY] = JUDGE_LOST,
    [GROUP_TIMEOUTS] = JUDGE_LOST | JUDGE_LATE | JUDGE_QUALITY,
    [GROUP_LIMITS] = JUDGE_LOST | JUDGE_LATE | JUDGE_QUALITY,
    [GROUP_SCALE] = JUDGE_LATE | JUDGE_DOLLARS,
    [GROUP_ROUTING] = JUDGE_LATE | JUDGE_DOLLARS | JUDGE_QUALITY,
    [GROUP_COALESCE] = JUDGE_DOLLARS,
    [GROUP_MEMORY] = JUDGE_LOST,
};

unsigned channels_of(uint32_t groups) {
  unsigned channels = 0;
  for (unsigned g = 0; g < GROUPS; g++)
    if (groups >> g & 1) channels |= channels_of_group[g];
  return channels;
}

/* The harm found in a trial goes to the likeliest cause. True when something was undone. */
static bool attribute(struct loop *loop, const double *qualities) {
  struct judge_suspect suspects[TRIALS_MAX];
  int64_t onset_ns;
  struct judge_view view = {qualities, &loop->plane->objective};
  for (unsigned i = 0; i < loop->trial_count; i++)
    suspects[i] = (struct judge_suspect){loop->trials[i].start_ns, channels_of(loop->trials[i].groups)};
  int culprit = judge_attribute(loop->judge, suspects, loop->trial_count, loop->now_ns, &view, &onset_ns);
  if (culprit < 0 || !loop->trials[culprit].guarded) return false;
  struct judge_verdict v;
  judge_with(loop, &loop->trials[culprit], qualities, &v);
  if (v.finding != JUDGE_HARM) return false;
  undo(loop, (unsigned)culprit, &v, onset_ns);
  return true;
}

void trials_run(struct loop *loop) {
  if (loop->now_ns - loop->judged_ns < JUDGE_BLOCK_NS && !loop->critical) return;
  loop->judged_ns = loop->now_ns;
  double qualities[MAX_PROVIDERS];
  judge_qualities(loop, qualities);
  for (unsigned i = loop->trial_count; i-- > 0;) {
    struct judge_verdict v;
    judge_with(loop, &loop->trials[i], qualities, &v);
    if (v.finding == JUDGE_HARM && attribute(loop, qualities))
      return; /* the list has changed; the rest is judged at the next block */
    if (v.finding == JUDGE_NO_HARM ||
        loop->now_ns - loop->trials[i].start_ns > loop->trials[i].window_ns + JUDGE_BLOCK_NS)
      close_trial(loop, i, "kept", &v, v.words);
  }
}

void trials_end_on(struct loop *loop, struct tunable_key key, const char *outcome, const char *words) {
  for (unsigned i = loop->trial_count; i-- > 0;)
    for (unsigned c = 0; c < loop->trials[i].change_count; c++) {
      struct tunable_key k = loop->trials[i].changes[c].key;
      if (k.id != key.id || k.provider != key.provider) continue;
      close_trial(loop, i, outcome, NULL, words);
      break;
    }
}
