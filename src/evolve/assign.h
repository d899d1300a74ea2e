#ifndef EVOLVE_ASSIGN_H
#define EVOLVE_ASSIGN_H

/* Who gets the treatment. A unit (session or time block) keeps its arm for the whole experiment; between
 * experiments the arms are independent, since each has a salt of its own. Agrees with tunables_treats. */

#include <stdbool.h>
#include <stdint.h>

uint64_t assign_salt(uint64_t seed, int64_t experiment_id);
double assign_uniform(uint64_t unit, uint64_t salt); /* [0, 1), mixed whatever the ids look like */
bool assign_treats(uint64_t unit, uint64_t salt, double share);

#endif
