#ifndef SERVER_FIELDS_H
#define SERVER_FIELDS_H

/* The JSON bodies of admin requests, turned into a struct command. Every function refuses what it does not
 * know: each returns NULL, or a sentence that says what is wrong and what is allowed. Strings in the command
 * belong to the body. */

#include <stdint.h>

struct cJSON;
struct command;

/* {"value", "hold", "guard", "reason"} for one tunable. */
const char *fields_change(const struct cJSON *body, const char *name, int64_t wall_ms,
                          struct command *command);

/* {"changes": {name: value, ...}, "hold", "guard", "reason"}. */
const char *fields_changes(const struct cJSON *body, int64_t wall_ms, struct command *command);

/* {"reason"} */
const char *fields_reason(const struct cJSON *body, struct command *command);

/* {"name", "tunable", "treatment", "share", "duration_s", "alpha", "min_effect"} */
const char *fields_experiment(const struct cJSON *body, struct command *command);

/* {"request_id", "reward", "source"}. command->request is 0 when the id is none of ours. */
const char *fields_feedback(const struct cJSON *body, struct command *command);

#endif
