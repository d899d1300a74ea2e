#ifndef PIPELINE_BREAKER_H
#define PIPELINE_BREAKER_H

/* Circuit breaker: consecutive failures (time-outs are failures) open it; after a pause one probe at a time
 * is let through; it closes when success_rate * 5 (rounded up) succeeded in a row. Each pause after a failed
 * probe doubles, up to four times the first. Results of calls that began before the last change of state are
 * ignored. While closed, time-outs of calls that began together and of which others were answered since are
 * one failure: when a queue is let go at once, all that time out do so in the same instant, before the others
 * can have ended well. Not locked: the owner locks. */

#include <stdbool.h>
#include <stdint.h>

enum breaker_state { BREAKER_CLOSED, BREAKER_HALF_OPEN, BREAKER_OPEN };

struct breaker_settings {
  uint32_t failure_threshold;
  double success_rate;
  int64_t pause_ns;
};

struct breaker {
  enum breaker_state state;
  uint32_t failures;   /* consecutive, while closed */
  uint32_t probes;     /* good ones since half-open */
  uint32_t reopened;   /* failed probes in a row */
  uint32_t generation; /* of state changes; a call remembers the one it began in */
  bool probing;
  int64_t retry_at_ns; /* when open: first probe */
  int64_t alive_ns;    /* last sign of life */
  int64_t late_ns;     /* beginning of the last call whose time-out counted */
};

void breaker_init(struct breaker *b);

/* May a call go now? In half-open the one who gets true holds the probe and must report its end. *generation
 * is to be handed back with the result. */
bool breaker_admit(struct breaker *b, int64_t now_ns, uint32_t *generation);

/* As breaker_admit, but takes nothing. */
bool breaker_would_admit(const struct breaker *b, int64_t now_ns);

/* The result of an admitted call. Returns true when this opened the breaker. */
bool breaker_report(struct breaker *b, const struct breaker_settings *s, bool success, uint32_t generation,
                    int64_t now_ns);

/* A first token or a whole answer has come. */
void breaker_alive(struct breaker *b, int64_t now_ns);

/* Does the time-out of a call begun then count as a failure? To be asked once for each. */
bool breaker_counts(struct breaker *b, int64_t began_ns);

/* The admitted call ended without telling anything about the provider (cancelled, 4xx, 429): frees the probe.
 */
void breaker_release(struct breaker *b, uint32_t generation);

#endif
