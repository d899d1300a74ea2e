/* prove-honest: the loop leaves alone what it has no reason to move, undoes what does harm and nothing else.
 *
 * - idle: an hour without a request, from the start and after an hour of traffic; no tunable moves
 * - day: a stationary day with everything on, one experiment, and 96 guarded changes that are proven to have
 * no effect at this load; at most one of them is undone, mean over the seeds; each is ledgered and judged;
 * what is held stays where it was put
 * - harm: a guarded change by hand that costs a tenth of the utility at 5 requests a second is undone:
 * through latency, errors or dollars within five minutes, through quality within thirty, in nine of ten seeds
 *
 * No effect is proven by digest: the same run with and without the change ends every request alike, bit for
 * bit. What a harmful change costs is measured against a twin that does not make it.
 *
 *   SEED=n the first seed (1)  SEEDS=n how many (10)  SCENARIO=f instead of week.toml  DATA=dir (data)
 *   --short: one seed, two hours instead of the day; only correctness decides */

#include "honest_harm.h"
#include "honest_run.h"

#include <sys/stat.h>

enum { CHANGES = 96 };
#define PROBE_NS (70 * MINUTE)  /* length of the runs that prove "no effect" */
#define CHANGE_NS (20 * MINUTE) /* when they make the change */

/* ---- idle ---- */

static void note_values(struct world *world, double values[TUNABLES][MAX_PROVIDERS]) {
  for (unsigned id = 0; id < TUNABLES; id++)
    for (unsigned p = 0; p < MAX_PROVIDERS; p++)
      values[id][p] = tunable_of(&world_plane(world)->tunables, (enum tunable_id)id, p);
}

/* An hour without a request, after as much traffic as said: values as they are, not only as they are told.
 * Instances may fall to their minimum. */
static unsigned moves_in_a_quiet_hour(uint64_t seed, int64_t traffic_ns) {
  static double before[TUNABLES][MAX_PROVIDERS], after[TUNABLES][MAX_PROVIDERS];
  struct run r;
  int64_t settled_ns = traffic_ns + 2 * MINUTE; /* the last answers are out */
  quiet_from_ns = traffic_ns ? traffic_ns : NS_NEVER;
  open_run(&r, seed, settled_ns + 60 * MINUTE, traffic_ns ? 5 : 1e-9, 0);
  quiet_from_ns = NS_NEVER;
  world_run_until(r.world, settled_ns);
  note_values(r.world, before);
  uint64_t intents = measure_run(world_measure(r.world))->intents;
  world_run(r.world);
  note_values(r.world, after);
  unsigned moved = measure_run(world_measure(r.world))->intents != intents;
  for (unsigned id = 0; id < TUNABLES; id++)
    for (unsigned p = 0; p < MAX_PROVIDERS; p++)
      moved += id == TUNABLE_instances ? after[id][p] > before[id][p] : after[id][p] != before[id][p];
  close_run(&r);
  return moved;
}

static bool idle_moves_nothing(uint64_t seed) {
  unsigned cold = moves_in_a_quiet_hour(seed, 0), warm = moves_in_a_quiet_hour(seed, 60 * MINUTE);
  printf("idle: one hour without a request: %u values moved from the start, %u after an hour of traffic\n",
         cold, warm);
  return cold + warm == 0;
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

static unsigned proven_groups; /* effect groups in which a change without effect is known */

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
  printf("\n  %u changes in %d effect groups; without one:", n, __builtin_popcount(groups));
  for (unsigned g = 0; g < GROUPS; g++)
    if (!(groups >> g & 1)) printf(" %s", effect_group_name((enum effect_group)g));
  printf("\n");
  proven_groups = groups;
  return n;
}

/* ---- the stationary day ---- */

struct day {
  unsigned made, refused, judged, undone, moved, groups;
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
    plan->day->groups |= 1u << tunable_infos[key.id].group;
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
  bool complete = true, respected = true, spread = true, tried = true;
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
    spread &= d->groups == proven_groups;
    tried &= d->experiment[0] != '\0';
  }
  undone /= seeds;
  printf("false rollbacks a day, mean over %u seeds: %.2f (at most 1)\n", seeds, undone);
  if (out) fprintf(out, "\"false_rollbacks_a_day\":%.3f,\"changes_without_effect\":%u,", undone, day_count);
  if (!complete) fall_short("day: not every change was made, ledgered and judged");
  if (!respected) fall_short("day: a held value moved");
  if (!spread && !brief) fall_short("day: not every free effect group was changed");
  if (!tried) fall_short("day: there was no experiment");
  if (!brief && undone > 1) fall_short("day: more than one false rollback");
  if (day_count < 6) fall_short("day: too few changes are proven to have no effect");
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
