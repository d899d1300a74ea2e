/* Experiments on live traffic. One leases its tunable and occupies its effect group until it ends; then the
 * winner is applied (a promotion is a trial like any change) or the control value stays.
 *
 * Control and treatment share breakers, limits and routes: what the treatment does there hurts both alike,
 * and no comparison of the two will show it. So the begin of an experiment is judged like any change, by
 * utility before and after, within the effect window of its tunable. */

#include "loop/internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAVE_NS (10 * NS_PER_S)
#define USUAL_SHARE 0.5
#define PUBLISHED_NS (100 * NS_PER_MS) /* by then every shard splits its sessions */

static const struct experiment_spec *spec_of(const struct loop *loop, unsigned i) {
  return experiment_spec(loop->experiments[i].experiment);
}

double value_settled(const struct loop *loop, struct tunable_key key) {
  for (unsigned i = 0; i < loop->experiment_count; i++) {
    const struct experiment_spec *spec = spec_of(loop, i);
    if (loop->experiments[i].treating && spec->key.id == key.id && spec->key.provider == key.provider)
      return spec->control;
  }
  return value_now(loop, key);
}

static void put(struct loop *loop, unsigned i, const char *status, const char *verdict) {
  const struct experiment_status *s = &loop->experiments[i].status;
  const struct experiment_spec *spec = spec_of(loop, i);
  char *json = experiment_spec_json(loop->experiments[i].experiment);
  char *state = experiment_save(loop->experiments[i].experiment, loop->now_ns);
  struct experiment_row row = {.id = spec->id,
                               .name = spec->name,
                               .tunable = spec->tunable,
                               .status = status,
                               .control = spec->control,
                               .treatment = spec->treatment,
                               .started_ms = loop->experiments[i].started_ms,
                               .ended_ms = verdict ? loop->wall_ms : 0,
                               .control_units = s->control_units,
                               .treatment_units = s->treatment_units,
                               .effect = s->effect,
                               .low = s->low,
                               .high = s->high,
                               .p_value = s->p,
                               .verdict = verdict,
                               .spec = json,
                               .state = state};
  loop->sink->experiment(loop->sink->ctx, &row);
  loop->experiments[i].saved_ns = loop->now_ns;
  free(json);
  free(state);
}

void experiments_save(struct loop *loop, unsigned i) {
  put(loop, i, "running", NULL);
}

static void begin(struct loop *loop, struct experiment *e, int64_t started_ms) {
  unsigned i = loop->experiment_count++;
  const struct experiment_spec *spec = experiment_spec(e);
  memset(&loop->experiments[i], 0, sizeof loop->experiments[i]);
  loop->experiments[i].experiment = e;
  loop->experiments[i].started_ms = started_ms;
  loop->experiments[i].status.effect = loop->experiments[i].status.low = NAN;
  loop->experiments[i].status.high = loop->experiments[i].status.p = NAN;
  actuator_of(loop, spec->key)->experiment = spec->id;
  if (spec->design == TRIAL_SESSION && !loop->config.observe)
    tunables_treat(&loop->plane->tunables, spec->key.id, spec->treatment, experiment_salt(e), spec->share);
}

/* The lease ends: the value is control's again and nobody is treated. */
static void give_back(struct loop *loop, unsigned i) {
  const struct experiment_spec *spec = spec_of(loop, i);
  if (spec->design == TRIAL_SESSION) tunables_treat(&loop->plane->tunables, -1, 0, 0, 0);
  if (loop->experiments[i].treating) put_in_force(loop, spec->key, spec->control);
  actuator_of(loop, spec->key)->experiment = 0;
}

static void promote(struct loop *loop, const struct experiment_spec *spec, const char *words) {
  char actor[NAME_SIZE + 16];
  snprintf(actor, sizeof actor, "experiment:%s", spec->name);
  if (trials_full(loop)) {
    apply_change(loop, spec->key, spec->treatment, actor, words, NULL, 0);
  } else {
    struct trial *t = trial_open(loop, actor, true);
    trial_add(loop, t, spec->key, spec->control, spec->treatment,
              apply_change(loop, spec->key, spec->treatment, actor, words, NULL, -1));
  }
  actuator_of(loop, spec->key)->hold_until_ms = INT64_MAX;
  put_value(loop, spec->key);
  regulators_moved(loop, spec->key);
}

static void end(struct loop *loop, unsigned i, const char *status, const char *verdict) {
  struct experiment *e = loop->experiments[i].experiment;
  struct experiment_spec spec = *experiment_spec(e);
  char name[NAME_SIZE + 16], words[EXPERIMENT_WORDS_SIZE + JUDGE_WORDS_SIZE];
  snprintf(words, sizeof words, "%s", verdict); /* it may be part of the entry that another takes over */
  snprintf(name, sizeof name, "experiment:%s", spec.name);
  put(loop, i, status, words);
  give_back(loop, i);
  loop->experiments[i] = loop->experiments[--loop->experiment_count];
  note(loop, name, name, words, spec.control, spec.treatment, NULL);
  if (strcmp(status, "promoted") == 0 && !loop->config.observe) promote(loop, &spec, words);
  experiment_destroy(e);
}

void experiments_observe(struct loop *loop, const struct outcome *o) {
  if (loop->experiment_count == 0) return; /* a client that left counts, as an answer that it did not get */
  double quality = o->provider == NO_PROVIDER ? 0 : router_quality(loop->router, o->provider);
  double utility = objective_utility(&loop->plane->objective, quality, o->in_target, o->cost_usd);
  for (unsigned i = 0; i < loop->experiment_count; i++)
    experiment_observe(loop->experiments[i].experiment, o, utility);
}

static void switch_back(struct loop *loop, unsigned i) {
  const struct experiment_spec *spec = spec_of(loop, i);
  bool treat = loop->experiments[i].status.treat;
  if (spec->design != TRIAL_SWITCHBACK || treat == loop->experiments[i].treating || loop->config.observe)
    return;
  loop->experiments[i].treating = treat;
  put_in_force(loop, spec->key, treat ? spec->treatment : spec->control);
}

/* Whether utility broke when it began, and no change that is being judged explains that better. */
static bool does_harm(struct loop *loop, unsigned i, struct judge_verdict *verdict) {
  const struct experiment_spec *spec = spec_of(loop, i);
  int64_t start_ns = loop->experiments[i].started_ns, age_ns = loop->now_ns - start_ns;
  int64_t window_ns = tunable_infos[spec->key.id].window_s * NS_PER_S;
  if (!start_ns || spec->design != TRIAL_SESSION || age_ns > window_ns ||
      loop->now_ns - loop->experiments[i].judged_ns < JUDGE_BLOCK_NS)
    return false;
  loop->experiments[i].judged_ns = loop->now_ns;
  double qualities[MAX_PROVIDERS];
  struct judge_view view = {qualities, &loop->plane->objective};
  judge_qualities(loop, qualities);
  judge_trial(loop->judge, start_ns, loop->now_ns, window_ns, &view, verdict);
  if (verdict->finding != JUDGE_HARM) return false;
  struct judge_suspect suspects[TRIALS_MAX];
  unsigned count = 0;
  int64_t onset_ns;
  suspects[count++] = (struct judge_suspect){start_ns, channels_of(1u << tunable_infos[spec->key.id].group)};
  for (unsigned t = 0; t < loop->trial_count && count < TRIALS_MAX; t++)
    suspects[count++] = (struct judge_suspect){loop->trials[t].start_ns, channels_of(loop->trials[t].groups)};
  if (judge_attribute(loop->judge, suspects, count, loop->now_ns, &view, &onset_ns) != 0) return false;
  leave_out_harm(loop, onset_ns);
  return true;
}

static void stop_harm(struct loop *loop, unsigned i, const struct judge_verdict *verdict) {
  const struct experiment_spec *spec = spec_of(loop, i);
  char words[EXPERIMENT_WORDS_SIZE + JUDGE_WORDS_SIZE];
  snprintf(words, sizeof words,
           "Stopped: all requests fare worse since it began, of both groups: %s %g against %g. %s",
           spec->tunable, spec->treatment, spec->control, verdict->words);
  end(loop, i, experiment_verdict_name(EXPERIMENT_GUARDRAIL), words);
}

void experiments_run(struct loop *loop) {
  for (unsigned i = loop->experiment_count; i-- > 0;) {
    struct experiment_status *s = &loop->experiments[i].status;
    experiment_tick(loop->experiments[i].experiment, loop->now_ns, s);
    if (s->verdict != EXPERIMENT_RUNNING) {
      end(loop, i, experiment_verdict_name(s->verdict), s->words);
      continue;
    }
    struct judge_verdict verdict;
    if (!loop->config.observe && does_harm(loop, i, &verdict)) {
      stop_harm(loop, i, &verdict);
      continue;
    }
    switch_back(loop, i);
    if (loop->now_ns - loop->experiments[i].saved_ns >= SAVE_NS) experiments_save(loop, i);
  }
}

static int refuse_create(struct loop *loop, struct command *c, const struct tunable_info *info,
                         struct tunable_key key) {
  if (!loop->config.evolve)
    command_error(c, 409, "conflict", "Experiments are switched off in this daemon.");
  else if (loop->config.observe)
    command_error(c, 409, "conflict", "The daemon only observes (--observe): nobody would be treated.");
  else if (tunable_clamp(key.id, c->treatment, NAN) != c->treatment)
    command_error(c, 400, "invalid_value", "treatment must be %s from %g to %g (%s).",
                  info->kind == TUNABLE_INTEGER ? "a whole number" : "a number", info->min, info->max,
                  info->unit);
  else if (check_instances(loop, c, &(struct wanted){.key = key, .to = c->treatment}, 1) < 0)
    return -1; /* told */
  else if (c->treatment == value_now(loop, key))
    command_error(c, 400, "invalid_value",
                  "treatment equals the present value %g: there is nothing to compare.", c->treatment);
  else if (!(c->share > 0 && c->share <= 0.5))
    command_error(c, 400, "invalid_value", "share must be above 0 and at most 0.5; 0.5 when it is left out.");
  else if (groups_taken(loop) >> info->group & 1)
    command_error(c, 409, "conflict",
                  "Effect group '%s' has a trial or an experiment already. Wait for its end or stop it.",
                  effect_group_name(info->group));
  else if (info->trial == TRIAL_SESSION && atomic_load(&loop->plane->tunables.treated) >= 0)
    command_error(c, 409, "conflict", "Another experiment splits sessions now. Wait for its end or stop it.");
  else if (loop->experiment_count == EXPERIMENTS_MAX)
    command_error(c, 409, "conflict", "%d experiments run already. Stop one.", EXPERIMENTS_MAX);
  else
    return 0;
  return -1;
}

static bool name_taken(const struct loop *loop, const char *name) {
  for (unsigned i = 0; i < loop->experiment_count; i++)
    if (strcmp(spec_of(loop, i)->name, name) == 0) return true;
  return false;
}

int experiments_create(struct loop *loop, struct command *c, int64_t now_ns) {
  struct tunable_key key;
  if (c->share == 0) c->share = USUAL_SHARE;
  if (!c->name || !c->name[0] || strlen(c->name) >= NAME_SIZE || name_taken(loop, c->name) ||
      !c->name[strspn(c->name, "0123456789")]) { /* a number is another one's id */
    command_error(c, 400, "invalid_value",
                  "name must be new, not empty, no number and shorter than %d characters.", NAME_SIZE);
    return -1;
  }
  if (tunable_find(c->text, loop->plane->provider_names, loop->plane->provider_count, &key) < 0) {
    command_error(c, 404, "not_found", "There is no tunable '%s'. GET /api/v1/tunables lists them.", c->text);
    return -1;
  }
  if (refuse_create(loop, c, &tunable_infos[key.id], key) < 0) return -1;
  struct experiment_spec spec = {.id = loop->next_experiment_id++,
                                 .key = key,
                                 .design = tunable_infos[key.id].trial,
                                 .control = value_now(loop, key),
                                 .treatment = c->treatment,
                                 .share = c->share,
                                 .duration_s = c->duration_s,
                                 .alpha = c->alpha,
                                 .min_effect = c->min_effect,
                                 .seed = loop->config.seed};
  snprintf(spec.name, sizeof spec.name, "%s", c->name);
  name_of(loop, key, spec.tunable, sizeof spec.tunable);
  struct experiment *e = experiment_create(&spec, now_ns + PUBLISHED_NS);
  if (!e) {
    command_error(c, 503, "overloaded", "There is not enough memory for an experiment. Try again.");
    return -1;
  }
  begin(loop, e, loop->wall_ms);
  loop->experiments[loop->experiment_count - 1].started_ns = now_ns;
  experiments_save(loop, loop->experiment_count - 1);
  char name[NAME_SIZE + 16], words[REASON_SIZE];
  snprintf(name, sizeof name, "experiment:%s", spec.name);
  snprintf(words, sizeof words, "begun on %.64s: %g against %g for %g of the %s", spec.tunable,
           spec.treatment, spec.control, spec.share,
           spec.design == TRIAL_SESSION ? "sessions" : "time blocks");
  note(loop, name, c->actor ? c->actor : "http", words, spec.control, spec.treatment, NULL);
  return 0;
}

int experiments_stop(struct loop *loop, struct command *c) {
  for (unsigned i = 0; i < loop->experiment_count; i++) {
    const struct experiment_spec *spec = spec_of(loop, i);
    char number[24];
    snprintf(number, sizeof number, "%lld", (long long)spec->id);
    if (strcmp(spec->name, c->name) != 0 && strcmp(number, c->name) != 0) continue;
    char words[REASON_SIZE];
    snprintf(words, sizeof words, "stopped by %.60s: the control value stays", c->actor ? c->actor : "http");
    end(loop, i, "stopped", words);
    return 0;
  }
  command_error(c, 404, "not_found", "No experiment '%s' is running. GET /api/v1/experiments lists all.",
                c->name);
  return -1;
}

/* One that cannot go on: its row says so, or it would seem to run for ever. */
static void end_unresumed(struct loop *loop, const struct experiment_row *row, const char *words) {
  struct experiment_row ended = *row;
  char name[NAME_SIZE + 16];
  ended.status = "stopped";
  ended.verdict = words;
  ended.ended_ms = loop->wall_ms;
  loop->sink->experiment(loop->sink->ctx, &ended);
  snprintf(name, sizeof name, "experiment:%.64s", row->name);
  note(loop, name, name, words, row->control, row->treatment, NULL);
}

/* Why it cannot go on; NULL: it can. */
static const char *unresumable(const struct loop *loop, const struct experiment_row *row,
                               struct experiment_spec *spec) {
  if (!row->spec || experiment_spec_parse(row->spec, spec) < 0) return "stopped: it cannot be read back";
  if (tunable_find(spec->tunable, loop->plane->provider_names, loop->plane->provider_count, &spec->key) < 0)
    return "stopped: its tunable is gone from the configuration";
  if (value_now(loop, spec->key) != spec->control)
    return "stopped: its tunable was set anew while the daemon was down";
  return loop->experiment_count == EXPERIMENTS_MAX ? "stopped: too many run already" : NULL;
}

void experiments_restore(struct loop *loop, const struct experiment_row *row) {
  struct experiment_spec spec;
  const char *words = unresumable(loop, row, &spec);
  if (words) {
    end_unresumed(loop, row, words);
    return;
  }
  struct experiment *e = row->state ? experiment_restore(&spec, row->state, loop->now_ns) : NULL;
  if (!e) e = experiment_create(&spec, loop->now_ns);
  if (e) begin(loop, e, row->started_ms);
}
