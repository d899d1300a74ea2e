/* Treatments that act through shared queues cannot be told apart by session; they take turns in time
 * (Bojinov, Simchi-Levi, Zhao, Management Science 2023). All blocks of a group have one length, drawn between
 * 60 and 120 s, so that neither arm locks on to a rhythm of the traffic, and only differences inside a group
 * are used, so that drift slower than a group cancels. The first fifth of a block still feels the one before
 * it. */

#include "evolve/switchback.h"

#include "sys/clock.h"
#include "sys/rng.h"

#include <math.h>
#include <string.h>

#define SHORTEST_NS (60 * NS_PER_S)
#define LONGEST_NS (120 * NS_PER_S)
#define LATE_NS (60 * NS_PER_S) /* answers that come later are lost */
enum { CARRY_OVER_DIVISOR = 5 };

void switchback_init(struct switchback *s, uint64_t seed, double share, uint64_t first_group) {
  *s = (struct switchback){.seed = seed, .number = first_group};
  s->size = (unsigned)fmin(fmax(round(1.0 / share), 2.0), SWITCHBACK_BLOCKS);
}

static void begin_group(struct switchback *s, int64_t start_ns) {
  struct rng rng;
  rng_seed(&rng, s->seed, s->number++);
  int64_t length = SHORTEST_NS + (int64_t)(rng_uniform(&rng) * (double)(LONGEST_NS - SHORTEST_NS));
  uint64_t treated = rng_below(&rng, s->size);
  s->now = (struct switchback_group){.size = s->size};
  for (unsigned i = 0; i < s->size; i++)
    s->now.blocks[i] = (struct switchback_block){
        .start_ns = start_ns + length * i, .end_ns = start_ns + length * (i + 1), .treated = i == treated};
}

static int64_t group_end(const struct switchback_group *g) {
  return g->blocks[g->size - 1].end_ns;
}

static bool difference(const struct switchback_group *g, struct switchback_difference *out) {
  double treatment[MEASURES], control[MEASURES] = {0};
  unsigned treated = 0, controls = 0;
  for (unsigned i = 0; i < g->size; i++) {
    const struct switchback_block *b = &g->blocks[i];
    if (b->requests < SWITCHBACK_MIN_REQUESTS) continue;
    *(b->treated ? &treated : &controls) += 1;
    for (int m = 0; m < MEASURES; m++) {
      double mean = b->sum[m] / b->requests;
      if (b->treated)
        treatment[m] = mean;
      else
        control[m] += mean;
    }
  }
  if (treated == 0 || controls == 0) return false;
  for (int m = 0; m < MEASURES; m++)
    out->value[m] = treatment[m] - control[m] / controls;
  out->control_blocks = controls;
  return true;
}

bool switchback_advance(struct switchback *s, int64_t now_ns, struct switchback_difference *out) {
  bool complete = false;
  if (s->before.size > 0 && now_ns >= group_end(&s->before) + LATE_NS) {
    complete = difference(&s->before, out);
    s->before.size = 0;
  }
  if (s->now.size == 0) {
    begin_group(s, now_ns);
  } else if (now_ns >= group_end(&s->now)) {
    bool paused = now_ns > group_end(&s->now) + LATE_NS;
    s->before = s->now;
    if (paused) s->before.size = 0; /* nobody was there to apply the arms */
    begin_group(s, paused ? now_ns : group_end(&s->before));
  }
  return complete;
}

static struct switchback_block *find(struct switchback_group *g, int64_t at_ns) {
  for (unsigned i = 0; i < g->size; i++)
    if (at_ns >= g->blocks[i].start_ns && at_ns < g->blocks[i].end_ns) return &g->blocks[i];
  return NULL;
}

bool switchback_treats(const struct switchback *s, int64_t now_ns) {
  const struct switchback_block *b = find(&((struct switchback *)s)->now, now_ns);
  return b && b->treated;
}

bool switchback_add(struct switchback *s, int64_t arrived_ns, const double value[MEASURES], bool *treated) {
  struct switchback_block *b = find(&s->now, arrived_ns);
  if (!b) b = find(&s->before, arrived_ns);
  if (!b || arrived_ns - b->start_ns < (b->end_ns - b->start_ns) / CARRY_OVER_DIVISOR) return false;
  b->requests++;
  for (int m = 0; m < MEASURES; m++)
    b->sum[m] += value[m];
  *treated = b->treated;
  return true;
}
