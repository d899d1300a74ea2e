/* prove-closed: does closing the loop pay? Disturbances, each over several seeds and paired: the daemon
 * as shipped, the same with all tuning off, a twin whose tuning stops one second before the event, and every
 * fixed route.
 *
 *   SEED=n      the first seed (1)             SEEDS=n  how many (10)
 *   SCENARIO=f  this one instead of those  DATA=dir recorded data (data)
 *   FIGURES=f   where figures go (build/figures/closed.json)
 *   --short     two seeds, no week; only correctness decides */

#include "bus/objective.h"
#include "sim/batch.h"
#include "sim/dataset.h"
#include "sim/paired.h"
#include "sim/scenario.h"
#include "sys/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_SEEDS = 100, MAX_ARMS = 3 + MAX_PROVIDERS, ARM_TUNED = 0, ARM_OFF, ARM_TWIN, ARM_FIXED };

struct plan {
  char path[512], data[512];
  struct scenario *scenario; /* of the first seed */
  uint64_t first_seed;
  unsigned seeds, arms, fixed;   /* arms: ARM_FIXED + fixed */
  unsigned first[MAX_PROVIDERS]; /* provider of each fixed arm */
  size_t minutes;
  struct batch *batch;
};

static char shortfalls[1024];

static void fall_short(const char *scenario, const char *what) {
  size_t n = strlen(shortfalls);
  snprintf(shortfalls + n, sizeof shortfalls - n, "%s%s: %s", n ? "; " : "", scenario, what);
}

/* ---- figures of one run ---- */

static const struct batch_result *result(const struct plan *p, unsigned seed, unsigned arm) {
  return batch_result(p->batch, seed * p->arms + arm);
}

/* A figure of one run. */
typedef double figure(const struct batch_result *r);

static double run_utility(const struct batch_result *r) {
  return r->run.utility;
}
static double run_goodput(const struct batch_result *r) {
  return r->run.goodput;
}
static double run_share(const struct batch_result *r) {
  return r->run.share;
}
static double run_quality(const struct batch_result *r) {
  return r->run.quality;
}
static double run_usd(const struct batch_result *r) {
  return 1000 * (r->run.usd + r->run.instance_usd) / (double)r->run.intents;
}
static double run_p95(const struct batch_result *r) {
  return r->run.ttft_p95_ms;
}
static double event_utility(const struct batch_result *r) {
  return r->event.utility;
}
static double event_goodput(const struct batch_result *r) {
  return r->event.goodput;
}
static double event_share(const struct batch_result *r) {
  return r->event.share;
}
static double event_quality(const struct batch_result *r) {
  return r->event.quality;
}
static double changes(const struct batch_result *r) {
  return r->setting_changes;
}

static void column(const struct plan *p, unsigned arm, figure *f, double *out) {
  for (unsigned s = 0; s < p->seeds; s++)
    out[s] = f(result(p, s, arm));
}

static double mean(const struct plan *p, unsigned arm, figure *f) {
  double x[MAX_SEEDS];
  column(p, arm, f, x);
  return estimate_mean(x, p->seeds).mean;
}

static struct estimate difference(const struct plan *p, unsigned a, unsigned b, figure *f) {
  double x[MAX_SEEDS], y[MAX_SEEDS];
  column(p, a, f, x);
  column(p, b, f, y);
  return estimate_difference(x, y, p->seeds);
}

static unsigned best_fixed(const struct plan *p, figure *f) {
  unsigned best = ARM_FIXED;
  for (unsigned a = ARM_FIXED; a < p->arms; a++)
    if (mean(p, a, f) > mean(p, best, f)) best = a;
  return best;
}

/* Recovery towards what the best fixed route holds after the event, seed by seed. Returns how many never did.
 */
static unsigned recoveries(const struct plan *p, unsigned arm, double *out) {
  unsigned best = best_fixed(p, event_utility), censored = 0;
  for (unsigned s = 0; s < p->seeds; s++) {
    const struct batch_result *r = result(p, s, arm);
    bool never;
    out[s] =
        minutes_recovery_s(r->minutes, r->minute_count, r->event_ns, result(p, s, best)->event.share, &never);
    censored += never;
  }
  return censored;
}

static double harm(const struct plan *p, unsigned arm) {
  const struct scenario *s = p->scenario;
  struct objective o = {s->ttft_ms, s->tpot_ms, s->lambda_per_usd, 1};
  double sum = 0;
  for (unsigned i = 0; i < p->seeds; i++) {
    const struct batch_result *r = result(p, i, arm);
    sum += minutes_harm(r->minutes, result(p, i, ARM_OFF)->minutes, r->minute_count, &o);
  }
  return sum / p->seeds;
}

/* ---- planning and running ---- */

static const char *arm_name(const struct plan *p, unsigned arm, char *buffer, size_t size) {
  static const char *const names[] = {"tuned", "off", "frozen twin"};
  if (arm < ARM_FIXED) return names[arm];
  snprintf(buffer, size, "fixed %s", p->scenario->providers[p->first[arm - ARM_FIXED]].name);
  return buffer;
}

static bool plan_init(struct plan *p, const char *path, const char *data, uint64_t seed, unsigned seeds) {
  char error[512];
  *p = (struct plan){.first_seed = seed, .seeds = seeds};
  snprintf(p->path, sizeof p->path, "%s", path);
  snprintf(p->data, sizeof p->data, "%s", data);
  p->scenario = scenario_load(path, seed, error, sizeof error);
  struct dataset *d = p->scenario ? dataset_load(p->scenario, data, 1, error, sizeof error) : NULL;
  if (!d) {
    fprintf(stderr, "closed: %s\n", error);
    scenario_destroy(p->scenario);
    return false;
  }
  dataset_destroy(d);
  for (unsigned i = 0; i < p->scenario->provider_count; i++)
    if (!p->scenario->providers[i].newcomer) p->first[p->fixed++] = i;
  p->arms = ARM_FIXED + p->fixed;
  p->minutes = (size_t)(p->scenario->length_ns / (60 * NS_PER_S)) + 1;
  return true;
}

static bool plan_run(struct plan *p) {
  size_t count = (size_t)p->seeds * p->arms;
  struct batch_task *tasks = calloc(count, sizeof *tasks);
  for (size_t i = 0; tasks && i < count; i++) {
    unsigned arm = (unsigned)(i % p->arms);
    tasks[i] = (struct batch_task){.scenario = p->path,
                                   .data = p->data,
                                   .seed = p->first_seed + i / p->arms,
                                   .arm = arm == ARM_OFF     ? WORLD_OFF
                                          : arm >= ARM_FIXED ? WORLD_FIXED
                                                             : WORLD_TUNED,
                                   .first = arm >= ARM_FIXED ? p->first[arm - ARM_FIXED] : 0,
                                   .freeze = arm == ARM_TWIN};
  }
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  p->batch = tasks ? batch_run(tasks, count, cores > 1 ? (unsigned)cores : 1, p->minutes) : NULL;
  free(tasks);
  return p->batch != NULL;
}

/* ---- correctness ---- */

static bool check_runs(const struct plan *p) {
  bool good = true;
  for (unsigned s = 0; s < p->seeds; s++)
    for (unsigned a = 0; a < p->arms; a++) {
      const struct batch_result *r = result(p, s, a);
      const char *wrong = r->error[0]                                            ? r->error
                          : !r->conserved                                        ? "requests do not add up"
                          : r->run.intents != result(p, s, ARM_OFF)->run.intents ? "runs are not paired"
                                                                                 : NULL;
      if (!wrong) continue;
      char name[128];
      fprintf(stderr, "closed: %s seed %llu %s: %s\n", p->scenario->name,
              (unsigned long long)(p->first_seed + s), arm_name(p, a, name, sizeof name), wrong);
      good = false;
    }
  if (!good) fall_short(p->scenario->name, "runs failed or do not add up");
  return good;
}

/* The same seed twice is the same run, bit for bit. */
static void check_replay(const struct plan *p) {
  struct batch_task task = {.scenario = p->path, .data = p->data, .seed = p->first_seed, .arm = WORLD_TUNED};
  struct batch *again = batch_run(&task, 1, 1, p->minutes);
  bool same = again && batch_result(again, 0)->digest == result(p, 0, ARM_TUNED)->digest;
  printf("same seed twice: %s (digest %016llx)\n", same ? "the same run" : "DIFFERENT RUNS",
         (unsigned long long)result(p, 0, ARM_TUNED)->digest);
  if (!same) fall_short(p->scenario->name, "the same seed gave two different runs");
  batch_destroy(again);
}

/* ---- printing ---- */

static void print_arm(const struct plan *p, unsigned arm) {
  char name[128], mark = ' ';
  double recovery[MAX_SEEDS];
  unsigned never = recoveries(p, arm, recovery);
  if (arm >= ARM_FIXED && arm == best_fixed(p, run_utility)) mark = '*';
  if (arm >= ARM_FIXED && arm == best_fixed(p, event_utility)) mark = mark == '*' ? '#' : '+';
  printf(
      "%c%-19s %8.4f %8.3f %7.4f %7.4f %7.3f %7.0f | %8.4f %8.3f %7.4f %7.4f %7.0f %3u/%-3u | %7.0f %5.3f\n",
      mark, arm_name(p, arm, name, sizeof name), mean(p, arm, run_utility), mean(p, arm, run_goodput),
      mean(p, arm, run_share), mean(p, arm, run_quality), mean(p, arm, run_usd), mean(p, arm, run_p95),
      mean(p, arm, event_utility), mean(p, arm, event_goodput), mean(p, arm, event_share),
      mean(p, arm, event_quality), estimate_mean(recovery, p->seeds).mean, never, p->seeds,
      mean(p, arm, changes), harm(p, arm));
}

static void print_table(const struct plan *p) {
  const struct scenario *s = p->scenario;
  printf("\n%s: seeds %llu to %llu, %.0f min, %.3g requests/s", s->name, (unsigned long long)p->first_seed,
         (unsigned long long)(p->first_seed + p->seeds - 1), (double)s->length_ns / 60e9, s->mean_rps);
  if (s->event_count)
    printf(", %s at minute %.0f in the first seed", event_kind_name(s->events[0].kind),
           (double)s->events[0].at_ns / 60e9);
  printf("\n%-20s %8s %8s %7s %7s %7s %7s | %8s %8s %7s %7s %7s %7s | %7s %5s\n", "", "utility", "goodput",
         "target", "quality", "$/1000", "ttft95", "event:ut", "goodput", "target", "quality", "recov.s",
         "never", "changes", "harm");
  for (unsigned a = 0; a < p->arms; a++)
    print_arm(p, a);
  printf("best fixed: * over the run, + after the event, # both. harm of two identical twins: %.3f\n",
         harm(p, ARM_OFF));
}

static void print_difference(const char *what, struct estimate e, int sign) {
  bool clear = sign > 0 ? e.low > 0 : e.high < 0;
  printf("  %-44s %+9.4f [%+9.4f, %+9.4f]  %s\n", what, e.mean, e.low, e.high, clear ? "clear" : "not clear");
}

static void require(const struct plan *p, bool gate, const char *what, struct estimate e, int sign) {
  print_difference(what, e, sign);
  if (gate && !(sign > 0 ? e.low > 0 : e.high < 0)) fall_short(p->scenario->name, what);
}

static bool has_event(const struct plan *p, enum event_kind kind) {
  for (unsigned i = 0; i < p->scenario->event_count; i++)
    if (p->scenario->events[i].kind == kind) return true;
  return false;
}

/* A scenario's events say what else must be better than utility. */
static void judge(const struct plan *p, bool gate) {
  double tuned[MAX_SEEDS], off[MAX_SEEDS];
  bool service = has_event(p, EVENT_CAPACITY) || has_event(p, EVENT_FLASH_CROWD);
  bool quality = has_event(p, EVENT_QUALITY_RAMP);
  printf("paired differences, 95 %% intervals:\n");
  require(p, gate, "utility, tuned - off", difference(p, ARM_TUNED, ARM_OFF, run_utility), +1);
  require(p, gate && service, "goodput a second, tuned - off", difference(p, ARM_TUNED, ARM_OFF, run_goodput),
          +1);
  recoveries(p, ARM_TUNED, tuned);
  recoveries(p, ARM_OFF, off);
  require(p, gate && service, "recovery in seconds, tuned - off", estimate_difference(tuned, off, p->seeds),
          -1);
  require(p, gate && quality, "mean quality, tuned - off", difference(p, ARM_TUNED, ARM_OFF, run_quality),
          +1);
  if (p->scenario->event_count)
    require(p, gate, "utility after the event, tuned - frozen twin",
            difference(p, ARM_TUNED, ARM_TWIN, event_utility), +1);
  print_difference("utility, tuned - best fixed",
                   difference(p, ARM_TUNED, best_fixed(p, run_utility), run_utility), +1);
  print_difference("utility after the event, tuned - best fixed",
                   difference(p, ARM_TUNED, best_fixed(p, event_utility), event_utility), +1);
}

/* ---- figures for drawing ---- */

static void write_number(FILE *out, const char *name, double x, const char *after) {
  if (isfinite(x))
    fprintf(out, "\"%s\":%.6g%s", name, x, after);
  else
    fprintf(out, "\"%s\":null%s", name, after);
}

static void write_arm(FILE *out, const struct plan *p, unsigned arm) {
  char name[128];
  double recovery[MAX_SEEDS];
  unsigned never = recoveries(p, arm, recovery);
  fprintf(out, "%s{\"arm\":\"%s\",", arm ? "," : "", arm_name(p, arm, name, sizeof name));
  write_number(out, "utility", mean(p, arm, run_utility), ",");
  write_number(out, "goodput", mean(p, arm, run_goodput), ",");
  write_number(out, "in_target", mean(p, arm, run_share), ",");
  write_number(out, "quality", mean(p, arm, run_quality), ",");
  write_number(out, "usd_per_1000", mean(p, arm, run_usd), ",");
  write_number(out, "event_utility", mean(p, arm, event_utility), ",");
  write_number(out, "event_in_target", mean(p, arm, event_share), ",");
  write_number(out, "recovery_s", estimate_mean(recovery, p->seeds).mean, ",");
  fprintf(out, "\"never_recovered\":%u,\"utility_by_minute\":[", never);
  const struct batch_result *r = result(p, 0, arm);
  for (size_t i = 0; i < r->minute_count; i++) {
    const struct measure_minute *m = &r->minutes[i];
    double sum = m->useful - p->scenario->lambda_per_usd * (m->usd + m->instance_usd);
    fprintf(out, "%s%.4g", i ? "," : "", m->intents ? sum / m->intents : 0.0);
  }
  fprintf(out, "]}");
}

static void write_plan(FILE *out, const struct plan *p, bool first) {
  fprintf(out, "%s{\"scenario\":\"%s\",\"first_seed\":%llu,\"seeds\":%u,\"arms\":[", first ? "" : ",",
          p->scenario->name, (unsigned long long)p->first_seed, p->seeds);
  for (unsigned a = 0; a < p->arms; a++)
    write_arm(out, p, a);
  fprintf(out, "]}");
}

/* ---- the week ---- */

static void print_week(const char *path, const char *data, uint64_t seed) {
  struct batch_task tasks[2] = {{.scenario = path, .data = data, .seed = seed, .arm = WORLD_TUNED},
                                {.scenario = path, .data = data, .seed = seed, .arm = WORLD_OFF}};
  int64_t started_ns = clock_now_ns();
  struct batch *b = batch_run(tasks, 2, 2, 1);
  printf("\nthe week: seed %llu\n%-8s %9s %8s %8s %7s %7s %9s %7s %7s %8s\n", (unsigned long long)seed, "",
         "intents", "utility", "goodput", "target", "quality", "dollars", "ttft95", "tpot95", "changes");
  for (unsigned i = 0; b && i < 2; i++) {
    const struct batch_result *r = batch_result(b, i);
    if (r->error[0] || !r->conserved)
      fall_short("week", r->error[0] ? r->error : "requests do not add up");
    else
      printf("%-8s %9llu %8.4f %8.3f %7.4f %7.4f %9.1f %7.0f %7.1f %8.0f\n", i ? "off" : "tuned",
             (unsigned long long)r->run.intents, r->run.utility, r->run.goodput, r->run.share, r->run.quality,
             r->run.usd + r->run.instance_usd, r->run.ttft_p95_ms, r->run.tpot_p95_ms, r->setting_changes);
  }
  if (!b) fall_short("week", "out of memory");
  printf("both in %.1f s\n", (double)(clock_now_ns() - started_ns) / 1e9);
  batch_destroy(b);
}

/* ---- main ---- */

static unsigned long number(const char *name, unsigned long otherwise) {
  const char *text = getenv(name);
  return text && *text ? strtoul(text, NULL, 10) : otherwise;
}

static void prove(const char *path, const char *data, uint64_t seed, unsigned seeds, bool gate, FILE *out,
                  bool first) {
  struct plan p;
  if (!plan_init(&p, path, data, seed, seeds)) {
    fall_short(path, "could not be read");
    return;
  }
  if (!plan_run(&p)) {
    fall_short(path, "out of memory");
  } else if (check_runs(&p)) {
    print_table(&p);
    judge(&p, gate);
    check_replay(&p);
    if (out) write_plan(out, &p, first);
  }
  fflush(stdout);
  batch_destroy(p.batch);
  scenario_destroy(p.scenario);
}

int main(int argc, char **argv) {
  static const char *const closed[] = {"closed-capacity", "closed-quality", "closed-load",
                                       "closed-capacity-middle"};
  bool brief = argc > 1 && strcmp(argv[1], "--short") == 0;
  const char *one = getenv("SCENARIO"), *data = getenv("DATA"), *figures = getenv("FIGURES");
  uint64_t seed = number("SEED", 1);
  unsigned seeds = (unsigned)number("SEEDS", brief ? 2 : 10);
  if (seeds < 2 || seeds > MAX_SEEDS) seeds = seeds < 2 ? 2 : MAX_SEEDS;
  if (!data || !*data) data = "data";
  mkdir("build", 0777);
  mkdir("build/figures", 0777);
  FILE *out = fopen(figures && *figures ? figures : "build/figures/closed.json", "w");
  if (out) fprintf(out, "{\"name\":\"closed\",\"scenarios\":[");
  for (unsigned i = 0; i < (one && *one ? 1 : brief ? 3 : 4); i++) {
    char path[512];
    snprintf(path, sizeof path, "data/scenarios/%s.toml", closed[i]);
    prove(one && *one ? one : path, data, seed, seeds, !brief, out, i == 0);
  }
  if (out) fprintf(out, "],\"short\":\"%s\"}\n", shortfalls);
  if (out) fclose(out);
  if (!brief && !(one && *one)) print_week("data/scenarios/week.toml", data, seed);
  if (shortfalls[0])
    printf("closed: short: %s\n", shortfalls);
  else
    printf("closed: met\n");
  return shortfalls[0] != '\0';
}
