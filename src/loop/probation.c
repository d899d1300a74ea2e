/* Regulation is not judged step by step. But when utility breaks after a controller began to move a value,
 * and neither an open trial nor an incident at a provider nor a rush of requests explains it better, the
 * controller is suspected, and the values that it moved are tried both ways:
 *
 *   put back to where they were five calm minutes before, for a minute;
 *   given back as the controller had them, for a minute;
 *   put back and held, if a good part of the fall came back the first time and went the second.
 *
 * When one controller spoils something the others answer it and move, too: whoever moved furthest is tried
 * first, the rest one after another.
 *
 * A fall that has another cause does not follow the values: then they are given back at once, and the
 * controller is left in peace for half an hour. Holds end by themselves and double with each relapse. */

#include "loop/internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SETTLE_NS (20 * NS_PER_S) /* of a phase, before its blocks count */
#define PHASE_NS (70 * NS_PER_S)
#define COLD_NS (180 * NS_PER_S)       /* longer for instances: they start slowly */
#define LATEST_NS (20 * 60 * NS_PER_S) /* a value left alone for longer is not suspected */
#define CALM_NS (60 * NS_PER_S)        /* between two samples of what is good */
#define FORGET_NS (30 * 60 * NS_PER_S) /* a fall that lasted for so long is the new usual */
#define PEACE_NS (30 * 60 * NS_PER_S)
#define HOLD_NS (10 * 60 * NS_PER_S)
#define CLEARLY 0.04   /* of utility */
#define PLAINLY 4      /* times as much */
#define COMES_BACK 0.3 /* of what was lost */
#define MOVED 0.1      /* of the value */
#define RUSH 1.5       /* times as many requests, some of which are clients that try again */
enum { DOUBLINGS = 3, CALM = 6 };

struct calm { /* while utility was as usual */
  int64_t at_ns;
  double values[TUNABLES][MAX_PROVIDERS];
};

enum phase { FREE, PUT_BACK, GIVEN_BACK };

struct probation {
  enum phase phase;
  enum tunable_owner owner;
  int64_t phase_ns, onset_ns, looked_ns;
  double before, with,
      without; /* utility a request: before the fall, with the controller's values, put back */
  unsigned count;
  struct {
    struct tunable_key key;
    double good, bad;
    int64_t episode, hold_ms;
  } values[MAX_PROVIDERS];
  struct calm calm[CALM]; /* oldest first */
  unsigned calm_count;
  double usual; /* utility a request at the last of them */
  int64_t peace_ns[OWNERS];
  unsigned relapses[OWNERS];
  int64_t held_until_ms[TUNABLES][MAX_PROVIDERS]; /* of the convicted; 0: not held */
};

struct probation *probation_create(void) {
  return calloc(1, sizeof(struct probation));
}

void probation_destroy(struct probation *p) {
  free(p);
}

uint32_t probation_groups(const struct probation *p) {
  return p->phase == FREE ? 0 : 1u << tunable_infos[p->values[0].key.id].group;
}

static double utility_of(struct loop *loop, int64_t from_ns, int64_t to_ns, double *requests) {
  double qualities[MAX_PROVIDERS];
  struct judge_view view = {qualities, &loop->plane->objective};
  struct judge_score score;
  judge_qualities(loop, qualities);
  judge_score(loop->judge, from_ns, to_ns, &view, &score);
  if (requests) *requests = score.requests;
  return score.utility;
}

static double least_difference(const struct loop *loop, double utility) {
  return CLEARLY * fmax(fabs(utility), 0.05 * loop->plane->objective.quality_weight);
}

/* ---- suspicion ---- */

static double good_value(const struct loop *loop, struct tunable_key key) {
  const struct probation *p = loop->probation;
  return p->calm_count ? p->calm[0].values[key.id][key.provider] : value_now(loop, key);
}

static double ratio(double a, double b) {
  return fmax(fabs(a), fabs(b)) / fmax(fmin(fabs(a), fabs(b)), 1e-6);
}

static bool is_moved(struct loop *loop, struct tunable_key key) {
  const struct actuator *a = actuator_of(loop, key);
  double good = good_value(loop, key);
  return tunable_infos[key.id].owner != OWNER_PERSON && a->acted_ns && a->episode.count > 0 &&
         loop->now_ns - a->acted_ns <= LATEST_NS && strncmp(a->author, "controller:", 11) == 0 &&
         fabs(value_now(loop, key) - good) > MOVED * fabs(good) && !is_held(a, loop->wall_ms) &&
         !a->experiment && loop->now_ns >= loop->probation->peace_ns[tunable_infos[key.id].owner];
}

/* When the value was last seen to be good. */
static int64_t moved_since_ns(struct loop *loop, struct tunable_key key) {
  const struct probation *p = loop->probation;
  double good = good_value(loop, key);
  for (unsigned i = p->calm_count; i-- > 0;)
    if (fabs(p->calm[i].values[key.id][key.provider] - good) <= MOVED * fabs(good)) return p->calm[i].at_ns;
  return actuator_of(loop, key)->episode.opened_ns;
}

static bool is_explained(struct loop *loop, int64_t onset_ns) {
  double before, after;
  int64_t long_ns = JUDGE_BEFORE * JUDGE_BLOCK_NS, now_ns = loop->now_ns - JUDGE_BLOCK_NS;
  utility_of(loop, onset_ns - long_ns, onset_ns - 1, &before);
  utility_of(loop, onset_ns, now_ns, &after);
  bool rush = after / (double)(now_ns - onset_ns + JUDGE_BLOCK_NS) > RUSH * before / (double)long_ns;
  int64_t since_ms = loop->wall_ms - (loop->now_ns - onset_ns + CALM_NS) / NS_PER_MS;
  for (unsigned i = 0; i < loop->plane->provider_count && !rush; i++)
    if (watchers_at(loop, i, since_ms)) return true;
  return rush;
}

/* The value that moved furthest from where it was good. */
static bool find_moved(struct loop *loop, struct tunable_key *found) {
  double furthest = 0;
  for (struct tunable_key key = {0, 0}; key.id < TUNABLES; key = key_after(loop, key)) {
    double far = is_moved(loop, key) ? ratio(value_now(loop, key), good_value(loop, key)) : 0;
    if (far <= furthest) continue;
    furthest = far;
    *found = key;
  }
  return furthest > 0;
}

static bool is_certain(struct loop *loop, const struct judge_view *view) {
  const struct probation *p = loop->probation;
  struct judge_verdict verdict;
  if (p->calm_count == 0) return false;
  judge_trial(loop->judge, p->calm[p->calm_count - 1].at_ns, loop->now_ns, FORGET_NS, view, &verdict);
  return verdict.finding == JUDGE_HARM;
}

/* A value to suspect; false: there is none, or an open trial explains the fall better. */
static bool find_suspect(struct loop *loop, struct tunable_key *suspect, int64_t *onset_ns) {
  struct judge_suspect suspects[TRIALS_MAX + 1];
  double qualities[MAX_PROVIDERS];
  struct judge_view view = {qualities, &loop->plane->objective};
  unsigned count = 0;
  judge_qualities(loop, qualities);
  for (; count < loop->trial_count && count + 1 < JUDGE_TRIALS; count++) {
    const struct trial *t = &loop->trials[count];
    struct judge_verdict verdict;
    judge_trial(loop->judge, t->start_ns, loop->now_ns, t->window_ns, &view, &verdict);
    if (verdict.effect < -least_difference(loop, verdict.before))
      return false; /* judged before any controller */
    suspects[count] = (struct judge_suspect){t->start_ns, channels_of(t->groups)};
  }
  if (!is_certain(loop, &view) || !find_moved(loop, suspect)) return false;
  suspects[count] = (struct judge_suspect){moved_since_ns(loop, *suspect),
                                           channels_of(1u << tunable_infos[suspect->id].group)};
  return judge_attribute(loop->judge, suspects, count + 1, loop->now_ns, &view, onset_ns) == (int)count;
}

/* ---- the two ways ---- */

static void put(struct loop *loop, unsigned i, double value, int64_t hold_ns, const char *reason) {
  struct probation *p = loop->probation;
  struct actuator *a = actuator_of(loop, p->values[i].key);
  a->hold_until_ms = p->values[i].hold_ms = hold_ns ? loop->wall_ms + hold_ns / NS_PER_MS : 0;
  apply_change(loop, p->values[i].key, value, "judge", reason, NULL, 0);
  regulators_moved(loop, p->values[i].key);
}

static void put_all(struct loop *loop, bool good, int64_t hold_ns, const char *reason) {
  struct probation *p = loop->probation;
  for (unsigned i = 0; i < p->count; i++)
    put(loop, i, good ? p->values[i].good : p->values[i].bad, hold_ns, reason);
}

static int64_t extra_ns(const struct probation *p) {
  return p->owner == OWNER_AUTOSCALER ? COLD_NS : 0;
}

static void enter(struct loop *loop, enum phase phase, const char *reason) {
  struct probation *p = loop->probation;
  p->phase = phase;
  p->phase_ns = loop->now_ns;
  put_all(loop, phase == PUT_BACK, 2 * (PHASE_NS + extra_ns(p)), reason);
}

/* Everything that the same controller moved: a bad sensor seldom spoils one value alone. */
static void suspect_owner(struct loop *loop, struct tunable_key suspect, int64_t onset_ns) {
  struct probation *p = loop->probation;
  p->with = utility_of(loop, fmax(onset_ns, loop->now_ns - PHASE_NS), loop->now_ns - JUDGE_BLOCK_NS, NULL);
  if (isnan(p->with)) return; /* nobody called since */
  p->owner = tunable_infos[suspect.id].owner;
  p->onset_ns = onset_ns;
  p->count = 0;
  for (struct tunable_key key = {0, 0}; key.id < TUNABLES && p->count < MAX_PROVIDERS;
       key = key_after(loop, key)) {
    const struct episode *e = &actuator_of(loop, key)->episode;
    if (tunable_infos[key.id].owner != p->owner || !is_moved(loop, key)) continue;
    p->values[p->count].key = key;
    p->values[p->count].good = good_value(loop, key);
    p->values[p->count].bad = value_now(loop, key);
    p->values[p->count++].episode = e->id;
    end_episode(loop, key);
  }
  char reason[REASON_SIZE];
  snprintf(reason, sizeof reason,
           "put back to see whether its controller did harm: utility a request fell from %.3f to %.3f after "
           "it began",
           p->before, p->with);
  enter(loop, PUT_BACK, reason);
}

static void remember_calm(struct loop *loop, double utility) {
  struct probation *p = loop->probation;
  if (p->calm_count && loop->now_ns - p->calm[p->calm_count - 1].at_ns < CALM_NS) return;
  if (p->calm_count == CALM) memmove(p->calm, p->calm + 1, --p->calm_count * sizeof *p->calm);
  struct calm *calm = &p->calm[p->calm_count++];
  calm->at_ns = loop->now_ns;
  for (struct tunable_key key = {0, 0}; key.id < TUNABLES; key = key_after(loop, key))
    calm->values[key.id][key.provider] = value_settled(loop, key);
  p->usual = utility;
}

/* Whether utility is clearly below the usual. Where it is not, which is the rule, the values in force are
 * good. */
static bool has_fallen(struct loop *loop) {
  struct probation *p = loop->probation;
  double usual = utility_of(loop, loop->now_ns - 2 * JUDGE_BEFORE * JUDGE_BLOCK_NS, loop->now_ns, NULL),
         lately = utility_of(loop, loop->now_ns - PHASE_NS, loop->now_ns - JUDGE_BLOCK_NS, NULL);
  if (isnan(lately)) return false; /* nobody called: neither calm nor a fall */
  bool remembered = p->calm_count && loop->now_ns - p->calm[p->calm_count - 1].at_ns < FORGET_NS;
  p->before = remembered && p->usual > usual ? p->usual : usual;
  if (p->before - lately > least_difference(loop, p->before)) return true;
  remember_calm(loop, usual);
  return false;
}

static void look(struct loop *loop) {
  struct probation *p = loop->probation;
  struct tunable_key suspect = {0, 0};
  int64_t onset_ns;
  if (loop->now_ns - p->looked_ns < JUDGE_BLOCK_NS) return;
  p->looked_ns = loop->now_ns;
  if (!has_fallen(loop) || !find_suspect(loop, &suspect, &onset_ns) || is_explained(loop, onset_ns)) return;
  suspect_owner(loop, suspect, onset_ns);
}

/* ---- the verdict ---- */

static void acquit(struct loop *loop) {
  struct probation *p = loop->probation;
  char reason[REASON_SIZE];
  p->peace_ns[p->owner] = loop->now_ns + PEACE_NS;
  snprintf(reason, sizeof reason,
           "given back to its controller, which is not the cause: utility a request was %.3f with it, %.3f "
           "without",
           p->with, p->without);
  put_all(loop, false, 0, reason);
  p->phase = FREE;
}

static void convict(struct loop *loop) {
  struct probation *p = loop->probation;
  int64_t hold_ns = HOLD_NS << p->relapses[p->owner];
  char reason[REASON_SIZE];
  snprintf(reason, sizeof reason,
           "put back to its last good value and held for %d min: utility a request was %.3f with what its "
           "controller "
           "did and %.3f without",
           (int)(hold_ns / (60 * NS_PER_S)), p->with, p->without);
  put_all(loop, true, hold_ns, reason);
  for (unsigned i = 0; i < p->count; i++) {
    struct judgement_row row = {.ledger_id = p->values[i].episode,
                                .wall_ms = loop->wall_ms,
                                .outcome = "harmful",
                                .effect = p->with - p->without,
                                .low = NAN,
                                .high = NAN,
                                .words = reason};
    loop->sink->judgement(loop->sink->ctx, &row);
    p->held_until_ms[p->values[i].key.id][p->values[i].key.provider] = loop->wall_ms + hold_ns / NS_PER_MS;
  }
  if (p->relapses[p->owner] < DOUBLINGS) p->relapses[p->owner]++;
  leave_out_harm(loop, p->onset_ns);
  p->phase = FREE;
}

/* A person, an experiment or a rollback has taken one of the values meanwhile: theirs stands, the rest goes
 * back. */
static bool is_disturbed(struct loop *loop) {
  const struct probation *p = loop->probation;
  for (unsigned i = 0; i < p->count; i++) {
    const struct actuator *a = actuator_of(loop, p->values[i].key);
    double ours = p->phase == PUT_BACK ? p->values[i].good : p->values[i].bad;
    if (a->hold_until_ms != p->values[i].hold_ms || a->experiment ||
        value_now(loop, p->values[i].key) != ours)
      return true;
  }
  return false;
}

static void give_up(struct loop *loop, const char *reason) {
  struct probation *p = loop->probation;
  for (unsigned i = 0; i < p->count; i++)
    if (actuator_of(loop, p->values[i].key)->hold_until_ms == p->values[i].hold_ms)
      put(loop, i, p->values[i].bad, 0, reason);
  p->phase = FREE;
}

/* Looks each tick; before the phase is over only what is plain counts: harm that is back, or values that make
 * it worse. */
static void compare(struct loop *loop) {
  struct probation *p = loop->probation;
  int64_t age_ns = loop->now_ns - p->phase_ns - extra_ns(p);
  if (age_ns < SETTLE_NS + 2 * JUDGE_BLOCK_NS) return;
  int64_t from_ns = p->phase_ns + SETTLE_NS + extra_ns(p) + JUDGE_BLOCK_NS - 1,
          to_ns = loop->now_ns - JUDGE_BLOCK_NS;
  double seen = utility_of(loop, from_ns, to_ns, NULL), least = least_difference(loop, p->before);
  bool plain = p->phase == PUT_BACK ? seen < p->with - least : seen < p->without - PLAINLY * least;
  if (age_ns < PHASE_NS && !plain) return;
  if (isnan(seen)) {
    give_up(loop, "given back to its controller: nobody called, so there is nothing to compare");
    return;
  }
  *(p->phase == PUT_BACK ? &p->without : &p->with) = seen;
  if (!(p->without - p->with > fmax(least, COMES_BACK * (p->before - p->with))))
    acquit(loop);
  else if (p->phase == PUT_BACK)
    enter(loop, GIVEN_BACK,
          "given back for a minute, to compare: utility rose without what its controller did");
  else
    convict(loop);
}

static void release(struct loop *loop, struct tunable_key key, int64_t held_until_ms) {
  char name[2 * NAME_SIZE];
  double value = value_now(loop, key);
  if (actuator_of(loop, key)->hold_until_ms != held_until_ms) return; /* somebody else's by now */
  actuator_of(loop, key)->hold_until_ms = 0;
  put_value(loop, key);
  regulators_moved(loop, key);
  name_of(loop, key, name, sizeof name);
  note(loop, name, "judge", "released: its controller may move it again", value, value, NULL);
}

static void release_the_held(struct loop *loop) {
  for (struct tunable_key key = {0, 0}; key.id < TUNABLES; key = key_after(loop, key)) {
    int64_t *until_ms = &loop->probation->held_until_ms[key.id][key.provider];
    if (*until_ms == 0 || loop->wall_ms < *until_ms) continue;
    release(loop, key, *until_ms);
    *until_ms = 0;
  }
}

void probation_run(struct loop *loop) {
  struct probation *p = loop->probation;
  if (loop->config.observe) return;
  release_the_held(loop);
  if (p->phase == FREE)
    look(loop);
  else if (is_disturbed(loop))
    give_up(loop, "given back to its controller: the comparison was disturbed");
  else
    compare(loop);
}
