#ifndef SIM_MEASURE_H
#define SIM_MEASURE_H

/* What a run was worth, counted by the client's intent: a retry is the same intent, one without an answer
 * counts quality 0. Everything is booked to the moment at which the intent began. Sums over the whole run and
 * from the event on, and a series by the minute for recovery and harm. */

#include "bus/objective.h"
#include "bus/sketch.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct measure;

struct intent_result {
  int64_t at_ns; /* scenario time */
  bool stream, complete, shed, timed_out;
  double quality; /* of the answer */
  double ttft_ms, tpot_ms, total_ms;
  uint32_t tokens_out;
  unsigned submissions; /* 1, or 2 when the client came back */
};

struct measure_sums {
  int64_t from_ns, until_ns;
  uint64_t intents, complete, in_target, shed, timed_out, came_back;
  double quality, useful; /* sums: of all answers; of those in target */
  double usd, instance_usd;
  uint64_t calls;
  struct sketch ttft_ms, tpot_ms, total_ms;
};

struct measure_minute {
  uint32_t intents, in_target;
  double useful, usd, instance_usd;
};

/* event_ns, until_ns: the second window; event_ns NS_NEVER: there is none. */
struct measure *measure_create(const struct objective *objective, int64_t length_ns, int64_t event_ns,
                               int64_t until_ns); /* NULL: out of memory */
void measure_destroy(struct measure *m);

void measure_intent(struct measure *m, const struct intent_result *result);
void measure_call(struct measure *m, int64_t at_ns,
                  double usd); /* a provider's call, by its intent's start */
void measure_instances(struct measure *m, int64_t at_ns, double usd_until_now); /* at least once a minute */

const struct measure_sums *measure_run(const struct measure *m);
const struct measure_sums *measure_event(const struct measure *m);
const struct measure_minute *measure_minutes(const struct measure *m, size_t *count);

/* utility = quality * [complete and in target] - lambda * (dollars of calls and of instances) */
double measure_utility(const struct measure *m, const struct measure_sums *sums); /* for each intent */
double measure_goodput(const struct measure_sums *sums);                          /* in target, a second */
double measure_share(const struct measure_sums *sums);                            /* in target, of intents */
double measure_quality(const struct measure_sums *sums);                          /* for each intent */

/* Seconds from event_ns to the first minute from which the in-target share over five minutes stays at 95 % of
 * steady_share or more for fifteen; to the end of the series, and *censored, when it never does. */
double minutes_recovery_s(const struct measure_minute *minutes, size_t count, int64_t event_ns,
                          double steady_share, bool *censored);

/* Share of ten-minute windows, weighted by their intents, in which utility is more than 5 % below the twin's.
 */
double minutes_harm(const struct measure_minute *minutes, const struct measure_minute *twin, size_t count,
                    const struct objective *objective);

#endif
