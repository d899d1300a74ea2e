/* With z = clip(residual) / (spread margin), the sums
 *
 *   up <- max(0, up + z - k)      down <- max(0, down - z - k)
 *
 * cross the threshold h about once in a million independent normal samples (Siegmund's approximation). k is
 * 0.5 and two standard errors of the centre; the margin covers the error of the scale; both errors shrink as
 * samples come in. The reference is frozen while a sum is above h/2, or a ramp would teach the detector to
 * accept it.
 *
 * A single tick alarms when its residual is over 6 and over twice the largest that was seen in health. For
 * rates that residual is the signed root of 2 n KL(observed || usual), so that three failures of five calls
 * alarm where failures are rare, and one does not. Rates are pooled to blocks of at least 20 trials before
 * they are summed; the noise of a block is 1/sqrt(n) and the scale sqrt(p (1 - p)), or more when calls fail
 * in clusters.
 *
 * An incident opens once, is critical when the sums and the size of the change both say so, and closes after
 * a calm stretch, or when a change has lasted so long that it is the new normal. */

#include "control/anomaly.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const double reference_k = 0.5, run_length = 1e6, single_tick = 6;
static const double tail_from = 3, tail_keep = 1 - 1.0 / 86400;
static const double prior_total = 100, prior_count = 2, prior_share = 0.0027, prior_excess = 0.5;
static const double block_trials = 20, rarest = 0.01, rarest_single = 0.001;
static const double recent_weight = 0.125, calm_drift = 1, least_base = 1e-9;
static const double more_patience = 1.25, most_patience = 3;
static const double most_sum = 2.5, critical_sum = 1.5; /* in thresholds */

struct observation {
  double sample, noise; /* transformed */
  double single;        /* residual of the single-tick rule */
  double value;         /* of this tick, in the metric's unit */
};

/* (e^{2 k b} - 2 k b - 1) / (2 k^2) = run length of one side, b = h + 1.166. */
double anomaly_threshold(double k, double run) {
  double wanted = 2 * (2 * run) * k * k, x = log(wanted + 1);
  for (int i = 0; i < 50; i++)
    x = log(wanted + 1 + x);
  return x / (2 * k) - 1.166;
}

void anomaly_init(struct anomaly *a) {
  memset(a, 0, sizeof *a);
  reference_init(&a->reference);
  a->threshold = anomaly_threshold(reference_k, run_length);
  a->patience = 1;
}

static double threshold(const struct anomaly *a) {
  return a->threshold * a->patience;
}

static void forget(struct anomaly *a) {
  reference_init(&a->reference);
  a->up = a->down = a->drift = 0;
  a->tail_count = a->tail_excess = a->tail_total = 0;
  a->successes = a->trials = 0;
}

void anomaly_relearn(struct anomaly *a) {
  forget(a);
  a->forget = a->severity != ANOMALY_NONE;
}

static double transform(const struct anomaly_settings *s, double value) {
  if (!isfinite(value)) return NAN;
  switch (s->transform) {
  case ANOMALY_LOG:
    return value > 0 ? log(value) : NAN;
  case ANOMALY_COUNT:
    return value >= 0 ? 2 * sqrt(value + 0.375) : NAN;
  case ANOMALY_PLAIN:
  case ANOMALY_RATE:
    break;
  }
  return value;
}

static double inverse(const struct anomaly_settings *s, double sample) {
  switch (s->transform) {
  case ANOMALY_LOG:
    return exp(sample);
  case ANOMALY_COUNT:
    return fmax(0, sample * sample / 4 - 0.375);
  case ANOMALY_PLAIN:
  case ANOMALY_RATE:
    break;
  }
  return sample;
}

static double mean_of_warm_up(const struct reference *r) {
  double sum = 0;
  for (uint32_t i = 0; i < r->filled; i++)
    sum += r->sample[i];
  return r->filled > 0 ? sum / r->filled : 0;
}

static double usual(const struct anomaly *a) {
  return reference_ready(&a->reference) ? a->reference.centre : mean_of_warm_up(&a->reference);
}

static double floor_of(const struct anomaly *a, const struct anomaly_settings *s) {
  if (s->transform == ANOMALY_COUNT) return 1;
  if (s->transform == ANOMALY_LOG) return log1p(s->floor);
  if (s->transform == ANOMALY_PLAIN) return s->floor;
  double p = fmin(fmax(usual(a), rarest), 1 - rarest);
  return sqrt(p * (1 - p));
}

static bool bad(const struct anomaly_settings *s, double residual) {
  if (s->direction == ANOMALY_RISE) return residual > 0;
  if (s->direction == ANOMALY_FALL) return residual < 0;
  return true;
}

static void add_up(struct anomaly *a, const struct anomaly_settings *s, double z) {
  double error = 1 / sqrt(a->reference.count), k = reference_k + 2 * error, most = most_sum * threshold(a);
  z /= a->reference.spread * (1 + 1.5 * error);
  if (bad(s, 1)) a->up = fmin(most, fmax(0, a->up + z - k));
  if (bad(s, -1)) a->down = fmin(most, fmax(0, a->down - z - k));
}

/* Where one sample in a million is expected: tail_from + mean excess * ln(share beyond tail_from * run
 * length). */
static double single_limit(const struct anomaly *a) {
  double share = (a->tail_count + prior_total * prior_share) / (a->tail_total + prior_total);
  double excess = (a->tail_excess + prior_count * prior_excess) / (a->tail_count + prior_count);
  return fmax(single_tick, tail_from + excess * log(fmax(1, share * run_length)));
}

/* A residual counts for no more than the present limit, so that one incident cannot blind the detector. */
static void learn_tail(struct anomaly *a, double residual) {
  double size = fmin(fabs(residual), single_limit(a));
  a->tail_count *= tail_keep;
  a->tail_excess *= tail_keep;
  a->tail_total = a->tail_total * tail_keep + 1;
  if (size <= tail_from) return;
  a->tail_count += 1;
  a->tail_excess += size - tail_from;
}

/* How far the recent mean is from the reference: relative, for rates absolute. */
static double change(const struct anomaly *a, const struct anomaly_settings *s) {
  double now = inverse(s, a->recent), then = inverse(s, a->reference.centre);
  if (s->transform == ANOMALY_RATE) return fabs(now - then);
  return fabs(now - then) / fmax(fabs(then), fmax(s->floor, least_base));
}

static void note(struct anomaly *a, const struct anomaly_settings *s, double value, double score) {
  a->value = value;
  a->expected = inverse(s, a->reference.centre);
  a->score = score;
}

static enum anomaly_event close_incident(struct anomaly *a, bool accepted) {
  a->severity = ANOMALY_NONE;
  a->accepted = accepted;
  a->up = a->down = a->drift = 0;
  if (accepted) forget(a);
  return ANOMALY_CLOSED;
}

static enum anomaly_event go_on(struct anomaly *a, const struct anomaly_settings *s, double score,
                                bool spike) {
  a->age++;
  if (a->severity == ANOMALY_WARNING && score >= critical_sum && change(a, s) >= s->critical) {
    a->severity = ANOMALY_CRITICAL;
    note(a, s, inverse(s, a->recent), score);
    return ANOMALY_WORSENED;
  }
  bool calm = !spike && fabs(a->drift) < calm_drift * a->reference.spread;
  a->calm = calm ? a->calm + 1 : 0;
  if (a->calm >= s->close_after) {
    if (!a->spike) a->patience = fmin(most_patience, a->patience * more_patience);
    return close_incident(a, false);
  }
  if (s->accept_after > 0 && a->age >= s->accept_after) return close_incident(a, true);
  return ANOMALY_QUIET;
}

static enum anomaly_event judge(struct anomaly *a, const struct anomaly_settings *s,
                                const struct observation *o, bool spike) {
  double score = fmax(a->up, a->down) / threshold(a);
  if (spike) score = fmax(score, fabs(o->single) / single_limit(a));
  if (a->severity != ANOMALY_NONE) return go_on(a, s, score, spike);
  if (score <= 1) return ANOMALY_QUIET;
  if (!spike && change(a, s) < s->least) {
    a->up = a->down = 0; /* or the reference would stay frozen */
    return ANOMALY_QUIET;
  }
  a->severity = ANOMALY_WARNING;
  a->spike = spike;
  a->accepted = false;
  a->calm = a->age = 0;
  note(a, s, spike ? o->value : inverse(s, o->sample), score);
  return ANOMALY_OPENED;
}

static bool is_spike(const struct anomaly *a, const struct anomaly_settings *s, const struct observation *o) {
  return bad(s, o->single) && fabs(o->single) > single_limit(a);
}

static void learn(struct anomaly *a, const struct anomaly_settings *s, const struct observation *o) {
  struct reference *r = &a->reference;
  bool was_ready = reference_ready(r);
  reference_learn(r, o->sample, o->noise, floor_of(a, s));
  if (was_ready || !reference_ready(r)) return;
  a->recent = r->centre;
  for (int i = 0; i < REFERENCE_WARMUP; i++)
    learn_tail(a, reference_residual(r, r->sample[i], r->noise[i]));
}

/* The sums, the incident, and, in health, the reference. whole: the sample is complete, not only a single
 * tick. */
static enum anomaly_event observe(struct anomaly *a, const struct anomaly_settings *s,
                                  const struct observation *o, bool whole) {
  if (!reference_ready(&a->reference)) {
    if (whole) learn(a, s, o);
    return ANOMALY_QUIET;
  }
  bool spike = is_spike(a, s, o);
  if (whole) {
    double z = reference_clip(reference_residual(&a->reference, o->sample, o->noise));
    add_up(a, s, z);
    a->recent += recent_weight * (o->sample - a->recent);
    a->drift += recent_weight * (z - a->drift);
  }
  enum anomaly_event event = judge(a, s, o, spike);
  learn_tail(a, o->single);
  a->patience = 1 + (a->patience - 1) * tail_keep;
  bool healthy = event == ANOMALY_QUIET && a->severity == ANOMALY_NONE;
  if (whole && healthy && fmax(a->up, a->down) < threshold(a) / 2) learn(a, s, o);
  return event;
}

static bool must_close(struct anomaly *a) {
  bool close = a->forget;
  a->forget = false;
  if (close) close_incident(a, false);
  return close;
}

static enum anomaly_event update(struct anomaly *a, const struct anomaly_settings *s, double value,
                                 bool thin) {
  if (must_close(a)) return ANOMALY_CLOSED;
  struct observation o = {.sample = transform(s, value), .noise = 1, .value = value};
  if (isnan(o.sample)) return ANOMALY_QUIET;
  if (reference_ready(&a->reference) && !thin) o.single = reference_residual(&a->reference, o.sample, 1);
  return observe(a, s, &o, true);
}

enum anomaly_event anomaly_update(struct anomaly *a, const struct anomaly_settings *s, double value) {
  return update(a, s, value, false);
}

enum anomaly_event anomaly_thin_update(struct anomaly *a, const struct anomaly_settings *s, double value) {
  return update(a, s, value, true);
}

static double divergence(double p, double q) {
  double d = p > 0 ? p * log(p / q) : 0;
  return p < 1 ? d + (1 - p) * log((1 - p) / (1 - q)) : d;
}

/* Signed root of twice the log likelihood ratio, in units of what clusters add to binomial noise. */
static double rate_residual(const struct anomaly *a, double successes, double trials) {
  double usually = fmin(fmax(a->reference.centre, rarest_single), 1 - rarest_single),
         rate = successes / trials;
  double clusters = a->reference.scale / sqrt(usually * (1 - usually));
  double root = sqrt(2 * trials * fmax(0, divergence(rate, usually)));
  if (usually > rarest && usually < 1 - rarest) root /= fmax(1, clusters);
  return rate < a->reference.centre ? -root : root;
}

enum anomaly_event anomaly_rate_update(struct anomaly *a, const struct anomaly_settings *s, double successes,
                                       double trials) {
  if (must_close(a)) return ANOMALY_CLOSED;
  bool known = isfinite(trials) && trials > 0 && successes >= 0 && successes <= trials;
  if (!known) return ANOMALY_QUIET;
  a->successes += successes;
  a->trials += trials;
  struct observation o = {
      .sample = a->successes / a->trials, .noise = 1 / sqrt(a->trials), .value = successes / trials};
  if (reference_ready(&a->reference)) o.single = rate_residual(a, successes, trials);
  bool whole = a->trials >= block_trials;
  if (whole) a->successes = a->trials = 0;
  return observe(a, s, &o, whole);
}

const char *anomaly_severity_name(enum anomaly_severity severity) {
  static const char *const names[] = {"none", "warning", "critical"};
  return names[severity];
}

void anomaly_message(const struct anomaly *a, const struct anomaly_settings *s, char *out, size_t size) {
  double scale = s->transform == ANOMALY_RATE ? 100 : 1;
  const char *unit = s->transform == ANOMALY_RATE ? "%" : s->unit;
  snprintf(out, size, "%s %s: %.4g %s, usually %.4g %s (%.1f times the threshold)%s", s->name,
           a->value > a->expected ? "rose" : "fell", a->value * scale, unit, a->expected * scale, unit,
           a->score,
           a->accepted ? "; taken as the new normal"
           : a->spike  ? "; a single tick"
                       : "");
}
