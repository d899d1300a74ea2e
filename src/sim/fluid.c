#include "sim/fluid.h"

#include "sys/clock.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

/* Work is counted in tokens: a millionth of one is rounding. */
#define DUST 1e-6

void fluid_free(struct fluid *f) {
  free(f->heap);
}

static double level_at(const struct fluid *f, int64_t now_ns) {
  return f->level + f->rate * (double)(now_ns - f->at_ns);
}

static void advance(struct fluid *f, int64_t now_ns) {
  f->level = f->count ? level_at(f, now_ns) : 0;
  f->at_ns = now_ns;
}

static void place(struct fluid *f, size_t i, struct fluid_member *m) {
  f->heap[i] = m;
  m->slot = i + 1;
}

static void sift(struct fluid *f, size_t i) {
  struct fluid_member *moving = f->heap[i];
  for (; i > 0 && moving->target < f->heap[(i - 1) / 2]->target; i = (i - 1) / 2)
    place(f, i, f->heap[(i - 1) / 2]);
  for (;;) {
    size_t child = 2 * i + 1;
    if (child >= f->count) break;
    if (child + 1 < f->count && f->heap[child + 1]->target < f->heap[child]->target) child++;
    if (f->heap[child]->target >= moving->target) break;
    place(f, i, f->heap[child]);
    i = child;
  }
  place(f, i, moving);
}

void fluid_set_rate(struct fluid *f, double rate, int64_t now_ns) {
  advance(f, now_ns);
  f->rate = rate;
}

int fluid_add(struct fluid *f, struct fluid_member *m, double work, int64_t now_ns) {
  if (f->count == f->capacity) {
    size_t capacity = f->capacity ? 2 * f->capacity : 16;
    struct fluid_member **heap = realloc(f->heap, capacity * sizeof *heap);
    if (!heap) return -ENOMEM;
    f->heap = heap;
    f->capacity = capacity;
  }
  advance(f, now_ns);
  m->target = f->level + work;
  place(f, f->count++, m);
  sift(f, f->count - 1);
  return 0;
}

void fluid_remove(struct fluid *f, struct fluid_member *m, int64_t now_ns) {
  if (m->slot == 0) return;
  size_t i = m->slot - 1;
  m->slot = 0;
  advance(f, now_ns);
  struct fluid_member *last = f->heap[--f->count];
  if (last == m) return;
  place(f, i, last);
  sift(f, i);
}

double fluid_left(const struct fluid *f, const struct fluid_member *m, int64_t now_ns) {
  return fmax(0, m->target - level_at(f, now_ns));
}

int64_t fluid_reach_ns(const struct fluid *f, double level) {
  double left = fmax(0, level - f->level);
  if (left > 0 && f->rate <= 0) return NS_NEVER;
  return f->at_ns + (left > 0 ? (int64_t)ceil(left / f->rate) : 0);
}

int64_t fluid_next_ns(const struct fluid *f) {
  return f->count ? fluid_reach_ns(f, f->heap[0]->target) : NS_NEVER;
}

struct fluid_member *fluid_take_done(struct fluid *f, int64_t now_ns) {
  if (f->count == 0) return NULL;
  struct fluid_member *m = f->heap[0];
  if (m->target > level_at(f, now_ns) + DUST) return NULL;
  fluid_remove(f, m, now_ns);
  return m;
}
