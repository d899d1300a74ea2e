/* capacity = peak rate x seconds x safety, where the peak rate is the highest ten-second mean of late. While
 * nothing comes the peak is not forgotten.
 *
 * A stage that is as fast as its input needs room for bursts: the rate is what arrives, refused requests
 * included, and the capacity never falls below what is in use. Where requests wait for something slower than
 * they are, the rate is what it serves: sized by arrivals the ring would grow with the overload, and
 * everybody in it would wait too long. */

#include "control/buffers.h"

#include <math.h>

const struct buffers_settings buffers_stage = {
    .seconds = 2, .safety = 3, .dead_band = 0.25, .memory_s = 3600, .low = 64, .high = 4096};

struct buffers_settings buffers_waiting(double seconds) {
  return (struct buffers_settings){
      .seconds = seconds, .safety = 1, .dead_band = 0.25, .memory_s = 600, .low = 64, .high = 4096};
}

static const double mean_s = 10;

void buffers_init(struct buffers *b) {
  *b = (struct buffers){.mean_rate = NAN};
}

/* The least 2^n or 3 x 2^n that holds x. */
static double rounded_up(double x) {
  double power = 1;
  while (power < x)
    power *= 2;
  return power >= 4 && power * 0.75 >= x ? power * 0.75 : power;
}

static void follow(struct buffers *b, const struct buffers_settings *s, double rate, double dt_s) {
  if (isnan(b->mean_rate)) b->mean_rate = rate;
  b->mean_rate += (1 - exp(-dt_s / mean_s)) * (rate - b->mean_rate);
  if (rate > 0) b->peak_rate = fmax(b->mean_rate, b->peak_rate * exp(-dt_s / s->memory_s));
}

void buffers_update(struct buffers *b, const struct buffers_settings *s, const struct buffers_sample *sample,
                    struct decision *decision) {
  double current = sample->current;
  bool known =
      isfinite(sample->requests) && isfinite(sample->depth) && isfinite(sample->dt_s) && sample->dt_s > 0;
  if (known) follow(b, s, sample->requests / sample->dt_s, sample->dt_s);
  if (!known || sample->requests <= 0) {
    decision_blind(decision, current, "no requests: held");
    return;
  }
  double exact = ceil(b->peak_rate * s->seconds * s->safety);
  double wish = rounded_up(fmax(exact, sample->depth));
  wish = fmin(fmax(wish, s->low), s->high);
  if (fabs(wish - current) <= s->dead_band * current)
    decision_keep(decision, current, "peak of %.1f requests/s for %.0f s fits %.0f", b->peak_rate, s->seconds,
                  current);
  else
    decision_wish(decision, current, wish, "peak of %.1f requests/s for %.0f s, %.0f waiting: %.0f to %.0f",
                  b->peak_rate, s->seconds, sample->depth, current, wish);
}
