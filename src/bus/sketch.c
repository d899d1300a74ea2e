/* gamma = (1 + a)/(1 - a); value v falls in bin ceil(log_gamma v), whose estimate 2 gamma^k/(gamma + 1) is
 * within a of every value of the bin. The bin offset puts the smallest value kept at 1e-3. */

#include "bus/sketch.h"

#include <math.h>
#include <string.h>

#define ALPHA 0.01
static const double smallest = 1e-3;
static const double gamma_ratio = (1 + ALPHA) / (1 - ALPHA);
static const double inverse_log_gamma = 49.99833328888678; /* 1 / ln(gamma) */

static int bin_of(double value) {
  if (!(value > smallest)) return 0;
  double k = ceil(log(value / smallest) * inverse_log_gamma);
  return k >= SKETCH_BINS ? SKETCH_BINS - 1 : (int)k;
}

static double value_of(int bin) {
  return bin == 0 ? smallest : smallest * 2.0 * exp(bin / inverse_log_gamma) / (gamma_ratio + 1.0);
}

void sketch_init(struct sketch *s) {
  memset(s, 0, sizeof *s);
}

void sketch_clear(struct sketch *s) {
  memset(s->bins + s->low, 0, (size_t)(s->high - s->low) * sizeof *s->bins);
  s->count = 0;
  s->sum = 0;
  s->low = s->high = 0;
}

static void widen(struct sketch *s, int low, int high) {
  if (s->low == s->high) {
    s->low = (uint16_t)low;
    s->high = (uint16_t)high;
    return;
  }
  if (low < s->low) s->low = (uint16_t)low;
  if (high > s->high) s->high = (uint16_t)high;
}

void sketch_add(struct sketch *s, double value) {
  if (isnan(value)) return;
  int bin = bin_of(value);
  widen(s, bin, bin + 1);
  s->bins[bin]++;
  s->count++;
  s->sum += value;
}

void sketch_merge(struct sketch *into, const struct sketch *from) {
  if (from->count == 0) return;
  widen(into, from->low, from->high);
  for (int i = from->low; i < from->high; i++)
    into->bins[i] += from->bins[i];
  into->count += from->count;
  into->sum += from->sum;
}

double sketch_quantile(const struct sketch *s, double q) {
  if (s->count == 0) return NAN;
  uint64_t rank = (uint64_t)(q * (double)(s->count - 1)), seen = 0;
  for (int i = s->low; i < s->high; i++) {
    seen += s->bins[i];
    if (seen > rank) return value_of(i);
  }
  return value_of(s->high - 1);
}

double sketch_mean(const struct sketch *s) {
  return s->count ? s->sum / (double)s->count : NAN;
}

uint64_t sketch_at_most(const struct sketch *s, double value) {
  uint64_t n = 0;
  int last = bin_of(value);
  for (int i = s->low; i < s->high && i <= last; i++)
    n += s->bins[i];
  return n;
}
