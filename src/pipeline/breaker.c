/*            failures >= threshold                 pause over
 *   CLOSED ────────────────────────► OPEN ─────────────────────► HALF_OPEN
 *      ▲                              ▲       (first admit)         │  │
 *      │                              └──────── probe failed ───────┘  │
 *      └───────── success_rate * 5 probes in a row succeeded ──────────┘
 * Every change of state starts a new generation; a result from an older one says nothing about the present.
 */

#include "pipeline/breaker.h"

#include "sys/clock.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TOGETHER_NS (100 * NS_PER_MS)

enum { PROBES = 5, MAX_DOUBLINGS = 2 };

void breaker_init(struct breaker *b) {
  memset(b, 0, sizeof *b);
  b->late_ns = -TOGETHER_NS;
}

static void enter(struct breaker *b, enum breaker_state state) {
  b->state = state;
  b->generation++;
  b->failures = 0;
  b->probes = 0;
  b->probing = false;
}

static void open_until(struct breaker *b, const struct breaker_settings *s, int64_t now_ns) {
  uint32_t doublings = b->reopened < MAX_DOUBLINGS ? b->reopened : MAX_DOUBLINGS;
  enter(b, BREAKER_OPEN);
  b->retry_at_ns = now_ns + (s->pause_ns << doublings);
}

bool breaker_would_admit(const struct breaker *b, int64_t now_ns) {
  switch (b->state) {
  case BREAKER_CLOSED:
    return true;
  case BREAKER_HALF_OPEN:
    return !b->probing;
  case BREAKER_OPEN:
    break;
  }
  return now_ns >= b->retry_at_ns;
}

bool breaker_admit(struct breaker *b, int64_t now_ns, uint32_t *generation) {
  if (!breaker_would_admit(b, now_ns)) return false;
  if (b->state == BREAKER_OPEN) enter(b, BREAKER_HALF_OPEN);
  if (b->state == BREAKER_HALF_OPEN) b->probing = true;
  *generation = b->generation;
  return true;
}

static bool report_probe(struct breaker *b, const struct breaker_settings *s, bool success, int64_t now_ns) {
  b->probing = false;
  b->probes++;
  if (!success) {
    b->reopened++;
    open_until(b, s, now_ns);
    return true;
  }
  if (b->probes >= ceil(s->success_rate * PROBES)) {
    b->reopened = 0;
    enter(b, BREAKER_CLOSED);
  }
  return false;
}

bool breaker_report(struct breaker *b, const struct breaker_settings *s, bool success, uint32_t generation,
                    int64_t now_ns) {
  if (generation != b->generation) return false;
  if (b->state == BREAKER_HALF_OPEN) return report_probe(b, s, success, now_ns);
  if (b->state != BREAKER_CLOSED) return false;
  if (success) {
    b->failures = 0;
    return false;
  }
  if (++b->failures < s->failure_threshold) return false;
  open_until(b, s, now_ns);
  return true;
}

void breaker_alive(struct breaker *b, int64_t now_ns) {
  b->alive_ns = now_ns;
}

bool breaker_counts(struct breaker *b, int64_t began_ns) {
  bool together = llabs(began_ns - b->late_ns) < TOGETHER_NS, served_others = began_ns < b->alive_ns;
  if (b->state == BREAKER_CLOSED && together && served_others) return false;
  b->late_ns = began_ns;
  return true;
}

void breaker_release(struct breaker *b, uint32_t generation) {
  if (generation == b->generation) b->probing = false;
}
