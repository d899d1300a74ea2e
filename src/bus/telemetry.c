#include "bus/telemetry.h"

#include <math.h>
#include <stdlib.h>

struct telemetry *telemetry_create(void) {
  struct telemetry *t = calloc(1, sizeof *t);
  if (t) pthread_mutex_init(&t->lock, NULL);
  return t;
}

void telemetry_destroy(struct telemetry *t) {
  if (!t) return;
  pthread_mutex_destroy(&t->lock);
  free(t->outcomes);
  free(t);
}

static void add(struct telemetry *t, struct sketch *s, double value) {
  pthread_mutex_lock(&t->lock);
  sketch_add(s, value);
  pthread_mutex_unlock(&t->lock);
}

const double latency_bounds_ms[LATENCY_BOUNDS] = {5,    10,   25,   50,   100,   250,   500,
                                                  1000, 2000, 4000, 8000, 15000, 30000, 60000};

static void bump(_Atomic uint64_t *value, uint64_t n) {
  atomic_store_explicit(value, atomic_load_explicit(value, memory_order_relaxed) + n, memory_order_relaxed);
}

static void keep(struct latency_histogram *h, double ms) {
  if (!(ms >= 0)) return;
  int i = 0;
  while (i < LATENCY_BOUNDS && ms > latency_bounds_ms[i])
    i++;
  bump(&h->bucket[i], 1);
  bump(&h->sum_us, (uint64_t)(ms * 1000));
}

void telemetry_ttft(struct telemetry *t, unsigned provider, double ms) {
  keep(&t->ttft[provider], ms);
  add(t, &t->window.ttft_ms[provider], ms);
}

void telemetry_tpot(struct telemetry *t, unsigned provider, double ms) {
  keep(&t->tpot[provider], ms);
  add(t, &t->window.tpot_ms[provider], ms);
}

void telemetry_sojourn(struct telemetry *t, enum stage stage, double ms) {
  add(t, &t->window.sojourn_ms[stage], ms);
}

void telemetry_wait(struct telemetry *t, enum priority priority, double ms) {
  pthread_mutex_lock(&t->lock);
  t->window.longest_wait_ms[priority] = fmax(t->window.longest_wait_ms[priority], ms);
  pthread_mutex_unlock(&t->lock);
}

static bool make_room(struct telemetry *t) {
  if (t->outcome_count < t->outcome_capacity) return true;
  if (t->outcome_capacity >= OUTCOMES_A_TICK) return false;
  size_t capacity = t->outcome_capacity ? 2 * t->outcome_capacity : 64;
  struct outcome *grown = realloc(t->outcomes, capacity * sizeof *grown);
  if (!grown) return false;
  t->outcomes = grown;
  t->outcome_capacity = capacity;
  return true;
}

void telemetry_outcome(struct telemetry *t, const struct outcome *outcome) {
  pthread_mutex_lock(&t->lock);
  if (make_room(t))
    t->outcomes[t->outcome_count++] = *outcome;
  else
    counter_add(&t->counters, COUNTER_outcomes_dropped, 0, 1);
  pthread_mutex_unlock(&t->lock);
}

void telemetry_window_clear(struct telemetry_window *w, unsigned providers) {
  for (unsigned p = 0; p < providers; p++) {
    sketch_clear(&w->ttft_ms[p]);
    sketch_clear(&w->tpot_ms[p]);
  }
  for (int s = 0; s < STAGES; s++)
    sketch_clear(&w->sojourn_ms[s]);
  for (int p = 0; p < PRIORITIES; p++)
    w->longest_wait_ms[p] = 0;
}

void telemetry_take_window(struct telemetry *t, unsigned providers, struct telemetry_window *into) {
  pthread_mutex_lock(&t->lock);
  for (unsigned p = 0; p < providers; p++) {
    sketch_merge(&into->ttft_ms[p], &t->window.ttft_ms[p]);
    sketch_merge(&into->tpot_ms[p], &t->window.tpot_ms[p]);
  }
  for (int s = 0; s < STAGES; s++)
    sketch_merge(&into->sojourn_ms[s], &t->window.sojourn_ms[s]);
  for (int p = 0; p < PRIORITIES; p++)
    into->longest_wait_ms[p] = fmax(into->longest_wait_ms[p], t->window.longest_wait_ms[p]);
  telemetry_window_clear(&t->window, providers);
  pthread_mutex_unlock(&t->lock);
}

size_t telemetry_take_outcomes(struct telemetry *t, struct outcome **buffer, size_t *capacity) {
  pthread_mutex_lock(&t->lock);
  struct outcome *full = t->outcomes;
  size_t full_capacity = t->outcome_capacity, count = t->outcome_count;
  t->outcomes = *buffer;
  t->outcome_capacity = *capacity;
  t->outcome_count = 0;
  pthread_mutex_unlock(&t->lock);
  *buffer = full;
  *capacity = full_capacity;
  return count;
}
