/* Inference: route → breaker → concurrency limit → attempt → retry or fall back.
 *
 * A waiting request takes the candidate that the route table prefers among those that are free now: not given
 * up by this request, breaker willing, not cooling down after a 429, below its concurrency limit. Fallbacks
 * are looked at only when no primary candidate is free. While the ring behind it is full no call is begun:
 * what is answered goes out first. */

#include "pipeline/internal.h"

#define UNBLOCK_NS (20 * NS_PER_MS)
#define SHARED_UNBLOCK_NS (5 * NS_PER_MS) /* where other shards free places, too */
enum { RACES = 4 };

/* ---- which candidates are free ---- */

enum standing { FREE, BUSY, COOLING, BROKEN };

/* key: of the request that asks; 0 with one shard. */
static enum standing standing(struct pipeline *p, unsigned provider, uint64_t key, int64_t now_ns) {
  struct provider_state *s = provider_of(p, provider);
  pthread_mutex_lock(&s->lock);
  bool willing = breaker_would_admit(&s->breaker, now_ns);
  pthread_mutex_unlock(&s->lock);
  if (!willing) return BROKEN;
  if (atomic_load_explicit(&s->closed_until_ns, memory_order_relaxed) > now_ns) return COOLING;
  if (atomic_load_explicit(&s->in_flight, memory_order_relaxed) >= plane_limit(p->env.plane, provider))
    return BUSY;
  if (key && claim_goes_before(&s->claim, key, now_ns)) return BUSY;
  return FREE;
}

struct survey {
  uint32_t free, hopeful; /* candidates that can be used now; that can be waited for */
  uint32_t busy, cooling; /* of the hopeful ones: at their limit; closed after a 429 */
  int64_t opens_ns;       /* when the first cooling one opens */
};

static uint64_t key_of(const struct request *r, int64_t now_ns) {
  const struct pipeline *p = r->pipeline;
  if (!p->env.wake) return 0;
  int64_t promotion = (int64_t)tunable_get(tunables_of(p), TUNABLE_promotion_interval_ms) * NS_PER_MS;
  return claim_key(lanes_urgency(r, now_ns, promotion), r->arrived_ns, p->env.shard);
}

static struct survey survey(struct request *r, int64_t now_ns) {
  const struct route_spec *route = route_of(r);
  struct survey s = {.opens_ns = NS_NEVER};
  uint64_t key = key_of(r, now_ns);
  for (unsigned i = 0; i < route->candidate_count; i++) {
    if (r->spent >> i & 1) continue;
    unsigned provider = route->candidates[i];
    enum standing st = standing(r->pipeline, provider, key, now_ns);
    if (st == FREE) s.free |= 1u << i;
    if (st == BUSY) s.busy |= 1u << i;
    if (st == COOLING) {
      int64_t opens =
          atomic_load_explicit(&provider_of(r->pipeline, provider)->closed_until_ns, memory_order_relaxed);
      s.hopeful |= 1u << i;
      s.cooling |= 1u << i;
      if (opens < s.opens_ns) s.opens_ns = opens;
    }
  }
  s.hopeful |= s.busy;
  uint32_t primary = (1u << route->primary_count) - 1;
  if (s.free & primary) s.free &= primary;
  return s;
}

bool inference_others(struct request *r, bool or_busy, int64_t now_ns) {
  struct survey s = survey(r, now_ns);
  return ((s.free | (or_busy ? s.busy : 0)) & ~(1u << r->candidate)) != 0;
}

static void refresh_table(struct pipeline *p) {
  uint64_t version = atomic_load_explicit(&p->env.plane->table_version, memory_order_acquire);
  if (version != p->table.version) plane_copy_table(p->env.plane, &p->table);
}

static bool choose(struct request *r, uint32_t available, struct route_choice *choice) {
  struct pipeline *p = r->pipeline;
  refresh_table(p);
  bool sticky = route_of(r)->sticky && r->spec.session;
  double draw =
      sticky ? (double)(mix64(r->spec.session + r->spec.route) >> 11) * 0x1p-53 : rng_uniform(&p->rng);
  uint32_t turn =
      p->table.version == 0 ? atomic_fetch_add_explicit(&p->env.plane->turn, 1, memory_order_relaxed) : 0;
  return route_pick(&p->table, r->spec.route, available, draw, turn, choice);
}

/* ---- in line ---- */

void inference_back_in_line(struct request *r, int64_t now_ns) {
  struct pipeline *p = r->pipeline;
  r->phase = PHASE_QUEUED;
  r->stage = STAGE_INFERENCE;
  r->staged_ns = now_ns;
  lanes_push_front(&p->rings[STAGE_INFERENCE], r);
  count(p, COUNTER_stage_arrivals, STAGE_INFERENCE);
}

static void backed_off(struct timer *timer, int64_t now_ns) {
  struct request *r = (struct request *)((char *)timer - offsetof(struct request, backoff_timer));
  inference_back_in_line(r, now_ns);
}

void inference_line_up(struct request *r, int64_t wait_ns, int64_t now_ns) {
  if (wait_ns <= 0) {
    inference_back_in_line(r, now_ns);
    return;
  }
  r->backoff_timer.fire = backed_off;
  timer_arm(r->pipeline->env.timers, &r->backoff_timer, now_ns + wait_ns);
}

/* ---- dispatch ---- */

static void give_up(struct request *r, int64_t opens_ns, int64_t now_ns) {
  if (r->reopens_ns > now_ns && r->reopens_ns < opens_ns) opens_ns = r->reopens_ns;
  struct answer a = r->last_status == 429 || opens_ns != NS_NEVER ? answer_throttled : answer_unavailable;
  if (opens_ns != NS_NEVER) a.retry_after_s = (int)((opens_ns - now_ns) / NS_PER_S) + 1;
  end_failed(r, OUTCOME_FAILED, &a, r->outcome.attempts ? r->last_detail : "no candidate may be called",
             now_ns);
}

/* Once a request: which candidates would have been better than the one it got (-1: it got none), had their
 * limit not been reached. This is the demand that more instances could serve. */
static void count_refusals(struct request *r, uint32_t busy, int got) {
  if (r->surveyed) return;
  r->surveyed = true;
  const struct route_table *t = &r->pipeline->table;
  const float *utility = t->routes[r->spec.route].utility;
  for (unsigned i = 0; busy >> i; i++)
    if ((busy >> i & 1) && (got < 0 || t->version == 0 || utility[i] > utility[got]))
      count(r->pipeline, COUNTER_limit_refusals, route_of(r)->candidates[i]);
}

static int64_t unblock_ns(const struct pipeline *p) {
  return p->env.wake ? SHARED_UNBLOCK_NS : UNBLOCK_NS;
}

/* So that a place that another shard frees is not taken by a request that is less urgent. */
static void claim_places(struct request *r, uint32_t busy, int64_t now_ns) {
  uint64_t key = key_of(r, now_ns);
  int64_t until_ns = now_ns + 3 * unblock_ns(r->pipeline);
  for (unsigned i = 0; key && busy >> i; i++)
    if (busy >> i & 1)
      claim_post(&provider_of(r->pipeline, route_of(r)->candidates[i])->claim, key, now_ns, until_ns);
}

/* Starts the request, ends it, or finds that it must wait: then all that are alike are blocked until
 * something is freed. */
static bool dispatch(struct pipeline *p, struct request *r, int64_t now_ns) {
  struct survey s = survey(r, now_ns);
  if (r->pinned && (s.free >> r->candidate & 1)) s.free = 1u << r->candidate;
  r->pinned = false;
  for (int race = 0; s.free && race < RACES; race++) {
    struct route_choice choice;
    if (!choose(r, s.free, &choice)) break;
    if (attempt_start(r, &choice, now_ns)) {
      if (p->env.wake) claim_drop(&provider_of(p, r->attempt.provider)->claim, claim_key(0, 0, p->env.shard));
      count_refusals(r, s.busy, choice.candidate);
      return true;
    }
    s.free &= ~(1u << choice.candidate);
    s.hopeful |= 1u << choice.candidate;
  }
  bool too_late =
      s.opens_ns != NS_NEVER && (s.hopeful & ~s.cooling) == 0 && s.opens_ns >= recovery_deadline(r);
  if (!s.hopeful || too_late) {
    give_up(r, s.opens_ns, now_ns);
    return true;
  }
  count_refusals(r, s.busy, -1);
  claim_places(r, s.hopeful & ~s.cooling, now_ns);
  lanes_skip(&p->blocked, r);
  return false;
}

bool inference_run(struct pipeline *p, int64_t now_ns) {
  int64_t promotion = (int64_t)tunable_get(tunables_of(p), TUNABLE_promotion_interval_ms) * NS_PER_MS;
  bool moved = false;
  struct request *r;
  while (lanes_depth(&p->rings[STAGE_INFERENCE]) > 0 &&
         (r = lanes_first(&p->rings[STAGE_INFERENCE], now_ns, promotion, &p->blocked)))
    moved |= dispatch(p, r, now_ns);
  if ((p->blocked.routes || p->blocked.count) && p->unblock.slot == 0)
    timer_arm(p->env.timers, &p->unblock, now_ns + unblock_ns(p));
  return moved;
}
