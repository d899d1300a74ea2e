#ifndef SIM_WORKLOAD_H
#define SIM_WORKLOAD_H

/* Who asks what and when: arrivals with the gaps of a trace at the scenario's rate, prompts by class with a
 * mix that drifts, lengths in pairs, sessions, tenants, repeats. An open loop: nothing here depends on
 * answers, so runs with the same scenario, data and seed ask the same questions at the same moments. What a
 * client will do later (come back, give feedback) is drawn here too. */

#include "bus/limits.h"

#include <stdbool.h>
#include <stdint.h>

struct dataset;
struct scenario;
struct workload;

struct intent {
  uint64_t number; /* counts up from 0 */
  int64_t at_ns;   /* scenario time: 0 is the start of the run */
  uint32_t prompt; /* index into the data */
  uint32_t tokens_in, tokens_out;
  uint64_t session, tenant; /* hashes, never 0 */
  enum priority priority;
  bool stream, repeats;
  bool comes_back; /* when it fails */
  int64_t comes_back_after_ns;
  bool gives_feedback; /* when it is answered */
  bool feedback_wrong;
  double feedback_noise;
  int64_t feedback_after_ns;
};

/* NULL: out of memory. Scenario and data outlive the workload. */
struct workload *workload_create(const struct scenario *scenario, const struct dataset *data, uint64_t seed);
void workload_destroy(struct workload *workload);

bool workload_next(struct workload *workload, struct intent *intent); /* false: the run is over */

double workload_rate(const struct workload *workload, int64_t at_ns); /* requests a second then */

/* What a client would report of an answer of that quality: in [0, 1]. */
double intent_feedback(const struct intent *intent, double quality);

#endif
