#ifndef EVOLVE_INTERNAL_H
#define EVOLVE_INTERNAL_H

/* What experiment.c and experiment_state.c share. */

#include "evolve/confseq.h"
#include "evolve/experiment.h"
#include "evolve/sessions.h"
#include "evolve/switchback.h"

enum { CONTROL, TREATMENT, ARMS };

struct experiment {
  struct experiment_spec spec;
  uint64_t salt;
  int64_t began_ns; /* such that now - began is the age, restarts left out */
  int64_t from_ns;  /* requests that arrived before are not ours: they saw another setting */
  struct moments arm[ARMS][MEASURES];  /* SESSION: over sessions */
  struct moments difference[MEASURES]; /* SWITCHBACK: over groups */
  int64_t blocks[ARMS], requests[ARMS], left_out;
  double sums[ARMS][MEASURES]; /* over requests: floors of variances, words */
  struct sessions *sessions;   /* SESSION */
  struct switchback switchback;
  struct experiment_status final; /* verdict RUNNING: not decided */
};

#endif
