/* One tick:
 *
 *   sense     frame and outcomes from every shard
 *   watch     anomalies become incidents
 *   control   limits, instances, rings, waits, breaker
 *   learn     the router's table is published
 *   evolve    experiments and trials are judged
 *   record    quiet episodes close; learned state and scores are saved
 */

#include "loop/internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAVE_LEARNED_NS (5 * NS_PER_S)
#define SCORE_NS (60 * NS_PER_S)
#define TELL_LEADER_NS (30 * NS_PER_S)
#define LEAD 0.02 /* of utility: what a new leader must be ahead of the old one to be worth a word */

static struct router *make_router(const struct plane *plane) {
  struct router_provider providers[MAX_PROVIDERS];
  struct router_route routes[MAX_ROUTES];
  for (unsigned i = 0; i < plane->provider_count; i++) {
    const struct provider_spec *spec = &plane->providers[i].spec;
    memcpy(providers[i].name, spec->name, NAME_SIZE);
    memcpy(providers[i].model, spec->model, NAME_SIZE);
    providers[i].usd_in = spec->price.in;
    providers[i].usd_out = spec->price.out;
  }
  for (unsigned i = 0; i < plane->route_count; i++) {
    memcpy(routes[i].name, plane->routes[i].name, NAME_SIZE);
    memcpy(routes[i].candidates, plane->routes[i].candidates, sizeof routes[i].candidates);
    routes[i].candidate_count = plane->routes[i].candidate_count;
  }
  return router_create(&(struct router_config){.provider_count = plane->provider_count,
                                               .route_count = plane->route_count,
                                               .providers = providers,
                                               .routes = routes,
                                               .objective = plane->objective});
}

struct loop *loop_create(const struct loop_config *config, int64_t now_ns, int64_t wall_ms) {
  struct loop *loop = calloc(1, sizeof *loop);
  if (!loop) return NULL;
  loop->config = *config;
  loop->plane = config->plane;
  loop->sink = config->sink;
  loop->now_ns = now_ns;
  loop->wall_ms = wall_ms;
  loop->next_ledger_id = loop->next_experiment_id = 1;
  rng_seed(&loop->rng, config->seed, UINT64_C(0x6c6f6f70));
  memset(loop->leader, NO_PROVIDER, sizeof loop->leader);
  for (int id = 0; id < TUNABLES; id++)
    for (int p = 0; p < MAX_PROVIDERS; p++)
      loop->actuators[id][p].file_value = NAN;
  loop->router = make_router(config->plane);
  loop->judge = judge_create(config->plane->provider_count, now_ns);
  loop->regulators = regulators_create(loop);
  loop->watchers = watchers_create(loop);
  loop->probation = probation_create();
  if (!loop->router || !loop->judge || !loop->regulators || !loop->watchers || !loop->probation) {
    loop_destroy(loop);
    return NULL;
  }
  return loop;
}

void loop_destroy(struct loop *loop) {
  if (!loop) return;
  for (unsigned i = 0; i < loop->experiment_count; i++)
    experiment_destroy(loop->experiments[i].experiment);
  probation_destroy(loop->probation);
  watchers_destroy(loop->watchers);
  regulators_destroy(loop->regulators);
  judge_destroy(loop->judge);
  router_destroy(loop->router);
  free(loop->outcomes);
  free(loop);
}

void loop_freeze(struct loop *loop) {
  loop->frozen = true;
}

const struct frame *loop_frame(const struct loop *loop) {
  return &loop->frame;
}

/* ---- start ---- */

static const struct value_row *stored_value(const struct store_state *state, const char *name) {
  for (size_t i = 0; state && i < state->value_count; i++)
    if (strcmp(state->values[i].name, name) == 0) return &state->values[i];
  return NULL;
}

static bool same(double a, double b) {
  return a == b || (isnan(a) && isnan(b));
}

/* Stored applies; what the file says anew since the last start wins over it, the environment over both. */
static void restore_value(struct loop *loop, struct tunable_key key, const struct value_row *stored,
                          double file, double environment) {
  struct actuator *a = actuator_of(loop, key);
  double was = stored         ? stored->value
               : !isnan(file) ? file
                              : value_now(loop, key),
         to = within_provider(loop, key, was);
  const char *actor = stored && stored->author ? stored->author : isnan(file) ? "default" : "file";
  const char *reason = to != was ? "the configuration allows no other number now" : NULL;
  if (to != was) actor = "file";
  if (stored && !isnan(file) && !same(stored->file_value, file)) {
    to = file;
    actor = "file";
    reason = "the configuration file says something new";
  }
  if (!isnan(environment)) {
    to = environment;
    actor = "environment";
    reason = "set in the environment";
  }
  a->file_value = file;
  a->set_at_start = !isnan(environment) || (stored && !isnan(file) && !same(stored->file_value, file));
  if (stored) a->hold_until_ms = stored->hold_until_ms;
  tunable_set(&loop->plane->tunables, key, tunable_clamp(key.id, was, value_now(loop, key)));
  snprintf(a->author, sizeof a->author, "%s", actor);
  if (to != was)
    apply_change(loop, key, to, actor, reason, NULL, 0);
  else
    put_value(loop, key);
}

static void undo_unjudged(struct loop *loop, const struct ledger_row *row) {
  struct tunable_key key;
  struct judgement_row judged = {.ledger_id = row->id,
                                 .wall_ms = loop->wall_ms,
                                 .outcome = "interrupted",
                                 .effect = NAN,
                                 .low = NAN,
                                 .high = NAN,
                                 .words = "the daemon stopped before this was judged: undone"};
  bool known = tunable_find(row->name, loop->plane->provider_names, loop->plane->provider_count, &key) == 0;
  if (known && actuator_of(loop, key)->set_at_start) {
    judged.outcome = "superseded";
    judged.words = "the configuration says anew what it is to be";
  } else if (known && value_now(loop, key) == row->to) {
    actuator_of(loop, key)->hold_until_ms = 0;
    apply_change(loop, key, within_provider(loop, key, row->from), "rollback", judged.words, NULL,
                 row->trial);
  }
  loop->sink->judgement(loop->sink->ctx, &judged);
}

int loop_restore(struct loop *loop, const struct store_state *state,
                 const double (*file_values)[MAX_PROVIDERS], const double (*environment)[MAX_PROVIDERS],
                 int64_t now_ns, int64_t wall_ms) {
  loop->now_ns = now_ns;
  loop->wall_ms = wall_ms;
  if (state) {
    loop->next_ledger_id = state->last_ledger_id + 1;
    loop->next_experiment_id = state->last_experiment_id + 1;
    watchers_number_from(loop->watchers, state->last_anomaly_id + 1);
    if (state->head_snapshot) snprintf(loop->head, sizeof loop->head, "%s", state->head_snapshot);
  }
  for (struct tunable_key key = {0, 0}; key.id < TUNABLES; key = key_after(loop, key)) {
    char name[2 * NAME_SIZE];
    name_of(loop, key, name, sizeof name);
    restore_value(loop, key, stored_value(state, name), file_values ? file_values[key.id][key.provider] : NAN,
                  environment ? environment[key.id][key.provider] : NAN);
  }
  for (size_t i = 0; state && !loop->config.observe && i < state->open_trial_count; i++)
    undo_unjudged(loop, &state->open_trials[i]);
  if (state && state->learned_router) router_load(loop->router, state->learned_router);
  bool resume = loop->config.evolve && !loop->config.observe; /* else whoever starts next will */
  for (size_t i = 0; state && resume && i < state->experiment_count; i++)
    experiments_restore(loop, &state->experiments[i]);
  take_snapshot(loop, "start",
                state && state->head_snapshot ? "as the daemon started" : "the first configuration");
  for (struct tunable_key key = {0, 0}; key.id < TUNABLES; key = key_after(loop, key))
    regulators_moved(loop, key);
  return loop->sink->commit(loop->sink->ctx);
}

/* ---- learn ---- */

/* Says in the ledger when another candidate takes the lead of a route: at most every half minute, and only
 * when it is clearly better than the one told last. */
static void tell_leader(struct loop *loop, unsigned r, const struct router_settings *settings) {
  const struct route_spec *route = &loop->plane->routes[r];
  unsigned best = 0;
  double best_share = -1, best_utility = 0, leader_utility = -INFINITY;
  if (route->candidate_count < 2) return;
  for (unsigned c = 0; c < route->candidate_count; c++) {
    struct router_estimate e;
    router_estimate(loop->router, r, c, settings, &e);
    if (c == loop->leader[r]) leader_utility = e.utility;
    if (e.share > best_share && e.in_target_n >= 10) {
      best = c;
      best_share = e.share;
      best_utility = e.utility;
    }
  }
  bool soon = loop->leader[r] != NO_PROVIDER && loop->now_ns - loop->leader_told_ns[r] < TELL_LEADER_NS;
  if (best_share < 0 || best == loop->leader[r] || soon || best_utility < leader_utility + LEAD) return;
  char name[NAME_SIZE + 8], words[REASON_SIZE];
  snprintf(name, sizeof name, "route:%s", route->name);
  snprintf(words, sizeof words, "%.60s now leads with utility %.3f and %.0f %% of the picks",
           loop->plane->provider_names[route->candidates[best]], best_utility, 100 * best_share);
  char evidence[EVIDENCE_SIZE];
  frame_evidence(loop, route->candidates[best], evidence, sizeof evidence);
  note(loop, name, "router", words, loop->leader[r] == NO_PROVIDER ? NAN : loop->leader[r], best, evidence);
  loop->leader[r] = (uint8_t)best;
  loop->leader_told_ns[r] = loop->now_ns;
}

static void learn(struct loop *loop) {
  struct router_settings settings = router_settings_now(loop);
  struct route_table table;
  if (!router_tick(loop->router, loop->now_ns, &settings, &table)) return;
  if (!loop->config.observe) plane_publish(loop->plane, &table);
  for (unsigned r = 0; r < loop->plane->route_count; r++)
    tell_leader(loop, r, &settings);
}

static void save_learned(struct loop *loop, bool now) {
  if (!loop->learned_changed || (!now && loop->now_ns - loop->learned_saved_ns < SAVE_LEARNED_NS)) return;
  char *json = router_save(loop->router);
  if (json) loop->sink->learned(loop->sink->ctx, "router", json, loop->wall_ms);
  free(json);
  loop->learned_saved_ns = loop->now_ns;
  loop->learned_changed = false;
}

static void score_snapshot(struct loop *loop) {
  if (!loop->head[0] || loop->now_ns - loop->scored_ns < SCORE_NS) return;
  loop->scored_ns = loop->now_ns;
  double qualities[MAX_PROVIDERS];
  judge_qualities(loop, qualities);
  struct judge_view view = {qualities, &loop->plane->objective};
  struct judge_score s;
  judge_score(loop->judge, loop->head_since_ns, loop->now_ns, &view, &s);
  if (!(s.requests > 0)) return;
  struct score_row row = {.snapshot = loop->head,
                          .wall_ms = loop->wall_ms,
                          .requests = (int64_t)s.requests,
                          .utility = s.utility,
                          .in_target = s.in_target,
                          .quality = s.quality,
                          .usd_per_request = s.usd_per_request};
  loop->sink->score(loop->sink->ctx, &row);
}

/* ---- the tick ---- */

void loop_tick(struct loop *loop, int64_t now_ns, int64_t wall_ms) {
  double dt_s = (double)(now_ns - loop->now_ns) / (double)NS_PER_S;
  if (dt_s <= 0) return;
  loop->now_ns = now_ns;
  loop->wall_ms = wall_ms;
  loop->critical = false;
  sense_frame(loop, dt_s);
  sense_outcomes(loop);
  loop->sink->frame(loop->sink->ctx, &loop->frame);
  if (loop->frozen) return;
  if (loop->config.control) {
    watchers_run(loop);
    regulators_run(loop);
  }
  if (loop->config.learn) learn(loop);
  if (loop->config.evolve) {
    experiments_run(loop);
    trials_run(loop);
    if (loop->config.control) probation_run(loop);
    score_snapshot(loop);
  }
  close_quiet_episodes(loop, false);
  save_learned(loop, false);
}

void loop_flush(struct loop *loop, int64_t now_ns, int64_t wall_ms) {
  double dt_s = (double)(now_ns - loop->now_ns) / (double)NS_PER_S;
  loop->wall_ms = wall_ms;
  if (dt_s > 0) { /* what has been counted since the last tick: so the frames add up to the counters */
    loop->now_ns = now_ns;
    sense_frame(loop, dt_s);
    loop->sink->frame(loop->sink->ctx, &loop->frame);
  }
  sense_outcomes(loop);
  close_quiet_episodes(loop, true);
  save_learned(loop, true);
  for (unsigned i = 0; i < loop->experiment_count; i++)
    experiments_save(loop, i);
}
