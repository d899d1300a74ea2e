#ifndef BUS_TUNABLES_H
#define BUS_TUNABLES_H

/* The values that tune the daemon. One writer: the loop. Any thread reads with one relaxed atomic load. */

#include "bus/limits.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum tunable_id {
#define TUNABLE(id, ...) TUNABLE_##id,
#include "bus/tunables.def"
  TUNABLES
};

enum tunable_scope { TUNABLE_GLOBAL, TUNABLE_PROVIDER };
enum tunable_kind { TUNABLE_INTEGER, TUNABLE_REAL };
enum tunable_trial { TRIAL_SESSION, TRIAL_SWITCHBACK };

enum tunable_owner {
  OWNER_PERSON,
  OWNER_BUFFERS,
  OWNER_SHED,
  OWNER_PROMOTION,
  OWNER_ADMISSION,
  OWNER_BREAKER,
  OWNER_GRADIENT2,
  OWNER_AUTOSCALER,
  OWNERS
};

enum effect_group {
  GROUP_BUFFERS,
  GROUP_QUEUE,
  GROUP_ADMISSION,
  GROUP_BREAKER,
  GROUP_RETRY,
  GROUP_TIMEOUTS,
  GROUP_LIMITS,
  GROUP_SCALE,
  GROUP_ROUTING,
  GROUP_COALESCE,
  GROUP_MEMORY,
  GROUPS
};

struct tunable_info {
  const char *name, *toml, *unit, *help;
  enum tunable_scope scope;
  enum tunable_kind kind;
  double min, max, initial;
  double step;    /* largest relative change of one act of a controller */
  int cooldown_s; /* between two acts of a controller */
  enum tunable_owner owner;
  const char *measured, *setpoint;
  int sign;
  enum effect_group group;
  int window_s;
  enum tunable_trial trial;
};

extern const struct tunable_info tunable_infos[TUNABLES];

const char *tunable_owner_name(enum tunable_owner owner);
const char *effect_group_name(enum effect_group group);

/* Which value: the row, and for PROVIDER scope which provider (else 0). */
struct tunable_key {
  uint16_t id, provider;
};

/* The value table. `treatment` is what requests assigned to an experiment's treatment read instead; at most
 * one SESSION experiment runs at a time. */
struct tunables {
  _Atomic double value[TUNABLES][MAX_PROVIDERS];
  _Atomic int treated; /* TUNABLE_x under a SESSION experiment, or -1 */
  _Atomic double treatment;
  _Atomic uint64_t treatment_salt;
  _Atomic double treatment_share;
};

/* Is this session in the treatment arm of the SESSION experiment that runs now? Sticky, and well mixed
 * whatever the ids look like: the salted hash goes through a finaliser. */
bool tunables_treats(const struct tunables *t, uint64_t session);

/* Starts and ends (id -1) a SESSION experiment. The loop only. */
void tunables_treat(struct tunables *t, int id, double treatment, uint64_t salt, double share);

void tunables_init(struct tunables *t); /* initial values everywhere, no treatment */

static inline double tunable_get(const struct tunables *t, enum tunable_id id) {
  return atomic_load_explicit(&((struct tunables *)t)->value[id][0], memory_order_relaxed);
}

static inline double tunable_of(const struct tunables *t, enum tunable_id id, unsigned provider) {
  return atomic_load_explicit(&((struct tunables *)t)->value[id][provider], memory_order_relaxed);
}

/* As tunable_get, for a request whose session is in the treatment arm (or not). SESSION rows only. */
static inline double tunable_for(const struct tunables *t, enum tunable_id id, bool treated) {
  struct tunables *m = (struct tunables *)t;
  if (treated && atomic_load_explicit(&m->treated, memory_order_relaxed) == (int)id)
    return atomic_load_explicit(&m->treatment, memory_order_relaxed);
  return tunable_get(t, id);
}

void tunable_set(struct tunables *t, struct tunable_key key,
                 double value); /* the loop, and whoever starts up */

/* value cut to [min, max], integers rounded to the nearest; NaN gives `otherwise`. */
double tunable_clamp(enum tunable_id id, double value, double otherwise);

/* "name" or "name.PROVIDER". providers: the configured names. Returns 0; -ENOENT unknown name or provider. */
int tunable_find(const char *text, const char (*providers)[NAME_SIZE], unsigned count,
                 struct tunable_key *key);
void tunable_name(struct tunable_key key, const char (*providers)[NAME_SIZE], char *out, size_t size);

#endif
