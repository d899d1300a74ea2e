/* Residual r = (sample - centre) / (noise scale), clipped at 3 before anything is learned from it.
 *
 * Warm-up of 120 samples: median and median absolute deviation, then three rounds of clipped mean and
 * deviation. After it: centre += g noise scale clip(r), scale^2 *= 1 + g (clip(r)^2 - 1), g = 1/n down to
 * 1/3600.
 *
 * Samples of a live system hang together, and sums of them wander further than independent ones would. The
 * long-run spread says how much further: the larger of (1 + c)/(1 - c), c the correlation of neighbours
 * (exact for a first-order autoregression), and of the Haar wavelet variance at scales 1, 2, 4 .. 256, 2^j
 * E[(m1 - m2)^2] / 2 for neighbouring means of 2^j residuals, which sees what a single lag does not. */

#include "control/reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MEMORY = 3600, LEAST_PAIRS = 4, ROUNDS = 3 };
static const double clip_at = 3, most_lag1 = 0.97, normal_mad = 1.4826, least_scale = 1e-9;

void reference_init(struct reference *r) {
  memset(r, 0, sizeof *r);
}

bool reference_ready(const struct reference *r) {
  return r->filled == REFERENCE_WARMUP;
}

double reference_residual(const struct reference *r, double sample, double noise) {
  return (sample - r->centre) / (noise * r->scale);
}

double reference_clip(double residual) {
  return residual > clip_at ? clip_at : residual < -clip_at ? -clip_at : residual;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *values) {
  qsort(values, REFERENCE_WARMUP, sizeof *values, by_value);
  return (values[REFERENCE_WARMUP / 2 - 1] + values[REFERENCE_WARMUP / 2]) / 2;
}

static double believable(double scale, double floor) {
  return fmax(scale, fmax(floor, least_scale));
}

static void start_from_medians(struct reference *r, double floor) {
  double sorted[REFERENCE_WARMUP];
  memcpy(sorted, r->sample, sizeof sorted);
  r->centre = median(sorted);
  for (int i = 0; i < REFERENCE_WARMUP; i++)
    sorted[i] = fabs(r->sample[i] - r->centre) / r->noise[i];
  r->scale = believable(normal_mad * median(sorted), floor);
}

static void refine(struct reference *r, double floor) {
  double moved = 0, squares = 0;
  for (int i = 0; i < REFERENCE_WARMUP; i++) {
    double z = reference_clip(reference_residual(r, r->sample[i], r->noise[i]));
    moved += z * r->noise[i];
    squares += z * z;
  }
  r->centre += r->scale * moved / REFERENCE_WARMUP;
  r->scale = believable(r->scale * sqrt(squares / REFERENCE_WARMUP), floor);
}

static uint32_t at_most(uint32_t x, uint32_t most) {
  return x < most ? x : most;
}

static void climb(struct reference *r, double mean) {
  for (int j = 0; j < REFERENCE_LEVELS; j++) {
    struct reference_level *level = &r->level[j];
    if (!level->held) {
      level->held = 1;
      level->pending = mean;
      return;
    }
    level->held = 0;
    level->pairs = at_most(level->pairs + 1, MEMORY >> j);
    double difference = level->pending - mean, variance = difference * difference / 2 * (double)(1u << j);
    level->variance += (variance - level->variance) / level->pairs;
    mean = (level->pending + mean) / 2;
  }
}

static double long_run(const struct reference *r) {
  double c = fmin(fmax(r->lag1, 0), most_lag1), variance = (1 + c) / (1 - c);
  for (int j = 0; j < REFERENCE_LEVELS; j++) {
    const struct reference_level *level = &r->level[j];
    if (level->pairs < LEAST_PAIRS) continue;
    variance = fmax(variance, level->variance / (1 + sqrt(2.0 / level->pairs)));
  }
  return sqrt(variance);
}

static void correlate(struct reference *r, double z) {
  r->lag1 += (z * r->previous - r->lag1) / r->count;
  r->previous = z;
  climb(r, z);
}

static void warm_up(struct reference *r, double sample, double noise, double floor) {
  r->sample[r->filled] = sample;
  r->noise[r->filled] = noise;
  if (++r->filled < REFERENCE_WARMUP) return;
  start_from_medians(r, floor);
  for (int i = 0; i < ROUNDS; i++)
    refine(r, floor);
  for (int i = 0; i < REFERENCE_WARMUP; i++) {
    r->count++;
    correlate(r, reference_clip(reference_residual(r, r->sample[i], r->noise[i])));
  }
  r->spread = long_run(r);
}

void reference_learn(struct reference *r, double sample, double noise, double floor) {
  if (!reference_ready(r)) {
    warm_up(r, sample, noise, floor);
    return;
  }
  double z = reference_clip(reference_residual(r, sample, noise));
  r->count = at_most(r->count + 1, MEMORY);
  double weight = 1.0 / r->count;
  r->centre += weight * noise * r->scale * z;
  r->scale = believable(r->scale * sqrt(1 + weight * (z * z - 1)), floor);
  correlate(r, z);
  r->spread = long_run(r);
}
