#ifndef CONTROL_ANOMALY_H
#define CONTROL_ANOMALY_H

/* One detector for one metric of one thing. Standardised residuals go to a two-sided CUSUM (Page 1954), which
 * finds small and slow changes, and to a single-tick rule, which finds spikes. What they find is an incident:
 * it opens once, may grow worse, and closes. About one false alarm in a million ticks on data that look like
 * the warm-up. */

#include "control/reference.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum anomaly_transform {
  ANOMALY_PLAIN, /* about symmetric */
  ANOMALY_LOG,   /* positive with a long tail: latencies, sizes. 0 and less count as missing */
  ANOMALY_COUNT, /* events in a tick: square root */
  ANOMALY_RATE,  /* successes out of trials, given to anomaly_rate_update */
};

enum anomaly_direction { ANOMALY_BOTH, ANOMALY_RISE, ANOMALY_FALL }; /* which way is bad */
enum anomaly_severity { ANOMALY_NONE, ANOMALY_WARNING, ANOMALY_CRITICAL };
enum anomaly_event { ANOMALY_QUIET, ANOMALY_OPENED, ANOMALY_WORSENED, ANOMALY_CLOSED };

struct anomaly_settings {
  const char *name; /* of the metric, for messages */
  const char *unit;
  enum anomaly_transform transform;
  enum anomaly_direction direction;
  double floor;    /* smallest deviation that is believed to be noise: in the metric's unit (PLAIN), relative
                      (LOG: 0.05 is 5 %); COUNT and RATE know their own and take 0 */
  double least;    /* change too small to matter, though it is certain: relative, for RATE absolute */
  double critical; /* change that makes an incident critical: likewise */
  uint32_t close_after;  /* calm samples that close an incident */
  uint32_t accept_after; /* samples after which a lasting change is taken as the new normal */
};

struct anomaly {
  struct reference reference;
  double up, down;                /* CUSUM sums */
  double threshold, patience;     /* of the sums; times this, at least 1 */
  double tail_count, tail_excess; /* faded: single-tick residuals beyond 3, and by how much in all */
  double tail_total;              /* faded: samples behind them */
  double recent, drift;           /* means of the last ten or so: transformed samples, clipped residuals */
  double successes, trials;       /* RATE: counts that wait for a block to fill */
  enum anomaly_severity severity; /* of the open incident; NONE: none open */
  uint32_t calm, age;             /* samples: quiet in a row, since the incident opened */
  double value, expected, score;  /* of the sample that opened or worsened it; score in thresholds, > 1 */
  bool forget;                    /* close at the next update */
  bool spike, accepted;           /* found by the single-tick rule; closed as the new normal */
};

/* Threshold of one side of a CUSUM with reference value k for a two-sided average run length (Siegmund 1985).
 */
double anomaly_threshold(double k, double run_length);

void anomaly_init(struct anomaly *a);

/* One tick. NaN holds everything. Under a microsecond but for the end of the warm-up. */
enum anomaly_event anomaly_update(struct anomaly *a, const struct anomaly_settings *s, double value);

/* The same for a tick of few samples, whose value is chance for a good part: the single-tick rule is silent.
 */
enum anomaly_event anomaly_thin_update(struct anomaly *a, const struct anomaly_settings *s, double value);

/* As anomaly_update for ANOMALY_RATE: counts of this tick (differences); no trials: holds. */
enum anomaly_event anomaly_rate_update(struct anomaly *a, const struct anomaly_settings *s, double successes,
                                       double trials);

/* Forget the reference and start a new warm-up: after a deliberate change. An open incident stays open until
 * its close: the next update reports ANOMALY_CLOSED. */
void anomaly_relearn(struct anomaly *a);

/* A sentence about the open (or just closed) incident: what, how much, what was expected. */
void anomaly_message(const struct anomaly *a, const struct anomaly_settings *s, char *out, size_t size);

const char *anomaly_severity_name(enum anomaly_severity severity); /* "none", "warning", "critical" */

#endif
