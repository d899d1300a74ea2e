#include "pipeline/lanes.h"

#include "pipeline/request.h"

static void count(struct lanes *l, int change) {
  size_t depth = atomic_load_explicit(&l->depth, memory_order_relaxed);
  atomic_store_explicit(&l->depth, depth + (size_t)change, memory_order_relaxed);
}

void lanes_push(struct lanes *l, struct request *r) {
  enum priority p = r->spec.priority;
  r->next = NULL;
  r->previous = l->lane[p].last;
  *(r->previous ? &r->previous->next : &l->lane[p].first) = r;
  l->lane[p].last = r;
  count(l, 1);
}

void lanes_push_front(struct lanes *l, struct request *r) {
  enum priority p = r->spec.priority;
  r->previous = NULL;
  r->next = l->lane[p].first;
  *(r->next ? &r->next->previous : &l->lane[p].last) = r;
  l->lane[p].first = r;
  count(l, 1);
}

void lanes_remove(struct lanes *l, struct request *r) {
  enum priority p = r->spec.priority;
  *(r->previous ? &r->previous->next : &l->lane[p].first) = r->next;
  *(r->next ? &r->next->previous : &l->lane[p].last) = r->previous;
  r->next = r->previous = NULL;
  count(l, -1);
}

int64_t lanes_urgency(const struct request *r, int64_t now_ns, int64_t promotion_ns) {
  int64_t lane = (int64_t)r->spec.priority - (now_ns - r->arrived_ns) / promotion_ns;
  return lane > 0 ? lane : 0;
}

void lanes_skip(struct lanes_skip *skip, struct request *r) {
  r->passed_over = skip->round;
  if (r->spent == 0) {
    skip->routes |= UINT64_C(1) << r->spec.route;
  } else if (skip->count < LANES_NARROWER) {
    skip->narrower[skip->count].route = r->spec.route;
    skip->narrower[skip->count++].spent = r->spent;
  }
}

void lanes_look_again(struct lanes_skip *skip) {
  *skip = (struct lanes_skip){.round = skip->round + 1 ? skip->round + 1 : 1};
}

static bool is_skipped(const struct lanes_skip *skip, const struct request *r) {
  if (r->passed_over == skip->round) return true;
  if (r->spent == 0) return skip->routes >> r->spec.route & 1;
  for (unsigned i = 0; i < skip->count; i++)
    if (skip->narrower[i].route == r->spec.route && skip->narrower[i].spent == r->spent) return true;
  return false;
}

struct request *lanes_first(const struct lanes *l, int64_t now_ns, int64_t promotion_ns,
                            const struct lanes_skip *skip) {
  struct request *best = NULL;
  int64_t best_urgency = 0;
  for (int p = 0; p < PRIORITIES; p++) {
    struct request *r = l->lane[p].first;
    while (r && skip && is_skipped(skip, r))
      r = r->next;
    if (!r) continue;
    int64_t u = lanes_urgency(r, now_ns, promotion_ns);
    if (!best || u < best_urgency || (u == best_urgency && r->arrived_ns < best->arrived_ns)) {
      best = r;
      best_urgency = u;
    }
  }
  return best;
}

size_t lanes_depth(const struct lanes *l) {
  return atomic_load_explicit(&l->depth, memory_order_relaxed);
}
