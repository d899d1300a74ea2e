/* prove-honest: the loop leaves alone what it has no reason to move, undoes what does harm and nothing else.
 *
 *   idle     an hour without a request: no tunable moves
 *   day      a stationary day with everything on, one experiment, and 96 guarded changes that are proven to
 * have no effect at this load: at most one of them is undone, mean over the seeds; each is ledgered and
 * judged; what is held stays where it was put harm     a guarded change by hand that costs a tenth of the
 * utility at 5 requests a second is undone: through latency, errors or dollars within five minutes, through
 * quality within thirty, in nine of ten seeds
 *
 * No effect is proven by digest: the same run with and without the change ends every request alike, bit for
 * bit. What a harmful change costs is measured against a twin that does not make it.
 *
 *   SEED=n the first seed (1)  SEEDS=n how many (10)  SCENARIO=f instead of week.toml  DATA=dir (data)
 *   --short: one seed, two hours instead of the day; only correctness decides */

#include "pipeline/plane.h"
#include "sim/dataset.h"
#include "sim/scenario.h"
#include "sim/world.h"
#include "sys/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_SEEDS = 100, CHANGES = 96, STEPS = 8, AT_ONCE = 2 };
enum { LATENCY, ERRORS, DOLLARS, QUALITY, CHANNELS };
#define MINUTE (60 * NS_PER_S)
#define PROBE_NS (70 * MINUTE)  /* length of the runs that prove "no effect" */
#define CHANGE_NS (20 * MINUTE) /* when they make the change */
#define WARM_NS (150 * MINUTE)  /* learning before a harmful change */
#define COST_NS (20 * MINUTE)   /* over which its cost is measured */

static const char *scenario_path = "data/scenarios/week.toml", *data_path = "data";
static char shortfalls[1024];

static void fall_short(const char *what) {
  size_t n = strlen(shortfalls);
  snprintf(shortfalls + n, sizeof shortfalls - n, "%s%s", n ? "; " : "", what);
}

/* ---- a run ---- */

struct run {
  struct scenario *scenario;
  struct dataset *data;
  struct world *world;
};

static void open_run(struct run *r, uint64_t seed, int64_t length_ns, double rps, double lambda) {
  char error[256];
  r->scenario = scenario_load(scenario_path, seed, error, sizeof error);
  if (r->scenario) {
    r->scenario->length_ns = length_ns;
    r->scenario->mean_rps = rps;
    r->scenario->event_count = 0;
    snprintf(r->scenario->daily_shape, sizeof r->scenario->daily_shape, "flat");
    if (lambda > 0) r->scenario->lambda_per_usd = lambda;
    r->data = dataset_load(r->scenario, data_path, 0, error, sizeof error);
  }
  struct world_options options = {.scenario = r->scenario,
                                  .data = r->scenario ? r->data : NULL,
                                  .seed = seed,
                                  .arm = WORLD_TUNED,
                                  .freeze_at_ns = NS_NEVER,
                                  .event_ns = NS_NEVER,
                                  .event_until_ns = NS_NEVER};
  r->world = options.data ? world_create(&options) : NULL;
  if (!r->world) {
    fprintf(stderr, "honest: %s\n", error);
    exit(1);
  }
}

static void close_run(struct run *r) {
  world_destroy(r->world);
  dataset_destroy(r->data);
  scenario_destroy(r->scenario);
}

static int put(struct world *world, const char *name, double value) {
  struct command c = {.kind = COMMAND_SET,
                      .actor = "http",
                      .reason = "by hand",
                      .change_count = 1,
                      .changes = {{name, value}}};
  return world_command(world, &c);
}

static double value_of(struct world *world, const char *name) {
  struct plane *plane = world_plane(world);
  struct tunable_key key;
  if (tunable_find(name, plane->provider_names, plane->provider_count, &key) < 0) return NAN;
  return tunable_of(&plane->tunables, key.id, key.provider);
}

/* ---- jobs in child processes, two at a time; results in shared memory ---- */

typedef void job(void *result, uint64_t seed, int arg);

static void *share(size_t size) {
  return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static void run_jobs(job *run, void *results, size_t size, uint64_t first_seed, unsigned seeds,
                     const int *args, unsigned n) {
  unsigned running = 0;
  for (unsigned i = 0; i < seeds * n; i++) {
    if (running == AT_ONCE && wait(NULL) > 0) running--;
    fflush(NULL);
    if (fork() == 0) {
      run((char *)results + i * size, first_seed + i / n, args[i % n]);
      _exit(0);
    }
    running++;
  }
  while (wait(NULL) > 0)
    continue;
}

/* ---- idle ---- */

static bool idle_moves_nothing(uint64_t seed) {
  struct run r;
  open_run(&r, seed, 60 * MINUTE, 1e-9, 0);
  world_run(r.world);
  unsigned moved = 0;
  for (size_t i = 0; i < recorder_change_count(world_recorder(r.world)); i++) {
    const struct recorded_change *c = recorder_change(world_recorder(r.world), i);
    if (strcmp(c->row.kind, "note") != 0 && strncmp(c->row.name, "instances.", 10) != 0) moved++;
  }
  printf("idle: one hour without a request: %u changes of tunables\n", moved);
  close_run(&r);
  return moved == 0;
}

/* ---- changes without effect ---- */

static const struct candidate {
  const char *name;
  double value;
} candidates[] = {
    {"buffer_rag", 1024},
    {"buffer_assemble", 1024},
    {"buffer_post", 1024},
    {"buffer_stream", 1024},
    {"buffer_inference", 2048},
    {"stream_backlog_kib", 2048},
    {"memory_mib", 1024},
    {"rate_limit_rps", 200},
    {"coalesce_waiters", 2000},
    {"breaker_success_rate", 0.78},
    {"retry_max_ms", 6000},
    {"retry_budget_percent", 12},
    {"promotion_interval_ms", 6000},
    {"max_local_instances", 8},
    {"shed_threshold", 0.95},
    {"breaker_timeout_ms", 5500},
};
enum { CANDIDATES = sizeof candidates / sizeof *candidates };

struct probe {
  uint64_t digest;
  int status;
};

static void change_now(void *ctx, struct world *world, int64_t at_ns) {
  const struct candidate *c = ctx;
  (void)at_ns;
  put(world, c->name, c->value);
}

/* arg: which candidate is changed; -1: none. */
static void probe(void *result, uint64_t seed, int arg) {
  struct probe *p = result;
  struct run r;
  open_run(&r, seed, PROBE_NS, 5, 0);
  if (arg >= 0) world_at(r.world, CHANGE_NS, change_now, (void *)&candidates[arg]);
  world_run(r.world);
  p->digest = world_digest(r.world);
  close_run(&r);
}

static unsigned prove_no_effect(uint64_t seed, int *proven) {
  int args[CANDIDATES + 1];
  for (int i = 0; i <= CANDIDATES; i++)
    args[i] = i - 1;
  struct probe *probes = share(sizeof *probes * (CANDIDATES + 1));
  run_jobs(probe, probes, sizeof *probes, seed, 1, args, CANDIDATES + 1);
  unsigned n = 0, groups = 0;
  printf("no effect at 5 requests a second (equal digests of %d minutes):", (int)(PROBE_NS / MINUTE));
  for (int i = 0; i < CANDIDATES; i++) {
    struct tunable_key key;
    if (probes[i + 1].digest != probes[0].digest) continue;
    tunable_find(candidates[i].name, NULL, 0, &key);
    groups |= 1u << tunable_infos[key.id].group;
    proven[n++] = i;
    printf(" %s %g", candidates[i].name, candidates[i].value);
  }
  printf("\n  %u changes in %d effect groups\n", n, __builtin_popcount(groups));
  return n;
}

/* ---- the stationary day ---- */

struct day {
  unsigned made, refused, judged, undone, moved;
  uint64_t intents;
  double utility;
  char experiment[32], words[256];
};

struct day_plan {
  struct day *day;
  const int *proven;
  unsigned count, next;
  double held[CANDIDATES]; /* as put; NAN: not yet */
};

static int *day_proven;
static unsigned day_count;
static int64_t day_ns = 24 * 60 * MINUTE;

/* The next proven change whose group is free; a value moves away and, the next time, back. */
static void next_change(void *ctx, struct world *world, int64_t at_ns) {
  struct day_plan *plan = ctx;
  (void)at_ns;
  for (unsigned tries = 0; tries < plan->count; tries++) {
    int i = plan->proven[plan->next++ % plan->count];
    struct tunable_key key;
    tunable_find(candidates[i].name, NULL, 0, &key);
    if (!isnan(plan->held[i]) && value_of(world, candidates[i].name) != plan->held[i]) plan->day->moved++;
    double to = value_of(world, candidates[i].name) == candidates[i].value ? tunable_infos[key.id].initial
                                                                           : candidates[i].value;
    int status = put(world, candidates[i].name, to);
    if (status != 200) continue;
    plan->held[i] = to;
    plan->day->made++;
    return;
  }
  plan->day->refused++;
}

static void begin_experiment(void *ctx, struct world *world, int64_t at_ns) {
  struct command c = {.kind = COMMAND_EXPERIMENT_CREATE,
                      .name = "day",
                      .text = "idle_timeout_ms",
                      .treatment = 20000,
                      .share = 0.5,
                      .duration_s = 1e6};
  (void)ctx;
  (void)at_ns;
  world_command(world, &c);
}

static void stationary_day(void *result, uint64_t seed, int arg) {
  struct day *day = result;
  struct run r;
  (void)arg;
  open_run(&r, seed, day_ns, 5, 0);
  struct day_plan plan = {.day = day, .proven = day_proven, .count = day_count};
  for (int i = 0; i < CANDIDATES; i++)
    plan.held[i] = NAN;
  world_at(r.world, 10 * MINUTE, begin_experiment, NULL);
  int64_t gap = (day_ns - 60 * MINUTE) / CHANGES;
  unsigned changes =
      day_ns >= 24 * 60 * MINUTE ? CHANGES : (unsigned)((day_ns - 60 * MINUTE) / (10 * MINUTE));
  if (gap < 10 * MINUTE) gap = 10 * MINUTE;
  for (unsigned i = 0; i < changes; i++)
    world_at(r.world, 30 * MINUTE + (int64_t)i * gap, next_change, &plan);
  world_run(r.world);
  struct recorder *rec = world_recorder(r.world);
  for (size_t i = 0; i < recorder_change_count(rec); i++) {
    const struct recorded_change *c = recorder_change(rec, i);
    if (strcmp(c->row.kind, "change") != 0 || strcmp(c->row.actor, "http") != 0) continue;
    if (c->outcome) day->judged++;
    if (c->outcome && strcmp(c->outcome, "undone") == 0) {
      day->undone++;
      snprintf(day->words, sizeof day->words, "%s: %s", c->row.name, c->words ? c->words : "");
    }
  }
  if (recorder_experiment_count(rec) > 0) {
    const struct experiment_row *e = recorder_experiment(rec, 0);
    snprintf(day->experiment, sizeof day->experiment, "%s", e->status);
  }
  day->intents = measure_run(world_measure(r.world))->intents;
  day->utility = measure_utility(world_measure(r.world), measure_run(world_measure(r.world)));
  close_run(&r);
}

static void prove_day(uint64_t seed, unsigned seeds, bool brief, FILE *out) {
  static const int none[] = {0};
  int proven[CANDIDATES];
  day_count = prove_no_effect(seed, proven);
  day_proven = proven;
  if (brief) day_ns = 120 * MINUTE;
  struct day *days = share(sizeof *days * seeds);
  run_jobs(stationary_day, days, sizeof *days, seed, seeds, none, 1);
  double undone = 0;
  bool complete = true, respected = true;
  printf("\n%-6s %9s %8s %8s %8s %8s %9s  %s\n", "seed", "intents", "changes", "judged", "undone", "utility",
         "held", "experiment");
  for (unsigned i = 0; i < seeds; i++) {
    const struct day *d = &days[i];
    printf("%-6llu %9llu %8u %8u %8u %8.4f %9s  %s%s%s\n", (unsigned long long)(seed + i),
           (unsigned long long)d->intents, d->made, d->judged, d->undone, d->utility,
           d->moved ? "moved" : "stayed", d->experiment, d->words[0] ? "; " : "", d->words);
    undone += d->undone;
    complete &= d->made > 0 && d->judged >= d->made - 2 && (brief || d->made == CHANGES);
    respected &= d->moved <= d->undone;
  }
  undone /= seeds;
  printf("false rollbacks a day, mean over %u seeds: %.2f (at most 1)\n", seeds, undone);
  if (out) fprintf(out, "\"false_rollbacks_a_day\":%.3f,\"changes_without_effect\":%u,", undone, day_count);
  if (!complete) fall_short("day: not every change was made, ledgered and judged");
  if (!respected) fall_short("day: a held value moved");
  if (!brief && undone > 1) fall_short("day: more than one false rollback");
  if (day_count < 6) fall_short("day: too few changes are proven to have no effect");
}

/* ---- harm ---- */

static const struct channel {
  const char *name, *what;
  double lambda;       /* 0: the scenario's */
  int64_t limit_ns;    /* to be undone by */
  double steps[STEPS]; /* how hard the change is pushed, mildest first */
} channels[CHANNELS] = {
    [LATENCY] = {"latency", "concurrency_limit of every provider", 0, 5 * MINUTE, {7, 6, 5, 4, 3, 2, 1, 1}},
    [ERRORS] = {"errors", "first_token_timeout_ms", 0, 5 * MINUTE, {800, 700, 650, 600, 550, 500, 450, 400}},
    [DOLLARS] = {"dollars", "cost_sensitivity", 150, 5 * MINUTE, {0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0}},
    [QUALITY] = {"quality",
                 "cost_sensitivity = 10, quality_sensitivity",
                 0,
                 30 * MINUTE,
                 {1, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0}},
};

static void add(struct command *c, const char *name, double value) {
  c->changes[c->change_count].name = name;
  c->changes[c->change_count++].value = value;
}

static int push(struct world *world, int channel, double step, bool unguarded) {
  struct plane *plane = world_plane(world);
  static char names[MAX_PROVIDERS][2 * NAME_SIZE];
  struct command c = {
      .kind = COMMAND_SET, .actor = "http", .reason = "a harmful change by hand", .unguarded = unguarded};
  if (channel == LATENCY)
    for (unsigned i = 0; i < plane->provider_count && i < COMMAND_CHANGES; i++) {
      snprintf(names[i], sizeof names[i], "concurrency_limit.%s", plane->provider_names[i]);
      c.changes[i].name = names[i];
      c.changes[i].value = step;
      c.change_count++;
    }
  if (channel == ERRORS) add(&c, "first_token_timeout_ms", step);
  if (channel == DOLLARS) add(&c, "cost_sensitivity", step);
  if (channel == QUALITY) {
    add(&c, "quality_sensitivity", step);
    add(&c, "cost_sensitivity", 10);
  }
  return world_command(world, &c);
}

struct harm {
  double undone_s; /* after the change; NAN: never */
  int status;
  char why[512];
};

struct pusher {
  int channel, status;
  double step;
  bool unguarded;
  int64_t wall_ms;
};

static void push_now(void *ctx, struct world *world, int64_t at_ns) {
  struct pusher *p = ctx;
  (void)at_ns;
  p->wall_ms = world_wall_ms(world);
  if (p->step >= 0) p->status = push(world, p->channel, p->step, p->unguarded);
}

static double utility_after(struct world *world, const struct scenario *s, int64_t from_ns,
                            int64_t until_ns) {
  size_t count;
  const struct measure_minute *m = measure_minutes(world_measure(world), &count);
  double useful = 0, usd = 0, intents = 0;
  for (size_t i = (size_t)(from_ns / MINUTE); i < (size_t)(until_ns / MINUTE) && i < count; i++) {
    useful += m[i].useful;
    usd += m[i].usd;
    intents += m[i].intents;
  }
  return intents > 0 ? (useful - s->lambda_per_usd * usd) / intents : NAN;
}

/* step < 0: the twin that changes nothing. Unguarded: for the cost. */
static double cost_run(uint64_t seed, int channel, double step) {
  struct run r;
  struct pusher p = {.channel = channel, .step = step, .unguarded = true};
  open_run(&r, seed, WARM_NS + COST_NS + 5 * MINUTE, 5, channels[channel].lambda);
  world_at(r.world, WARM_NS, push_now, &p);
  world_run(r.world);
  double utility = utility_after(r.world, r.scenario, WARM_NS, WARM_NS + COST_NS);
  close_run(&r);
  return utility;
}

/* arg: channel * (STEPS + 1) + step index; index STEPS: the twin. */
static void cost_job(void *result, uint64_t seed, int arg) {
  int channel = arg / (STEPS + 1), step = arg % (STEPS + 1);
  *(double *)result = cost_run(seed, channel, step == STEPS ? -1 : channels[channel].steps[step]);
}

static double harm_step[MAX_SEEDS][CHANNELS], harm_cost[MAX_SEEDS][CHANNELS];
static uint64_t harm_first_seed;

static void harm_job(void *result, uint64_t seed, int channel) {
  struct harm *h = result;
  struct run r;
  struct pusher p = {.channel = channel, .step = harm_step[seed - harm_first_seed][channel]};
  open_run(&r, seed, WARM_NS + channels[channel].limit_ns + 5 * MINUTE, 5, channels[channel].lambda);
  world_at(r.world, WARM_NS, push_now, &p);
  world_run(r.world);
  h->status = p.status;
  h->undone_s = NAN;
  struct recorder *rec = world_recorder(r.world);
  for (size_t i = 0; i < recorder_change_count(rec); i++) {
    const struct recorded_change *c = recorder_change(rec, i);
    if (!c->outcome || strcmp(c->outcome, "undone") != 0 || strcmp(c->row.actor, "http") != 0) continue;
    h->undone_s = (double)(c->judged_ms - p.wall_ms) / 1000;
    snprintf(h->why, sizeof h->why, "%s %g -> %g: %s", c->row.name, c->row.from, c->row.to, c->words);
    break;
  }
  close_run(&r);
}

/* For each seed the mildest step that costs a tenth or more there; the dearest when none does. */
static void choose_steps(uint64_t seed, unsigned seeds) {
  int args[CHANNELS * (STEPS + 1)];
  for (int i = 0; i < CHANNELS * (STEPS + 1); i++)
    args[i] = i;
  double *utility = share(sizeof *utility * seeds * CHANNELS * (STEPS + 1));
  run_jobs(cost_job, utility, sizeof *utility, seed, seeds, args, CHANNELS * (STEPS + 1));
  harm_first_seed = seed;
  for (unsigned i = 0; i < seeds; i++)
    for (int c = 0; c < CHANNELS; c++) {
      const double *u = utility + (i * CHANNELS + (unsigned)c) * (STEPS + 1);
      double cost[STEPS], best = NAN;
      int chosen = -1, dearest = 0;
      for (int s = 0; s < STEPS; s++) {
        cost[s] = (u[STEPS] - u[s]) / u[STEPS];
        if (cost[s] > cost[dearest]) dearest = s;
        if (cost[s] >= 0.1 && !(cost[s] >= best)) {
          chosen = s;
          best = cost[s];
        }
      }
      if (chosen < 0) chosen = dearest;
      harm_step[i][c] = channels[c].steps[chosen];
      harm_cost[i][c] = cost[chosen];
    }
}

static void prove_harm(uint64_t seed, unsigned seeds, bool brief, FILE *out) {
  static const int all[CHANNELS] = {0, 1, 2, 3};
  choose_steps(seed, seeds);
  struct harm *harms = share(sizeof *harms * seeds * CHANNELS);
  run_jobs(harm_job, harms, sizeof *harms, seed, seeds, all, CHANNELS);
  for (int c = 0; c < CHANNELS; c++)
    printf("%-8s pushed through %s (%g on the first seed)\n", channels[c].name, channels[c].what,
           harm_step[0][c]);
  printf("\n%-8s %8s %10s %10s %12s %10s\n", "through", "limit s", "cost %", "undone", "median s", "worst s");
  if (out) fprintf(out, "\"harm\":[");
  for (int c = 0; c < CHANNELS; c++) {
    double limit = (double)channels[c].limit_ns / 1e9, cost = 0, worst = 0, times[MAX_SEEDS];
    unsigned in_time = 0, mild = 0;
    const struct harm *last = NULL;
    for (unsigned s = 0; s < seeds; s++) {
      const struct harm *h = &harms[s * CHANNELS + (unsigned)c];
      cost += harm_cost[s][c] / seeds;
      if (harm_cost[s][c] < 0.1) mild++;
      if (!(h->undone_s <= limit)) continue;
      times[in_time++] = h->undone_s;
      worst = fmax(worst, h->undone_s);
      last = h;
    }
    for (unsigned i = 1; i < in_time; i++)
      for (unsigned k = i; k > 0 && times[k] < times[k - 1]; k--) {
        double t = times[k];
        times[k] = times[k - 1];
        times[k - 1] = t;
      }
    double median = in_time ? times[in_time / 2] : NAN;
    printf("%-8s %8.0f %10.1f %6u/%-3u %12.0f %10.0f\n", channels[c].name, limit, 100 * cost, in_time, seeds,
           median, worst);
    if (last) printf("         why: %s\n", last->why);
    if (out)
      fprintf(out, "%s{\"through\":\"%s\",\"cost\":%.4f,\"undone\":%u,\"seeds\":%u,\"median_s\":%.0f}",
              c ? "," : "", channels[c].name, cost, in_time, seeds, median);
    char what[128];
    snprintf(what, sizeof what, "%s: undone in %u of %u", channels[c].name, in_time, seeds);
    if (!brief && in_time < ceil(0.9 * seeds)) fall_short(what);
    snprintf(what, sizeof what, "%s: no step costs a tenth in %u of %u seeds", channels[c].name, mild, seeds);
    if (!brief && mild > 0.1 * seeds) fall_short(what);
  }
  if (out) fprintf(out, "],");
}

int main(int argc, char **argv) {
  bool brief = argc > 1 && strcmp(argv[1], "--short") == 0;
  const char *seed_text = getenv("SEED"), *seeds_text = getenv("SEEDS");
  uint64_t seed = seed_text && *seed_text ? strtoull(seed_text, NULL, 10) : 1;
  unsigned seeds = seeds_text && *seeds_text ? (unsigned)strtoul(seeds_text, NULL, 10) : brief ? 1 : 10;
  if (seeds < 1 || seeds > MAX_SEEDS) seeds = 10;
  if (getenv("SCENARIO") && *getenv("SCENARIO")) scenario_path = getenv("SCENARIO");
  if (getenv("DATA") && *getenv("DATA")) data_path = getenv("DATA");
  mkdir("build", 0777);
  mkdir("build/figures", 0777);
  FILE *out = fopen("build/figures/honest.json", "w");
  if (out) fprintf(out, "{\"name\":\"honest\",\"seed\":%llu,\"seeds\":%u,", (unsigned long long)seed, seeds);
  if (!idle_moves_nothing(seed)) fall_short("idle: something moved without traffic");
  prove_day(seed, seeds, brief, out);
  printf("\n");
  prove_harm(seed, seeds, brief, out);
  if (out) fprintf(out, "\"short\":\"%s\"}\n", shortfalls);
  if (out) fclose(out);
  if (shortfalls[0])
    printf("honest: short: %s\n", shortfalls);
  else
    printf("honest: met\n");
  return shortfalls[0] != '\0';
}
