/* Time goes from timer to timer; after each, the pipeline runs until nothing moves. The tick, arrivals, the
 * plant, the pipeline's own timers and errands all hang on the same set of timers, so their order, and with
 * it every result, is that of their due times and of their arming. */

#include "sim/world_internal.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Unix time of the start: some Monday, so that runs do not depend on the day they are run. */
#define WALL_START_MS INT64_C(1767571200000)
#define DRAIN_NS (300 * NS_PER_S)

struct world_errand {
  struct timer timer;
  struct world *world;
  void (*run)(void *ctx, struct world *world, int64_t at_ns);
  void *ctx;
  struct world_errand *next;
};

int64_t world_now_ns(const struct world *w) {
  return w->now_ns - WORLD_START_NS;
}

int64_t world_wall_ms(const struct world *w) {
  return WALL_START_MS + world_now_ns(w) / NS_PER_MS + w->jumped_ms;
}

/* ---- errands and events that are the world's ---- */

static void errand_fired(struct timer *timer, int64_t now_ns) {
  struct world_errand *e = (struct world_errand *)((char *)timer - offsetof(struct world_errand, timer));
  e->run(e->ctx, e->world, now_ns - WORLD_START_NS);
}

int world_at(struct world *w, int64_t at_ns, void (*run)(void *, struct world *, int64_t), void *ctx) {
  struct world_errand *e = calloc(1, sizeof *e);
  if (!e) return -ENOMEM;
  *e = (struct world_errand){
      .timer = {.fire = errand_fired}, .world = w, .run = run, .ctx = ctx, .next = w->errands};
  w->errands = e;
  return timer_arm(w->timers, &e->timer, WORLD_START_NS + at_ns);
}

static void freeze(void *ctx, struct world *w, int64_t at_ns) {
  (void)ctx, (void)at_ns;
  loop_freeze(w->loop);
}

static void feedback_stops(void *ctx, struct world *w, int64_t at_ns) {
  (void)at_ns;
  w->feedback_out = ctx != NULL;
}

static void telemetry_stops(void *ctx, struct world *w, int64_t at_ns) {
  (void)at_ns;
  w->telemetry_out = ctx != NULL;
}

static void wall_jumps(void *ctx, struct world *w, int64_t at_ns) {
  const struct scenario_event *e = ctx;
  (void)at_ns;
  w->jumped_ms += (int64_t)(e->jump_s * 1000);
}

/* A person pushes, in one guarded act: limits times eight, ten retries, a breaker that hardly opens. */
static void push_bad_config(void *ctx, struct world *w, int64_t at_ns) {
  char names[MAX_PROVIDERS][2 * NAME_SIZE];
  struct command c = {.kind = COMMAND_SET, .actor = "person", .reason = "more throughput"};
  (void)ctx, (void)at_ns;
  c.changes[c.change_count].name = "retry_attempts";
  c.changes[c.change_count++].value = 10;
  c.changes[c.change_count].name = "breaker_failure_threshold";
  c.changes[c.change_count++].value = 1000;
  for (unsigned i = 0; i < w->plane->provider_count && c.change_count < COMMAND_CHANGES; i++) {
    struct tunable_key key = {TUNABLE_concurrency_limit, (uint16_t)i};
    tunable_name(key, w->plane->provider_names, names[i], sizeof names[i]);
    c.changes[c.change_count].name = names[i];
    double now = tunable_of(&w->plane->tunables, key.id, key.provider);
    c.changes[c.change_count++].value = tunable_clamp(key.id, 8 * now, now);
  }
  world_command(w, &c);
}

static int arm_events(struct world *w) {
  static char on;
  int status = 0;
  for (unsigned i = 0; i < w->scenario->event_count && status == 0; i++) {
    const struct scenario_event *e = &w->scenario->events[i];
    void (*stop)(void *, struct world *, int64_t) = e->kind == EVENT_FEEDBACK_OUTAGE ? feedback_stops
                                                    : e->kind == EVENT_TELEMETRY_GAP ? telemetry_stops
                                                                                     : NULL;
    if (stop) status = world_at(w, e->at_ns, stop, &on);
    if (stop && e->until_ns != NS_NEVER && status == 0) status = world_at(w, e->until_ns, stop, NULL);
    if (e->kind == EVENT_CLOCK_JUMP) status = world_at(w, e->at_ns, wall_jumps, (void *)e);
    if (e->kind == EVENT_BAD_CONFIG && !w->options.no_bad_config)
      status = world_at(w, e->at_ns, push_bad_config, NULL);
  }
  if (status == 0 && w->options.freeze_at_ns != NS_NEVER)
    status = world_at(w, w->options.freeze_at_ns, freeze, NULL);
  return status;
}

/* ---- the daemon in it ---- */

static double usual_price(const struct scenario_provider *p) {
  return p->price.in * 1155 + p->price.out * 211; /* the mean request of the conversation trace */
}

/* Fixed arm: the chosen one, then the others from the cheapest on. Else as the scenario lists them. */
static void order_candidates(const struct world *w, struct route_spec *route) {
  const struct scenario *s = w->scenario;
  unsigned n = s->provider_count < MAX_CANDIDATES ? s->provider_count : MAX_CANDIDATES;
  for (unsigned i = 0; i < n; i++)
    route->candidates[i] = (uint8_t)i;
  route->candidate_count = route->primary_count = (uint8_t)n;
  if (w->options.arm != WORLD_FIXED) return;
  for (unsigned i = 1; i < n; i++)
    for (unsigned j = i; j > 0; j--) {
      uint8_t *a = &route->candidates[j - 1], *b = &route->candidates[j], kept = *a;
      bool first = *b == w->options.first;
      bool cheaper = usual_price(&s->providers[*b]) < usual_price(&s->providers[*a]);
      if (*a == w->options.first || !(first || cheaper)) break;
      *a = *b;
      *b = kept;
    }
}

static struct plane *make_plane(const struct world *w) {
  const struct scenario *s = w->scenario;
  struct provider_spec specs[MAX_PROVIDERS];
  struct route_spec route = {.name = "auto", .coalesce = true};
  for (unsigned i = 0; i < s->provider_count; i++) {
    const struct scenario_provider *p = &s->providers[i];
    bool server = p->kind == PROVIDER_SERVER;
    specs[i] = (struct provider_spec){.price = p->price,
                                      .local = server,
                                      .min_instances = server ? p->min_instances : 0,
                                      .max_instances = server ? p->max_instances : 0,
                                      .usd_per_instance_hour = p->usd_per_instance_hour};
    memcpy(specs[i].name, p->name, NAME_SIZE);
    memcpy(specs[i].model, p->model, NAME_SIZE);
  }
  order_candidates(w, &route);
  return plane_create(&(struct plane_config){.objective = {s->ttft_ms, s->tpot_ms, s->lambda_per_usd, 1.0},
                                             .provider_count = s->provider_count,
                                             .route_count = 1,
                                             .providers = specs,
                                             .routes = &route},
                      WORLD_START_NS);
}

/* A table that always prefers the earlier candidate. */
static void fix_route(struct world *w) {
  struct route_table table = {.version = 1, .explore_share = 0, .temperature = 1e-4f};
  for (unsigned i = 0; i < MAX_CANDIDATES; i++)
    table.routes[0].utility[i] = -(float)i;
  plane_publish(w->plane, &table);
}

static void instances_changed(void *ctx, unsigned provider) {
  struct world *w = ctx;
  struct provider_state *p = &w->plane->providers[provider];
  atomic_store_explicit(&p->ready_instances, plant_ready(w->plant, provider), memory_order_relaxed);
  atomic_store_explicit(&p->starting_instances, plant_starting(w->plant, provider), memory_order_relaxed);
}

static int set_instances(void *ctx, unsigned provider, unsigned wanted, int64_t now_ns) {
  struct world *w = ctx;
  plant_set_instances(w->plant, provider, wanted, now_ns);
  return 0;
}

static int keep_dead_letter(void *ctx, const struct dead_letter *letter) {
  struct world *w = ctx;
  struct dead_letter_row row = {.request = letter->id, .wall_ms = world_wall_ms(w), .reason = letter->reason};
  return w->sink.dead_letter(w->sink.ctx, &row);
}

static struct pipeline *make_pipeline(struct world *w) {
  struct pipeline_env env = {.plane = w->plane,
                             .timers = w->timers,
                             .telemetry = w->telemetry,
                             .seed = w->options.seed,
                             .first_id = (uint64_t)WALL_START_MS << 22,
                             .ctx = w,
                             .dead_letter = keep_dead_letter};
  upstreams_init(w);
  for (unsigned i = 0; i < w->scenario->provider_count; i++)
    env.upstreams[i] = &w->upstreams[i].base;
  return pipeline_create(&env, WORLD_START_NS);
}

/* What the user's configuration says: how many instances run, and how many may. */
static int restore(struct world *w) {
  double values[TUNABLES][MAX_PROVIDERS];
  unsigned most = 0;
  for (int id = 0; id < TUNABLES; id++)
    for (int p = 0; p < MAX_PROVIDERS; p++)
      values[id][p] = NAN;
  for (unsigned i = 0; i < w->scenario->provider_count; i++) {
    const struct scenario_provider *p = &w->scenario->providers[i];
    if (p->kind != PROVIDER_SERVER) continue;
    values[TUNABLE_instances][i] = p->start_instances;
    most += p->max_instances;
    instances_changed(w, i);
  }
  if (most) values[TUNABLE_max_local_instances][0] = tunable_clamp(TUNABLE_max_local_instances, most, 1);
  return loop_restore(w->loop, NULL, values, NULL, w->now_ns, world_wall_ms(w));
}

static struct loop *make_loop(struct world *w) {
  bool tuned = w->options.arm == WORLD_TUNED;
  w->scaler = (struct scaler){.ctx = w, .set_instances = set_instances};
  return loop_create(&(struct loop_config){.plane = w->plane,
                                           .telemetries = &w->telemetry,
                                           .pipelines = &w->pipeline,
                                           .shards = 1,
                                           .sink = &w->sink,
                                           .scaler = &w->scaler,
                                           .seed = w->options.seed,
                                           .observe = w->options.observe,
                                           .control = tuned,
                                           .learn = tuned,
                                           .evolve = tuned},
                     w->now_ns, world_wall_ms(w));
}

static double instance_usd(struct world *w) {
  double usd = 0;
  for (unsigned i = 0; i < w->scenario->provider_count; i++)
    usd += plant_instance_usd(w->plant, i, w->now_ns);
  return usd;
}

static void ticked(struct timer *timer, int64_t now_ns) {
  struct world *w = (struct world *)((char *)timer - offsetof(struct world, tick));
  timer_arm(w->timers, &w->tick, now_ns + w->scenario->tick_ns);
  if (!w->telemetry_out) loop_tick(w->loop, now_ns, world_wall_ms(w));
  if (world_now_ns(w) <= w->scenario->length_ns)
    measure_instances(w->measure, world_now_ns(w), instance_usd(w));
}

/* ---- making and ending one ---- */

static bool build(struct world *w) {
  const struct world_options *o = &w->options;
  const struct objective objective = {o->scenario->ttft_ms, o->scenario->tpot_ms, o->scenario->lambda_per_usd,
                                      1.0};
  w->timers = timers_create();
  w->recorder = recorder_create();
  w->workload = workload_create(o->scenario, o->data, o->seed);
  w->measure = measure_create(&objective, o->scenario->length_ns, o->event_ns, o->event_until_ns);
  w->telemetry = telemetry_create();
  w->clients = calloc(WORLD_CLIENTS, sizeof *w->clients);
  w->plane = make_plane(w);
  if (!w->timers || !w->recorder || !w->workload || !w->measure || !w->telemetry || !w->clients || !w->plane)
    return false;
  w->sink = recorder_sink(w->recorder);
  w->plant = plant_create(&(struct plant_options){.scenario = o->scenario,
                                                  .data = o->data,
                                                  .timers = w->timers,
                                                  .seed = o->seed,
                                                  .start_ns = WORLD_START_NS,
                                                  .speed = 1});
  w->pipeline = make_pipeline(w);
  if (!w->plant || !w->pipeline) return false;
  plant_watch_instances(w->plant, instances_changed, w);
  w->loop = make_loop(w);
  if (!w->loop || restore(w) < 0) return false;
  if (o->arm == WORLD_FIXED) fix_route(w);
  return arm_events(w) == 0;
}

struct world *world_create(const struct world_options *options) {
  struct world *w = calloc(1, sizeof *w);
  if (!w) return NULL;
  w->options = *options;
  w->scenario = options->scenario;
  w->data = options->data;
  w->now_ns = WORLD_START_NS;
  w->arrival.fire = clients_arrival;
  w->tick.fire = ticked;
  if (!build(w)) {
    world_destroy(w);
    return NULL;
  }
  timer_arm(w->timers, &w->tick, WORLD_START_NS + w->scenario->tick_ns);
  if (workload_next(w->workload, &w->next_intent))
    timer_arm(w->timers, &w->arrival, WORLD_START_NS + w->next_intent.at_ns);
  return w;
}

static void settle(struct world *w) {
  while (pipeline_run(w->pipeline, w->now_ns))
    continue;
}

void world_destroy(struct world *w) {
  if (!w) return;
  if (w->pipeline && w->clients) {
    pipeline_abandon(w->pipeline, w->now_ns);
    settle(w);
    for (unsigned i = 0; i < WORLD_CLIENTS; i++)
      timer_disarm(w->timers, &w->clients[i].timer);
  }
  loop_destroy(w->loop);
  pipeline_destroy(w->pipeline);
  plant_destroy(w->plant);
  upstreams_free(w);
  clients_free(w);
  plane_destroy(w->plane);
  telemetry_destroy(w->telemetry);
  measure_destroy(w->measure);
  workload_destroy(w->workload);
  recorder_destroy(w->recorder);
  while (w->errands) {
    struct world_errand *next = w->errands->next;
    free(w->errands);
    w->errands = next;
  }
  timers_destroy(w->timers);
  free(w);
}

/* ---- running ---- */

void world_run_until(struct world *w, int64_t at_ns) {
  int64_t end_ns = WORLD_START_NS + at_ns, next;
  settle(w);
  while ((next = timers_next_ns(w->timers)) <= end_ns) {
    if (next > w->now_ns) w->now_ns = next;
    timers_run(w->timers, w->now_ns);
    settle(w);
  }
  if (end_ns > w->now_ns) w->now_ns = end_ns;
}

/* Past the end nothing new comes; what is under way ends by itself: clients' patience is bounded. */
void world_run(struct world *w) {
  world_run_until(w, w->scenario->length_ns);
  int64_t drain_ns = w->scenario->length_ns + DRAIN_NS;
  while (w->busy > 0 && world_now_ns(w) < drain_ns)
    world_run_until(w, world_now_ns(w) + NS_PER_S);
  loop_flush(w->loop, w->now_ns, world_wall_ms(w));
}

int world_command(struct world *w, struct command *command) {
  loop_command(w->loop, command, w->now_ns, world_wall_ms(w));
  free(command->body);
  command->body = NULL;
  return command->status;
}

struct measure *world_measure(struct world *w) {
  return w->measure;
}

struct recorder *world_recorder(struct world *w) {
  return w->recorder;
}

struct plant *world_plant(struct world *w) {
  return w->plant;
}

struct plane *world_plane(struct world *w) {
  return w->plane;
}

struct loop *world_loop(struct world *w) {
  return w->loop;
}

void world_counters(struct world *w, struct counter_totals *totals) {
  memset(totals, 0, sizeof *totals);
  counters_sum(&w->telemetry->counters, w->plane->provider_count, totals);
}

const struct world_shares *world_shares(const struct world *w) {
  return &w->shares;
}

uint64_t world_digest(const struct world *w) {
  return w->digest;
}
