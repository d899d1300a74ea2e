#ifndef CONTROL_GRADIENT2_H
#define CONTROL_GRADIENT2_H

/* A concurrency limit that follows the gradient between the long-term and the present latency: Gradient2 of
 * Netflix concurrency-limits (Apache-2.0; formulas, no code). For language models the latency is the time to
 * first token or the time per token, never that of the whole answer: a long answer is no overload.
 *
 * Ours in addition: an optional latency target that cuts the limit, and restart from the applied limit. With
 * two signals run two of them, apply the lower limit of those that hear something, and tell both. */

#include "control/decision.h"

#include <stdbool.h>
#include <stdint.h>

struct gradient2_settings {
  double min, max;       /* of the limit, calls */
  double smoothing;      /* weight of the new limit */
  double queue;          /* calls that may always wait */
  double tolerance;      /* how much slower than usual is still usual */
  double long_window;    /* windows in the long-term mean */
  uint32_t min_samples;  /* in one window */
  int64_t min_window_ns; /* a window is at least so long */
  int64_t max_window_ns; /* a window that did not fill by then is thrown away: its samples are stale */
  double
      target_ms; /* NAN: off. A window above it, and well above the least latency known, gives limit x 0.9 */
  uint32_t least_over; /* windows in the mean whose least that is; 1 or more */
};

extern const struct gradient2_settings
    gradient2_defaults; /* 1..1000, 0.2, 4, 1.5, 600, 10, 1 s, 60 s, off, 1 */

/* Exponential mean that starts as a plain mean of its first `warmup` samples; then weight 2 / (window + 1).
 */
struct warm_mean {
  double value, sum;
  uint32_t count;
};

double warm_mean_add(struct warm_mean *m, double window, uint32_t warmup, double sample);

struct gradient2 {
  double limit; /* with its fraction */
  struct warm_mean long_ms;
  struct warm_mean smooth_ms; /* over least_over windows */
  double least_ms;            /* its slowly forgotten minimum; NAN until it is over so many */
  double window_sum_ms;
  uint64_t window_samples;
  uint32_t window_in_flight; /* highest */
  int64_t window_start_ns;   /* -1: no window open */
  uint32_t above;            /* windows above the target in succession */
  int64_t stepped_ns;        /* when the last window was full; -1: none yet */
};

/* limit: the one in force, cut to the range. */
void gradient2_init(struct gradient2 *g, const struct gradient2_settings *s, double limit);

struct gradient2_sample {
  int64_t now_ns;
  double mean_ms;     /* of the answers since the last tick; NAN: none */
  uint64_t samples;   /* how many */
  uint32_t in_flight; /* calls, in the unit of the limit: per instance when the limit is */
};

/* One tick. The limit moves only when a window is full; otherwise *decision keeps or is blind. The wish is a
 * whole number of calls. */
void gradient2_update(struct gradient2 *g, const struct gradient2_settings *s,
                      const struct gradient2_sample *sample, struct decision *decision);

/* No window was full for max_window_ns: its limit is that of another time, or of somebody else. */
bool gradient2_is_deaf(const struct gradient2 *g, const struct gradient2_settings *s, int64_t now_ns);

/* After every update, and whenever somebody else moves the limit: the one in force. */
void gradient2_applied(struct gradient2 *g, const struct gradient2_settings *s, double applied);

#endif
