/* With background failure rate p, independent failures and R attempts a day, about R p^n runs of n failures
 * begin in a day. The threshold is the least n with R p^n < 1, where p is the upper end of Wilson's interval
 * (1927): with few attempts the breaker is asked to be patient rather than jumpy. */

#include "control/breaker_tuner.h"

#include <math.h>

static const double day_s = 86400, z95 = 1.959963984540054, least_attempts = 300;
enum { LEAST = 3, MOST = 20 };

void breaker_tuner_init(struct breaker_tuner *t) {
  *t = (struct breaker_tuner){0};
}

void breaker_tuner_observe(struct breaker_tuner *t, double attempts, double failures, double dt_s) {
  bool known = attempts >= 0 && failures >= 0 && failures <= attempts && dt_s > 0;
  if (!known || !isfinite(attempts) || !isfinite(dt_s)) return;
  double keep = exp(-dt_s / day_s);
  t->attempts = t->attempts * keep + attempts;
  t->failures = t->failures * keep + failures;
  t->seconds = t->seconds * keep + dt_s;
}

double breaker_tuner_upper(double failures, double attempts) {
  if (!(attempts > 0)) return 1;
  double p = failures / attempts, z2 = z95 * z95;
  double middle = p + z2 / (2 * attempts);
  double half = z95 * sqrt(p * (1 - p) / attempts + z2 / (4 * attempts * attempts));
  return fmin(1, (middle + half) / (1 + z2 / attempts));
}

static int least_threshold(double rate, double a_day) {
  int n = LEAST;
  while (n < MOST && a_day * pow(rate, n) >= 1)
    n++;
  return n;
}

void breaker_tuner_decide(const struct breaker_tuner *tuners, unsigned count, double current,
                          struct decision *decision) {
  int wish = 0;
  double rate = NAN, a_day = NAN;
  for (unsigned i = 0; i < count; i++) {
    const struct breaker_tuner *t = &tuners[i];
    if (t->attempts < least_attempts) continue;
    double upper = breaker_tuner_upper(t->failures, t->attempts), daily = t->attempts / t->seconds * day_s;
    int needed = least_threshold(upper, daily);
    if (needed <= wish) continue;
    wish = needed;
    rate = upper;
    a_day = daily;
  }
  if (wish == 0)
    decision_blind(decision, current, "no provider has %.0f attempts yet: held", least_attempts);
  else
    decision_wish(
        decision, current, wish,
        "up to %.2f %% of %.0f attempts a day fail in health: %d in a row happen less than once a day",
        rate * 100, a_day, wish);
}
