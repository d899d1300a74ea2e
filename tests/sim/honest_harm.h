#ifndef HONEST_HARM_H
#define HONEST_HARM_H

/* The part of prove-honest that does harm. For each seed and channel one run learns for a while; then it is
 * forked: a twin that changes nothing, and one child for each step of a ladder, mildest first, that pushes it
 * unguarded, until a step costs a tenth of the twin's utility, most of it through the channel in question.
 * That step is then pushed guarded, and the judge has to find it. */

#include "honest_run.h"

enum { LATENCY, ERRORS, DOLLARS, QUALITY, CHANNELS };
enum { STEPS = 16, PARTS = 3 };
#define WARM_NS (150 * MINUTE) /* learning before a harmful change */
#define COST_NS (20 * MINUTE)  /* over which its cost is measured */
#define TENTH 0.1
#define KEEP NAN /* the value stays as it is */

/* How hard a change is pushed: values of the channel's tunables in the order of `names`. Dollars weigh more
 * where they are to do harm. */
static const struct channel {
  const char *name;
  double lambda;              /* 0: the scenario's */
  int64_t limit_ns;           /* to be undone by */
  const char *names[PARTS];   /* "limits": the concurrency limit of every provider; the second value says how
                                 many of them get one less */
  double steps[STEPS][PARTS]; /* mildest first */
} channels[CHANNELS] = {
    [LATENCY] = {"latency",
                 0,
                 5 * MINUTE,
                 {"limits"},
                 {{10},
                  {8},
                  {7},
                  {6},
                  {5},
                  {4},
                  {4, 1},
                  {4, 2},
                  {4, 3},
                  {4, 4},
                  {3},
                  {3, 1},
                  {3, 2},
                  {3, 3},
                  {3, 4},
                  {2}}},
    [ERRORS] = {"errors",
                0,
                5 * MINUTE,
                {"first_token_timeout_ms"},
                {{800},
                 {750},
                 {700},
                 {650},
                 {625},
                 {600},
                 {575},
                 {550},
                 {525},
                 {500},
                 {475},
                 {450},
                 {425},
                 {400},
                 {300},
                 {200}}},
    [DOLLARS] = {"dollars",
                 150,
                 5 * MINUTE,
                 {"cost_sensitivity", "explore_share"},
                 {{0.8, KEEP},
                  {0.5, KEEP},
                  {0.4, KEEP},
                  {0.3, KEEP},
                  {0.2, KEEP},
                  {0.1, KEEP},
                  {0.05, KEEP},
                  {0, KEEP},
                  {0, 0.1},
                  {0, 0.2},
                  {0, 0.3},
                  {0, 0.4},
                  {0, 0.5},
                  {0, 0.6},
                  {0, 0.8},
                  {0, 1}}},
    [QUALITY] = {"quality",
                 0,
                 30 * MINUTE,
                 {"quality_sensitivity", "cost_sensitivity", "route_temperature"},
                 {{1, 10, KEEP},
                  {0.5, 10, KEEP},
                  {0.2, 10, KEEP},
                  {0.1, 10, KEEP},
                  {0.05, 10, KEEP},
                  {0.02, 10, KEEP},
                  {0.01, 10, KEEP},
                  {0, 10, KEEP},
                  {0, 10, 0.008},
                  {0, 10, 0.006},
                  {0, 10, 0.005},
                  {0, 10, 0.004},
                  {0, 10, 0.003},
                  {0, 10, 0.002},
                  {0, 10, 0.001},
                  {0, 10, 0.0005}}},
};

static double value_of_step(const struct channel *channel, int step, unsigned i) {
  if (strcmp(channel->names[0], "limits") != 0) return channel->steps[step][i];
  return channel->steps[step][0] - (i < channel->steps[step][1]);
}

static int push(struct world *world, const struct channel *channel, int step, bool unguarded) {
  struct plane *plane = world_plane(world);
  static char names[MAX_PROVIDERS][2 * NAME_SIZE];
  struct command c = {
      .kind = COMMAND_SET, .actor = "http", .reason = "a harmful change by hand", .unguarded = unguarded};
  bool limits = strcmp(channel->names[0], "limits") == 0;
  unsigned count = limits ? plane->provider_count : PARTS;
  for (unsigned i = 0; i < count && c.change_count < COMMAND_CHANGES; i++) {
    if (limits) snprintf(names[i], sizeof names[i], "concurrency_limit.%s", plane->provider_names[i]);
    const char *name = limits ? names[i] : channel->names[i];
    double value = value_of_step(channel, step, i);
    if (!name || isnan(value) || value_of(world, name) == value) continue;
    c.changes[c.change_count].name = name;
    c.changes[c.change_count++].value = value;
  }
  return world_command(world, &c);
}

struct worth { /* for each intent */
  double utility, usd, in_target, useful;
};

static struct worth worth_of(struct world *world, const struct scenario *s, int64_t from_ns,
                             int64_t until_ns) {
  size_t count;
  const struct measure_minute *m = measure_minutes(world_measure(world), &count);
  double useful = 0, usd = 0, intents = 0, in_target = 0;
  for (size_t i = (size_t)(from_ns / MINUTE); i < (size_t)(until_ns / MINUTE) && i < count; i++) {
    useful += m[i].useful;
    usd += m[i].usd;
    intents += m[i].intents;
    in_target += m[i].in_target;
  }
  return (struct worth){(useful - s->lambda_per_usd * usd) / intents, usd / intents, in_target / intents,
                        useful / intents};
}

/* The rest of the run in a child, with the step pushed unguarded; step < 0: nothing is pushed. */
static struct worth worth_with(struct run *r, const struct channel *channel, int step) {
  struct worth *shared = share(sizeof *shared);
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    if (step >= 0) push(r->world, channel, step, true);
    world_run_until(r->world, WARM_NS + COST_NS + 2 * MINUTE);
    *shared = worth_of(r->world, r->scenario, WARM_NS, WARM_NS + COST_NS);
    _exit(0);
  }
  int status = -1;
  if (child < 0 || waitpid(child, &status, 0) != child || status != 0) _exit(1); /* await_job tells */
  struct worth worth = *shared;
  munmap(shared, sizeof *shared);
  return worth;
}

struct harm {
  int step, status;     /* step: the mildest that costs a tenth; -1: none does */
  double cost, through; /* shares of the twin's utility: in all, and through the channel */
  double undone_s;      /* after the change; NAN: never */
  char why[512];
};

/* What the channel cost. The three add up to the whole. */
static double loss_through(int channel, const struct worth *twin, const struct worth *worth, double lambda) {
  double good = twin->useful / twin->in_target;
  double untimely = (twin->in_target - worth->in_target) * good;
  if (channel == DOLLARS) return lambda * (worth->usd - twin->usd);
  return channel == QUALITY ? twin->useful - worth->useful - untimely : untimely;
}

static void choose_step(struct run *r, int c, struct harm *h) {
  struct worth twin = worth_with(r, &channels[c], -1);
  h->step = -1;
  for (int s = 0; s < STEPS && h->step < 0; s++) {
    struct worth worth = worth_with(r, &channels[c], s);
    h->cost = (twin.utility - worth.utility) / twin.utility;
    h->through = loss_through(c, &twin, &worth, r->scenario->lambda_per_usd) / twin.utility;
    if (h->cost >= TENTH && h->through >= h->cost / 2) h->step = s;
  }
}

static void find_undo(struct world *world, int64_t pushed_ms, struct harm *h) {
  struct recorder *rec = world_recorder(world);
  h->undone_s = NAN;
  for (size_t i = 0; i < recorder_change_count(rec); i++) {
    const struct recorded_change *c = recorder_change(rec, i);
    if (!c->outcome || strcmp(c->outcome, "undone") != 0 || strcmp(c->row.actor, "http") != 0) continue;
    h->undone_s = (double)(c->judged_ms - pushed_ms) / 1000;
    snprintf(h->why, sizeof h->why, "%s %g -> %g: %s", c->row.name, c->row.from, c->row.to, c->words);
    return;
  }
}

/* arg: the channel. */
static void harm_job(void *result, uint64_t seed, int arg) {
  struct harm *h = result;
  const struct channel *channel = &channels[arg];
  struct run r;
  open_run(&r, seed, WARM_NS + 60 * MINUTE, 5, channel->lambda);
  world_run_until(r.world, WARM_NS);
  choose_step(&r, arg, h);
  if (h->step >= 0) {
    int64_t pushed_ms = world_wall_ms(r.world);
    h->status = push(r.world, channel, h->step, false);
    world_run_until(r.world, WARM_NS + channel->limit_ns + MINUTE);
    find_undo(r.world, pushed_ms, h);
  }
  close_run(&r);
}

/* ---- the table ---- */

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void print_step(const struct channel *channel, int step) {
  for (int i = 0; step >= 0 && i < PARTS && channel->names[i]; i++)
    if (!isnan(channel->steps[step][i])) printf(" %s %g", channel->names[i], channel->steps[step][i]);
  if (step >= 0 && channel->steps[step][1] > 0 && !channel->names[1])
    printf(", %g of them one less", channel->steps[step][1]);
}

static void print_seeds(const struct channel *channel, const struct harm *harms, uint64_t seed,
                        unsigned seeds) {
  for (unsigned s = 0; s < seeds; s++) {
    const struct harm *h = &harms[s * CHANNELS];
    printf("  %-8s seed %-6llu", channel->name, (unsigned long long)(seed + s));
    if (h->step < 0) {
      printf(" no step costs a tenth (the hardest %.1f %%)\n", 100 * h->cost);
      continue;
    }
    printf(" costs %5.1f %%, %5.1f of them so, undone after ", 100 * h->cost, 100 * h->through);
    printf(isnan(h->undone_s) ? "  - s:" : "%3.0f s:", h->undone_s);
    print_step(channel, h->step);
    printf("\n");
  }
}

static void judge_channel(int c, const struct harm *harms, unsigned seeds, bool brief, FILE *out) {
  double limit = (double)channels[c].limit_ns / 1e9, cost = 0, times[MAX_SEEDS];
  unsigned in_time = 0, mild = 0;
  const struct harm *last = NULL;
  for (unsigned s = 0; s < seeds; s++) {
    const struct harm *h = &harms[s * CHANNELS];
    cost += h->cost / seeds;
    mild += h->step < 0;
    if (h->step < 0 || h->status != 200 || !h->why[0] || !(h->undone_s <= limit)) continue;
    times[in_time++] = h->undone_s;
    last = h;
  }
  qsort(times, in_time, sizeof *times, by_size);
  double median = in_time ? times[in_time / 2] : NAN, worst = in_time ? times[in_time - 1] : NAN;
  printf("%-8s %8.0f %10.1f %6u/%-3u %12.0f %10.0f\n", channels[c].name, limit, 100 * cost, in_time, seeds,
         median, worst);
  if (last) printf("         why: %s\n", last->why);
  if (out)
    fprintf(out, "%s{\"through\":\"%s\",\"cost\":%.4f,\"undone\":%u,\"seeds\":%u,\"median_s\":%.0f}",
            c ? "," : "", channels[c].name, cost, in_time, seeds, in_time ? median : -1);
  char what[128];
  snprintf(what, sizeof what, "%s: undone in %u of %u", channels[c].name, in_time, seeds);
  if (!brief && in_time < ceil(0.9 * seeds)) fall_short(what);
  snprintf(what, sizeof what, "%s: no step costs a tenth in %u of %u seeds", channels[c].name, mild, seeds);
  if (mild > 0) fall_short(what);
}

static void prove_harm(uint64_t seed, unsigned seeds, bool brief, FILE *out) {
  static const int all[CHANNELS] = {0, 1, 2, 3};
  struct harm *harms = share(sizeof *harms * seeds * CHANNELS);
  run_jobs(harm_job, harms, sizeof *harms, seed, seeds, all, CHANNELS);
  printf("harm: the mildest step that costs a tenth in twenty minutes against a twin without it\n");
  for (int c = 0; c < CHANNELS; c++)
    print_seeds(&channels[c], harms + c, seed, seeds);
  printf("\n%-8s %8s %10s %10s %12s %10s\n", "through", "limit s", "cost %", "undone", "median s", "worst s");
  if (out) fprintf(out, "\"harm\":[");
  for (int c = 0; c < CHANNELS; c++)
    judge_channel(c, harms + c, seeds, brief, out);
  if (out) fprintf(out, "],");
}

#endif
