#include "sys/timer.h"

#include "sys/clock.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

struct timers {
  struct timer **heap;
  size_t count, capacity;
  uint64_t next_order;
};

struct timers *timers_create(void) {
  return calloc(1, sizeof(struct timers));
}

void timers_destroy(struct timers *timers) {
  if (!timers) return;
  free(timers->heap);
  free(timers);
}

static bool earlier(const struct timer *a, const struct timer *b) {
  return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->order < b->order;
}

static void place(struct timers *t, size_t i, struct timer *timer) {
  t->heap[i] = timer;
  timer->slot = i + 1;
}

static void sift(struct timers *t, size_t i) {
  struct timer *moving = t->heap[i];
  for (; i > 0 && earlier(moving, t->heap[(i - 1) / 2]); i = (i - 1) / 2)
    place(t, i, t->heap[(i - 1) / 2]);
  for (;;) {
    size_t child = 2 * i + 1;
    if (child >= t->count) break;
    if (child + 1 < t->count && earlier(t->heap[child + 1], t->heap[child])) child++;
    if (!earlier(t->heap[child], moving)) break;
    place(t, i, t->heap[child]);
    i = child;
  }
  place(t, i, moving);
}

int timer_arm(struct timers *t, struct timer *timer, int64_t due_ns) {
  if (timer->slot == 0) {
    if (t->count == t->capacity) {
      size_t capacity = t->capacity ? 2 * t->capacity : 64;
      struct timer **heap = realloc(t->heap, capacity * sizeof *heap);
      if (!heap) return -ENOMEM;
      t->heap = heap;
      t->capacity = capacity;
    }
    place(t, t->count++, timer);
  }
  timer->due_ns = due_ns;
  timer->order = t->next_order++;
  sift(t, timer->slot - 1);
  return 0;
}

void timer_disarm(struct timers *t, struct timer *timer) {
  if (timer->slot == 0) return;
  size_t i = timer->slot - 1;
  timer->slot = 0;
  struct timer *last = t->heap[--t->count];
  if (last == timer) return;
  place(t, i, last);
  sift(t, i);
}

int64_t timers_next_ns(const struct timers *t) {
  return t->count ? t->heap[0]->due_ns : NS_NEVER;
}

void timers_run(struct timers *t, int64_t now_ns) {
  while (t->count && t->heap[0]->due_ns <= now_ns) {
    struct timer *timer = t->heap[0];
    timer_disarm(t, timer);
    timer->fire(timer, now_ns);
  }
}
