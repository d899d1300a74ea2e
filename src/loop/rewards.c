/* Rewards come late, by request id. The last answers are kept in a table of fixed size, one place an id;
 * older ones the caller has looked up in the store. */

#include "loop/internal.h"

#include <math.h>
#include <stdio.h>

static struct recent_answer *place_of(struct loop *loop, uint64_t id) {
  return &loop->recent[mix64(id) % RECENT_ANSWERS];
}

void rewards_remember(struct loop *loop, const struct outcome *o) {
  if (o->kind == OUTCOME_ANSWERED)
    *place_of(loop, o->id) = (struct recent_answer){.id = o->id, .provider = o->provider};
}

struct router_settings router_settings_now(const struct loop *loop) {
  const struct tunables *t = &loop->plane->tunables;
  return (struct router_settings){.quality_memory = tunable_get(t, TUNABLE_quality_memory),
                                  .latency_memory_s = tunable_get(t, TUNABLE_latency_memory_s),
                                  .explore_share = tunable_get(t, TUNABLE_explore_share),
                                  .temperature = tunable_get(t, TUNABLE_route_temperature),
                                  .quality_sensitivity = tunable_get(t, TUNABLE_quality_sensitivity),
                                  .cost_sensitivity = tunable_get(t, TUNABLE_cost_sensitivity)};
}

void rewards_take(struct loop *loop, struct command *c) {
  struct recent_answer *a = place_of(loop, c->request);
  if (a->id != c->request) sense_outcomes(loop); /* its answer may be younger than the last tick */
  bool recent = a->id == c->request;
  int provider = recent ? a->provider : c->provider;
  if (!(c->value >= 0 && c->value <= 1)) {
    command_error(c, 400, "invalid_value", "reward must be a number from 0 to 1.");
    return;
  }
  if (provider < 0 || provider >= (int)loop->plane->provider_count) {
    command_error(c, 404, "not_found",
                  "No answered request has this id. Send the X-Request-Id of an answer.");
    return;
  }
  /* A later post replaces the stored one; what was learned stays learned. */
  bool first = recent ? !a->rewarded : !c->rewarded;
  if (first && loop->config.learn && !loop->frozen) {
    struct router_settings settings = router_settings_now(loop);
    router_reward(loop->router, (unsigned)provider, c->value, &settings);
    loop->learned_changed = true;
  }
  *a = (struct recent_answer){.id = c->request, .provider = (uint8_t)provider, .rewarded = true};
  struct reward_row row = {
      .request = c->request, .wall_ms = loop->wall_ms, .value = c->value, .source = c->text};
  loop->sink->reward(loop->sink->ctx, &row);
  command_json(c, 200, NULL);
}
