#ifndef SIM_SCENARIO_INTERNAL_H
#define SIM_SCENARIO_INTERNAL_H

/* What the files of scenario share. */

#include "sim/keys.h"
#include "sim/scenario.h"
#include "sys/toml.h"

/* [[event]]: appends to s->events, newcomers to s->providers as well. 0 or -EINVAL. */
int scenario_read_event(struct scenario *s, const struct key_source *source, const struct toml_node *table,
                        unsigned number);

/* The index of a model of that name, added when it is new; -ENOSPC. */
int scenario_add_model(struct scenario *s, const char *name, const char *like);

#endif
