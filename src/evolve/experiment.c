/* One difference, treatment - control, of three measures: utility decides, errors and missed targets guard.
 * SESSION compares the means of two samples of sessions; a session's mean moves while it goes on and replaces
 * its old value in the sample. SWITCHBACK has one sample, of differences inside groups of time blocks.
 *
 * Order of verdicts: wrong arm sizes make all else worthless; then the guardrails, which need few units; then
 * utility, once there are enough units for its sequence; then the end of time. All bounds hold at every look.
 */

#include "evolve/assign.h"
#include "evolve/internal.h"

#include "bus/outcome.h"
#include "sys/clock.h"

#include <gsl/gsl_cdf.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TUNED_SESSIONS 1000.0
#define TUNED_GROUPS 40.0
#define GUARD_ALPHA 0.01
#define SKEW_ALPHA 0.0005
#define DAY_S 86400.0
enum { GUARD_SESSIONS = 30, GUARD_GROUPS = 4, SKEW_SESSIONS = 200 };

static void put_defaults(struct experiment_spec *s) {
  if (!(s->share > 0.0 && s->share <= 0.5)) s->share = 0.5;
  if (!(s->duration_s > 0.0)) s->duration_s = DAY_S;
  if (!(s->alpha > 0.0 && s->alpha < 0.5)) s->alpha = 0.05;
  if (!(s->min_effect > 0.0)) s->min_effect = 0.0;
  if (!(s->guard_error > 0.0)) s->guard_error = 0.01;
  if (!(s->guard_target > 0.0)) s->guard_target = 0.02;
}

struct experiment *experiment_create(const struct experiment_spec *spec, int64_t now_ns) {
  struct experiment *e = calloc(1, sizeof *e);
  if (!e) return NULL;
  e->spec = *spec;
  put_defaults(&e->spec);
  e->salt = assign_salt(spec->seed, spec->id);
  e->began_ns = e->from_ns = now_ns;
  if (spec->design == TRIAL_SESSION) {
    e->sessions = sessions_create(EXPERIMENT_SESSIONS);
    if (!e->sessions) {
      free(e);
      return NULL;
    }
  } else {
    switchback_init(&e->switchback, e->salt, e->spec.share, 0);
  }
  return e;
}

void experiment_destroy(struct experiment *e) {
  if (!e) return;
  sessions_destroy(e->sessions);
  free(e);
}

const struct experiment_spec *experiment_spec(const struct experiment *e) {
  return &e->spec;
}
uint64_t experiment_salt(const struct experiment *e) {
  return e->salt;
}

const char *experiment_verdict_name(enum experiment_verdict verdict) {
  static const char *const names[] = {"running",      "promoted",  "control",
                                      "inconclusive", "guardrail", "stopped"};
  return names[verdict];
}

/* ---- observing ---- */

/* False when the session cannot be held. */
static bool add_to_session(struct experiment *e, const struct outcome *o, const double value[MEASURES],
                           bool *treated) {
  struct session *s = sessions_at(e->sessions, o->session ? o->session : o->id);
  if (!s) return false;
  if (s->requests == 0) s->treated = o->treated;
  struct moments *arm = e->arm[s->treated];
  for (int m = 0; m < MEASURES; m++) {
    if (s->requests > 0) moments_remove(&arm[m], s->mean[m]);
    s->mean[m] += (value[m] - s->mean[m]) / (s->requests + 1.0);
    moments_add(&arm[m], s->mean[m]);
  }
  s->requests++;
  *treated = s->treated;
  return true;
}

void experiment_observe(struct experiment *e, const struct outcome *o, double utility) {
  bool error = o->kind == OUTCOME_FAILED || o->kind == OUTCOME_SHED || o->kind == OUTCOME_EXPIRED,
       treated = false;
  double value[MEASURES] = {utility, error, !o->in_target};
  if (e->final.verdict != EXPERIMENT_RUNNING || isnan(utility) || o->arrived_ns < e->from_ns) return;
  bool kept = e->sessions ? add_to_session(e, o, value, &treated)
                          : switchback_add(&e->switchback, o->arrived_ns, value, &treated);
  if (!kept) {
    e->left_out++;
    return;
  }
  e->requests[treated]++;
  for (int m = 0; m < MEASURES; m++)
    e->sums[treated][m] += value[m];
}

/* ---- deciding ---- */

static double units(const struct experiment *e) {
  return e->sessions ? fmin(e->arm[CONTROL][0].n, e->arm[TREATMENT][0].n) : e->difference[0].n;
}

/* Few units: the quantile of t in place of the normal one. */
static double small_sample(double df, double alpha) {
  return df < 1.0 ? INFINITY : gsl_cdf_tdist_Qinv(alpha, df) / gsl_cdf_ugaussian_Qinv(alpha);
}

static struct effect effect_of(const struct experiment *e, enum measure m, double alpha) {
  struct effect f;
  if (e->sessions) {
    f = welch_difference(&e->arm[CONTROL][m], &e->arm[TREATMENT][m]);
    f.se *= small_sample(units(e) - 1.0, alpha);
    return f;
  }
  const struct moments *d = &e->difference[m];
  f = (struct effect){d->mean, sqrt(moments_variance(d) / d->n), d->n};
  f.se *= small_sample(d->n - 1.0, alpha);
  return f;
}

static double tuned(const struct experiment *e) {
  return e->sessions ? TUNED_SESSIONS : TUNED_GROUPS;
}

/* Variance of a share among n requests, never zero though none or all of them hit. */
static double share_variance(double hits, double n) {
  double p = (hits + 1.0) / (n + 2.0);
  return n > 0.0 ? p * (1.0 - p) / n : INFINITY;
}

/* Has this share risen by more than `tolerated`? A rare event that a few units have not seen yet has no
 * variance: the binomial one is the floor. */
static bool guard_broken(const struct experiment *e, enum measure m, double tolerated) {
  struct effect f = effect_of(e, m, GUARD_ALPHA);
  double floor = 0.0;
  for (int a = 0; a < ARMS; a++)
    floor += share_variance(e->sums[a][m], (double)e->requests[a]);
  f.se = fmax(f.se, sqrt(floor));
  return confseq_lower(f, GUARD_ALPHA, tuned(e)) > tolerated;
}

static bool is_skewed(const struct experiment *e) {
  if (!e->sessions) return false;
  double t = e->arm[TREATMENT][0].n, n = t + e->arm[CONTROL][0].n, share = e->spec.share;
  if (n < SKEW_SESSIONS) return false;
  return fabs(t / n - share) > confseq_half_width(share * (1.0 - share), n, SKEW_ALPHA, TUNED_SESSIONS);
}

static void measure(const struct experiment *e, struct experiment_status *s) {
  struct effect f = effect_of(e, MEASURE_UTILITY, e->spec.alpha / 2.0);
  *s = (struct experiment_status){.effect = NAN, .low = NAN, .high = NAN, .p = NAN, .left_out = e->left_out};
  s->control_units = e->sessions ? (int64_t)e->arm[CONTROL][0].n : e->blocks[CONTROL];
  s->treatment_units = e->sessions ? (int64_t)e->arm[TREATMENT][0].n : e->blocks[TREATMENT];
  s->control_requests = e->requests[CONTROL];
  s->treatment_requests = e->requests[TREATMENT];
  if (!isfinite(f.size) || units(e) < 1.0) return;
  s->effect = f.size;
  if (!isfinite(f.se)) return;
  struct interval ci = confseq_interval(f, e->spec.alpha, tuned(e));
  s->low = ci.low;
  s->high = ci.high;
  s->p = confseq_p(f, e->spec.alpha, tuned(e));
}

static enum experiment_verdict decide(const struct experiment *e, const struct experiment_status *s,
                                      int64_t now_ns) {
  double n = units(e);
  if (is_skewed(e)) return EXPERIMENT_SKEWED;
  if (n >= (e->sessions ? GUARD_SESSIONS : GUARD_GROUPS) &&
      (guard_broken(e, MEASURE_ERROR, e->spec.guard_error) ||
       guard_broken(e, MEASURE_MISS, e->spec.guard_target)))
    return EXPERIMENT_GUARDRAIL;
  if (n >= (e->sessions ? EXPERIMENT_MIN_SESSIONS : EXPERIMENT_MIN_GROUPS)) {
    if (s->low > e->spec.min_effect) return EXPERIMENT_PROMOTE;
    if (s->high < 0.0) return EXPERIMENT_CONTROL;
  }
  if ((double)(now_ns - e->began_ns) >= e->spec.duration_s * NS_PER_S) return EXPERIMENT_INCONCLUSIVE;
  return EXPERIMENT_RUNNING;
}

/* ---- words ---- */

static double per_request(const struct experiment *e, int arm, enum measure m) {
  return e->requests[arm] > 0 ? e->sums[arm][m] / (double)e->requests[arm] : NAN;
}

static void put_words(const struct experiment *e, struct experiment_status *s) {
  static const char *const leads[] = {"Running",
                                      "The treatment is better",
                                      "The control is better",
                                      "No difference was proved in the time given",
                                      "Stopped: the treatment breaks a guardrail",
                                      "Stopped: the sizes of the arms do not fit the assignment"};
  int n = snprintf(s->words, sizeof s->words, "%s: %s %g against %g, ", leads[s->verdict], e->spec.tunable,
                   e->spec.treatment, e->spec.control);
  char *at = s->words + (n < (int)sizeof s->words ? n : (int)sizeof s->words - 1);
  size_t room = sizeof s->words - (size_t)(at - s->words);
  const char *unit = e->sessions ? "sessions" : "time blocks";
  if (s->verdict == EXPERIMENT_GUARDRAIL)
    snprintf(at, room,
             "errors %.1f %% against %.1f %%, out of target %.1f %% against %.1f %%, over %lld and %lld %s.",
             100.0 * per_request(e, TREATMENT, MEASURE_ERROR), 100.0 * per_request(e, CONTROL, MEASURE_ERROR),
             100.0 * per_request(e, TREATMENT, MEASURE_MISS), 100.0 * per_request(e, CONTROL, MEASURE_MISS),
             (long long)s->treatment_units, (long long)s->control_units, unit);
  else if (isnan(s->low))
    snprintf(at, room, "too few %s to say more (%lld and %lld).", unit, (long long)s->treatment_units,
             (long long)s->control_units);
  else
    snprintf(at, room, "utility %+.4f a request (between %+.4f and %+.4f, always valid), %lld and %lld %s.",
             s->effect, s->low, s->high, (long long)s->treatment_units, (long long)s->control_units, unit);
}

void experiment_tick(struct experiment *e, int64_t now_ns, struct experiment_status *status) {
  if (e->final.verdict != EXPERIMENT_RUNNING) {
    *status = e->final;
    return;
  }
  struct switchback_difference d;
  if (!e->sessions && switchback_advance(&e->switchback, now_ns, &d)) {
    for (int m = 0; m < MEASURES; m++)
      moments_add(&e->difference[m], d.value[m]);
    e->blocks[TREATMENT]++;
    e->blocks[CONTROL] += d.control_blocks;
  }
  measure(e, status);
  status->verdict = decide(e, status, now_ns);
  if (status->verdict != EXPERIMENT_RUNNING) {
    put_words(e, status);
    e->final = *status;
    return;
  }
  status->treat = !e->sessions && switchback_treats(&e->switchback, now_ns);
  put_words(e, status);
}
