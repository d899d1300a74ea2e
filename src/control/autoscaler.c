/* Load in calls, by Little's law: what was refused would have stayed as long as what was let in, hence
 *
 *   load = in_flight (1 + refused / arrivals)       wish = ceil(load / (0.75 limit_per_instance))
 *
 * on values smoothed over 15 s, cut to twice the present number or four more. Inside 10 % of the present
 * number nothing moves. Up, once the wish has been higher for 15 s; not while instances of the last step
 * still start, for they are the answer to the same load. Down, to the highest wish of the last 300 s. A
 * stretch without data counts as a wish for the present number, so that silence of the sensors never takes
 * capacity away.
 *
 * Way up:   load high 15 s ──► cooldown over, or saturated 15 s ──► nothing starting ──► worth its price ──►
 * change Way down: highest wish of the window lower ──► cooldown over ──► change */

#include "control/autoscaler.h"

#include <math.h>

#define S INT64_C(1000000000)

const struct autoscaler_settings autoscaler_defaults = {
    .utilisation = 0.75,
    .tolerance = 0.1,
    .smooth_ns = 15 * S,
    .up_ns = 15 * S,
    .down_window_ns = 300 * S,
    .cheap_window_ns = 120 * S,
    .cooldown_ns = 60 * S,
};

static const double saturation = 0.95; /* share of the limit in use */
static const double most_unserved =
    9; /* refusals for each arrival that are believed: waiting calls knock often */

void autoscaler_init(struct autoscaler *a, const struct autoscaler_settings *s) {
  *a = (struct autoscaler){.last_ns = -1, .changed_ns = -1, .higher_since_ns = -1, .saturated_since_ns = -1};
  a->slot_ns = s->down_window_ns / (AUTOSCALER_SLOTS - 4) + 1;
  for (int i = 0; i < AUTOSCALER_SLOTS; i++)
    a->slot_index[i] = -1;
}

static void remember(struct autoscaler *a, int64_t now_ns, double wish) {
  int64_t index = now_ns / a->slot_ns;
  int i = (int)(index % AUTOSCALER_SLOTS);
  if (a->slot_index[i] != index) {
    a->slot_index[i] = index;
    a->slot_wish[i] = wish;
  }
  a->slot_wish[i] = fmax(a->slot_wish[i], wish);
}

static double highest(const struct autoscaler *a, int64_t now_ns, int64_t window_ns) {
  int64_t last = now_ns / a->slot_ns, first = (now_ns - window_ns) / a->slot_ns;
  double wish = 0;
  for (int i = 0; i < AUTOSCALER_SLOTS; i++)
    if (a->slot_index[i] >= first && a->slot_index[i] <= last) wish = fmax(wish, a->slot_wish[i]);
  return wish;
}

static bool amount(double x) {
  return isfinite(x) && x >= 0;
}

static bool known(const struct autoscaler_sample *sample) {
  return sample->data_ok && amount(sample->in_flight) && amount(sample->arrivals) &&
         amount(sample->refused) && isfinite(sample->limit_per_instance) && sample->limit_per_instance > 0;
}

/* Smooths the load; a first sample, or one after a gap, remembers the present number for the whole gap. */
static void smooth(struct autoscaler *a, const struct autoscaler_settings *s,
                   const struct autoscaler_sample *sample) {
  double dt_s = (double)(sample->now_ns - a->last_ns) / (double)S;
  if (a->last_ns < 0 || dt_s <= 0) dt_s = 1;
  double weight = a->last_ns < 0 ? 1 : 1 - exp(-dt_s * (double)S / (double)s->smooth_ns);
  if (a->last_ns < 0) remember(a, sample->now_ns, sample->wanted);
  a->in_flight += weight * (sample->in_flight - a->in_flight);
  a->arrivals += weight * (sample->arrivals / dt_s - a->arrivals);
  a->refused += weight * (sample->refused / dt_s - a->refused);
  a->last_ns = sample->now_ns;
}

static double load(double in_flight, double arrivals, double refused) {
  if (refused <= 0) return in_flight;
  double unserved = arrivals > 0 ? fmin(refused / arrivals, most_unserved) : most_unserved;
  return fmax(in_flight, 1) * (1 + unserved);
}

/* Instances for a load, before the bounds; a fraction. */
static double instances_for(const struct autoscaler_settings *s, const struct autoscaler_sample *sample,
                            double calls) {
  double wanted = sample->wanted, most = fmax(2 * wanted, wanted + 4);
  return fmin(calls / (s->utilisation * sample->limit_per_instance), most);
}

static double bounded(const struct autoscaler_sample *sample, double wish) {
  return fmin(fmax(wish, sample->min), sample->max);
}

static int64_t since(int64_t start_ns, bool holds, int64_t now_ns) {
  if (!holds) return -1;
  return start_ns < 0 ? now_ns : start_ns;
}

static bool lasted(int64_t start_ns, int64_t now_ns, int64_t for_ns) {
  return start_ns >= 0 && now_ns - start_ns >= for_ns;
}

static void blind(struct autoscaler *a, const struct autoscaler_sample *sample, struct decision *decision,
                  const char *why) {
  remember(a, sample->now_ns, sample->wanted);
  a->higher_since_ns = a->saturated_since_ns = -1;
  decision_blind(decision, sample->wanted, "%s: %u instances held", why, sample->wanted);
}

static bool worth(const struct autoscaler_sample *sample) {
  return isnan(sample->gain_per_hour) || isnan(sample->cost_per_hour) ||
         sample->gain_per_hour > sample->cost_per_hour;
}

static void go_up(const struct autoscaler *a, const struct autoscaler_settings *s,
                  const struct autoscaler_sample *sample, double wish, bool saturated,
                  struct decision *decision) {
  int64_t now_ns = sample->now_ns;
  uint32_t wanted = sample->wanted;
  bool cooling = a->changed_ns >= 0 && now_ns - a->changed_ns < s->cooldown_ns;
  bool empty = sample->ready + sample->starting == 0 && wanted == 0;
  bool recent = a->changed_ns >= 0 && now_ns - a->changed_ns < s->down_window_ns;
  if (sample->starting > 0 && recent)
    decision_keep(decision, wanted, "load %.1f calls wants %.0f instances; %u are starting", a->in_flight,
                  wish, sample->starting);
  else if (!empty && !saturated && (cooling || !lasted(a->higher_since_ns, now_ns, s->up_ns)))
    decision_keep(decision, wanted, "load %.1f calls wants %.0f instances; waiting whether it lasts",
                  a->in_flight, wish);
  else if (!worth(sample))
    decision_keep(decision, wanted,
                  "load %.1f calls wants %.0f instances, but one more gains %.3g an hour for %.3g",
                  a->in_flight, wish, sample->gain_per_hour, sample->cost_per_hour);
  else
    decision_wish(decision, wanted, wish,
                  "load %.1f calls, %.1f refused a second, %.1f for each instance: %u to %.0f", a->in_flight,
                  a->refused, sample->limit_per_instance, wanted, wish);
}

static void go_down(const struct autoscaler *a, const struct autoscaler_settings *s,
                    const struct autoscaler_sample *sample, double wish, struct decision *decision) {
  uint32_t wanted = sample->wanted;
  int64_t window_ns = worth(sample) ? s->down_window_ns : s->cheap_window_ns;
  double target = fmax(wish, bounded(sample, highest(a, sample->now_ns, window_ns)));
  if (target >= wanted || (a->changed_ns >= 0 && sample->now_ns - a->changed_ns < s->cooldown_ns))
    decision_keep(decision, wanted,
                  "load %.1f calls needs %.0f instances; %.0f were needed in the last %.0f s", a->in_flight,
                  wish, target, (double)window_ns / (double)S);
  else
    decision_wish(decision, wanted, target,
                  "load %.1f calls, at most %.0f instances needed in %.0f s: %u to %.0f", a->in_flight,
                  target, (double)window_ns / (double)S, wanted, target);
}

void autoscaler_update(struct autoscaler *a, const struct autoscaler_settings *s,
                       const struct autoscaler_sample *sample, struct decision *decision) {
  uint32_t wanted = sample->wanted;
  if (sample->max < sample->min) {
    blind(a, sample, decision, "refused: the ceiling is below the floor");
    return;
  }
  if (bounded(sample, wanted) != wanted) {
    decision_wish(decision, wanted, bounded(sample, wanted), "%u is outside %u to %u", wanted, sample->min,
                  sample->max);
    return;
  }
  if (!known(sample)) {
    blind(a, sample, decision, "load unknown");
    return;
  }
  smooth(a, s, sample);
  double capacity = sample->limit_per_instance * sample->ready;
  bool full = sample->ready > 0 && sample->refused > 0 && sample->in_flight >= saturation * capacity;
  a->saturated_since_ns = since(a->saturated_since_ns, full, sample->now_ns);
  bool saturated = lasted(a->saturated_since_ns, sample->now_ns, s->up_ns);

  double exact = instances_for(s, sample, load(a->in_flight, a->arrivals, a->refused));
  double wish = fabs(exact - wanted) <= s->tolerance * wanted ? wanted : ceil(exact - 1e-9);
  if (saturated) wish = fmax(wish, wanted + 1.0);
  wish = bounded(sample, wish);
  remember(a, sample->now_ns, wish);
  a->higher_since_ns = since(a->higher_since_ns, wish > wanted, sample->now_ns);
  if (wish > wanted)
    go_up(a, s, sample, wish, saturated, decision);
  else if (wish < wanted)
    go_down(a, s, sample, wish, decision);
  else
    decision_keep(decision, wanted, "load %.1f calls fits %u instances of %.1f calls", a->in_flight, wanted,
                  sample->limit_per_instance);
}

void autoscaler_changed(struct autoscaler *a, int64_t now_ns) {
  a->changed_ns = now_ns;
  a->higher_since_ns = a->saturated_since_ns = -1;
}
