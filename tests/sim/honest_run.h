#ifndef HONEST_RUN_H
#define HONEST_RUN_H

/* What the parts of prove-honest share: one simulated run without the scenario's events at a steady rate, and
 * jobs in child processes. */

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
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_SEEDS = 100, AT_ONCE = 2 };
#define MINUTE (60 * NS_PER_S)

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

static int64_t quiet_from_ns = NS_NEVER; /* from then on no request comes */

static void fall_quiet(struct scenario *s) {
  struct scenario_event *quiet = &s->events[s->event_count++];
  scenario_event_init(quiet, "flash_crowd");
  quiet->at_ns = quiet_from_ns;
  quiet->until_ns = NS_NEVER;
  quiet->factor = 1e-9;
}

static void open_run(struct run *r, uint64_t seed, int64_t length_ns, double rps, double lambda) {
  char error[256];
  r->scenario = scenario_load(scenario_path, seed, error, sizeof error);
  if (r->scenario) {
    r->scenario->length_ns = length_ns;
    r->scenario->mean_rps = rps;
    r->scenario->event_count = 0;
    if (quiet_from_ns != NS_NEVER) fall_quiet(r->scenario);
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

/* False: there was none. A child that did not end well spoils the proof. */
static bool await_job(void) {
  int status;
  if (wait(&status) < 0) return false;
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) fall_short("a run crashed");
  return true;
}

static void run_jobs(job *run, void *results, size_t size, uint64_t first_seed, unsigned seeds,
                     const int *args, unsigned n) {
  unsigned running = 0;
  for (unsigned i = 0; i < seeds * n; i++) {
    if (running == AT_ONCE && await_job()) running--;
    fflush(NULL);
    if (fork() == 0) {
      run((char *)results + i * size, first_seed + i / n, args[i % n]);
      _exit(0);
    }
    running++;
  }
  while (await_job())
    continue;
}

#endif
