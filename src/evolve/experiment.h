#ifndef EVOLVE_EXPERIMENT_H
#define EVOLVE_EXPERIMENT_H

/* One experiment: one tunable, two values. Two designs:
 *  SESSION     units are sessions (a request without one stands for itself); a unit's value is its mean
 * utility. SWITCHBACK  units are time blocks of 60 to 120 s in groups, one treatment block in each, at a
 * place drawn from the seed. Requests of a block's first fifth are left out (carry-over). A group's value is
 * the difference between its treatment block and its control blocks, so that slow drift cancels. Looked at
 * every tick; verdicts come from confidence sequences, valid at any moment.
 *
 * Pure; one thread. */

#include "bus/limits.h"
#include "bus/tunables.h"

#include <stdbool.h>
#include <stdint.h>

struct outcome;
struct experiment;

enum {
  EXPERIMENT_SESSIONS = 65536, /* sessions held; later ones are counted and left out */
  EXPERIMENT_WORDS_SIZE = 256,
  EXPERIMENT_MIN_SESSIONS = 100, /* an arm, before a decision */
  EXPERIMENT_MIN_GROUPS = 20     /* of time blocks, before a decision */
};

struct experiment_spec {
  int64_t id; /* salts the assignment */
  char name[NAME_SIZE];
  char tunable[2 * NAME_SIZE]; /* as tunable_name writes it */
  struct tunable_key key;
  enum tunable_trial design;
  double control, treatment;
  double share;      /* (0, 0.5] of sessions, or of blocks (rounded to one in 2 .. 10) */
  double duration_s; /* the end, decided or not; 0: 86,400 */
  double alpha;      /* 0: 0.05 */
  double min_effect; /* utility a request that a promotion must prove; usually 0 */
  double guard_error,
      guard_target; /* tolerated rise of the error share, fall of the in-target share; 0: 0.01, 0.02 */
  uint64_t seed;
};

enum experiment_verdict {
  EXPERIMENT_RUNNING,
  EXPERIMENT_PROMOTE,      /* treatment proved better */
  EXPERIMENT_CONTROL,      /* treatment proved worse */
  EXPERIMENT_INCONCLUSIVE, /* time is up */
  EXPERIMENT_GUARDRAIL,    /* errors up or in-target share down */
  EXPERIMENT_SKEWED        /* the arms' sizes cannot come from the assignment: nothing can be concluded */
};

struct experiment_status {
  enum experiment_verdict verdict;        /* final once it is not RUNNING */
  bool treat;                             /* SWITCHBACK: the treatment is due now; SESSION: false */
  double effect, low, high, p;            /* treatment - control, utility a request; NAN without data */
  int64_t control_units, treatment_units; /* sessions, or blocks */
  int64_t control_requests, treatment_requests, left_out;
  char words[EXPERIMENT_WORDS_SIZE]; /* a sentence with numbers */
};

/* spec is copied, zeros replaced by defaults. NULL: no memory. */
struct experiment *experiment_create(const struct experiment_spec *spec, int64_t now_ns);
void experiment_destroy(struct experiment *e);

const struct experiment_spec *experiment_spec(const struct experiment *e);
uint64_t experiment_salt(const struct experiment *e); /* for tunables_treat */

/* utility: of that request; NAN leaves it out. Requests that arrived before the experiment began are left
 * out. SESSION takes the arm from outcome->treated, SWITCHBACK from the time of arrival. */
void experiment_observe(struct experiment *e, const struct outcome *outcome, double utility);

/* Call every tick; SWITCHBACK: apply the treatment exactly while status->treat says so. */
void experiment_tick(struct experiment *e, int64_t now_ns, struct experiment_status *status);

const char *experiment_verdict_name(enum experiment_verdict verdict); /* the status word of experiment_row */

/* State as JSON. After a restart, sessions begin as new units and open blocks are dropped; the rest goes on.
 * experiment_save: malloc'ed, NULL: no memory. experiment_restore: NULL when the JSON makes no sense. */
char *experiment_spec_json(const struct experiment *e);
char *experiment_save(const struct experiment *e, int64_t now_ns);
struct experiment *experiment_restore(const struct experiment_spec *spec, const char *state, int64_t now_ns);

/* Reads back what experiment_spec_json wrote. key is left for the caller, who knows the providers. 0 or
 * -EINVAL. */
int experiment_spec_parse(const char *json, struct experiment_spec *spec);

#endif
