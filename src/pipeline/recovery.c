/* What comes after a failed call:
 * - 429: the provider is closed until Retry-After; another candidate at once, else wait for it
 * - 5xx, connection: once more at the same provider (within the retry budget), then another candidate; where
 * there is no other, up to retry_attempts
 * - time-out: never the same provider again; another candidate
 * - 400, 413, 422: the request's own fault: its answer (but context_length_exceeded may try a larger model)
 * - other 4xx: another candidate
 * - after first content: nothing can be taken back: the stream ends with an error frame */

#include "pipeline/internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define COOLING_DEFAULT_NS (1 * NS_PER_S)
#define COOLING_LEAST_NS (100 * NS_PER_MS) /* for Retry-After: 0 and dates that are past */

void recovery_fall_back(struct request *r, int64_t now_ns) {
  r->spent |= 1u << r->candidate;
  inference_back_in_line(r, now_ns);
}

int64_t recovery_deadline(const struct request *r) {
  return r->leads ? coalesce_deadline(r->pipeline->env.plane->coalesce, r->flight) : r->deadline_ns;
}

static bool tried_out(const struct request *r) {
  unsigned allowed = (unsigned)tunable_for(tunables_of(r->pipeline), TUNABLE_retry_attempts, r->treated);
  return r->tries[r->candidate] > allowed;
}

static bool take_from_budget(struct request *r, bool breaker_decides, int64_t now_ns) {
  struct pipeline *p = r->pipeline;
  struct provider_state *s = provider_of(p, r->attempt.provider);
  double percent = tunable_get(tunables_of(p), TUNABLE_retry_budget_percent);
  pthread_mutex_lock(&s->lock);
  bool may = !breaker_decides || breaker_would_admit(&s->breaker, now_ns);
  bool budget = may && retry_budget_take(&s->budget, percent, now_ns);
  pthread_mutex_unlock(&s->lock);
  if (may) count(p, budget ? COUNTER_retries : COUNTER_retries_denied, r->attempt.provider);
  return budget;
}

static bool may_retry_here(struct request *r, int64_t now_ns) {
  if (tried_out(r) || (r->tries[r->candidate] > 1 && inference_others(r, false, now_ns))) return false;
  return take_from_budget(r, true, now_ns);
}

static void after_failure(struct request *r, int64_t now_ns) {
  struct pipeline *p = r->pipeline;
  if (!may_retry_here(r, now_ns)) {
    recovery_fall_back(r, now_ns);
    return;
  }
  int64_t base = (int64_t)tunable_for(tunables_of(p), TUNABLE_retry_base_ms, r->treated) * NS_PER_MS;
  int64_t max = (int64_t)tunable_for(tunables_of(p), TUNABLE_retry_max_ms, r->treated) * NS_PER_MS;
  r->pinned = true;
  inference_line_up(r, retry_backoff_ns(r->tries[r->candidate], base, max, &p->rng), now_ns);
}

/* How long the provider is closed after a 429, never shorter than it says. */
static int64_t cooling_ns(struct pipeline *p, const struct upstream_result *result) {
  double jitter = 0.5 + rng_uniform(&p->rng);
  if (result->retry_after_ns < 0) return (int64_t)(jitter * (double)COOLING_DEFAULT_NS);
  int64_t least = (int64_t)(jitter * (double)COOLING_LEAST_NS);
  return result->retry_after_ns > least ? result->retry_after_ns : least;
}

/* Closed for everyone until Retry-After. This request turns to another candidate, or waits for one that is at
 * its limit; where there is none it waits here, which is a retry, with a jitter so that all who wait do not
 * come back in the same instant. */
static void after_throttle(struct request *r, const struct upstream_result *result, int64_t now_ns) {
  struct pipeline *p = r->pipeline;
  int64_t wait = cooling_ns(p, result);
  int64_t until = plane_close_provider(p->env.plane, r->attempt.provider, now_ns, wait);
  double spread = fmax(0.5e9, 0.1 * (double)wait);
  if (r->reopens_ns <= now_ns || until < r->reopens_ns) r->reopens_ns = until;
  if (!tried_out(r) && inference_others(r, true, now_ns))
    inference_back_in_line(r, now_ns);
  else if (tried_out(r) || until >= recovery_deadline(r) || !take_from_budget(r, false, now_ns))
    recovery_fall_back(r, now_ns);
  else
    inference_line_up(r, wait + (int64_t)(rng_uniform(&p->rng) * spread), now_ns);
}

static bool contains(const struct upstream_result *result, const char *word) {
  return result->body && memmem(result->body, result->body_size, word, strlen(word)) != NULL;
}

/* 400, 413 and 422 are the request's own fault wherever it is sent; a context that is too long may fit
 * elsewhere. */
static bool definitive(const struct upstream_result *result) {
  bool own_fault = result->status == 400 || result->status == 413 || result->status == 422;
  return own_fault && !contains(result, "context_length_exceeded");
}

static bool last_candidate(const struct request *r) {
  uint32_t all = (1u << route_of(r)->candidate_count) - 1;
  return (all & ~r->spent & ~(1u << r->candidate)) == 0;
}

/* A provider's refusal as its client gets it: the provider's words, but our credentials stay our affair. */
static void end_rejected(struct request *r, struct upstream_result *result, int64_t now_ns) {
  bool ours = result->status == 401 || result->status == 402 || result->status == 403;
  struct answer a = {.status = ours ? 502 : result->status,
                     .body = ours ? NULL : result->body,
                     .body_size = ours ? 0 : result->body_size,
                     .error_type = ours ? "api_error" : "invalid_request_error",
                     .error_code = ours ? "provider_refused_credentials" : "provider_rejected",
                     .error_message =
                         ours ? "The provider refused the daemon's own key or account. Check both."
                              : "The provider rejected the request.",
                     .retry_after_s = -1};
  end_failed(r, OUTCOME_FAILED, &a, result->detail, now_ns);
}

static enum attempt_result classify(const struct upstream_result *result) {
  if (result->error != UPSTREAM_STATUS) return ATTEMPT_FAILED;
  if (result->status == 429) return ATTEMPT_THROTTLED;
  return result->status >= 400 && result->status < 500 && result->status != 408 ? ATTEMPT_REJECTED
                                                                                : ATTEMPT_FAILED;
}

/* What a refusal says of the daemon's own key or account is the provider's failure in the books: nobody's
 * request fares better there, so the breaker opens, an incident tells of it, and the router looks elsewhere.
 */
static enum attempt_result booked(enum attempt_result kind, const struct upstream_result *result) {
  return kind == ATTEMPT_REJECTED && (result->status == 401 || result->status == 402) ? ATTEMPT_FAILED : kind;
}

void recovery_remember(struct request *r, int status, const char *detail) {
  r->last_status = status;
  snprintf(r->last_detail, sizeof r->last_detail, "%s", detail);
}

void recovery_after_call(struct request *r, struct upstream_result *result, int64_t now_ns) {
  enum attempt_result kind = classify(result);
  attempt_close(r, booked(kind, result), now_ns);
  recovery_remember(r, result->status, result->detail ? result->detail : upstream_error_name(result->error));
  if (r->begun) {
    end_failed(r, OUTCOME_FAILED, &answer_cut, result->detail, now_ns);
  } else if (kind == ATTEMPT_REJECTED) {
    if (definitive(result) || last_candidate(r))
      end_rejected(r, result, now_ns);
    else
      recovery_fall_back(r, now_ns);
  } else if (kind == ATTEMPT_THROTTLED && contains(result, "insufficient_quota")) {
    recovery_fall_back(r, now_ns);
  } else if (kind == ATTEMPT_THROTTLED) {
    after_throttle(r, result, now_ns);
  } else {
    after_failure(r, now_ns);
  }
}
