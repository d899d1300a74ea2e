#ifndef SIM_FLEET_H
#define SIM_FLEET_H

/* The simulated providers over real HTTP: the plant (sim/plant.h) on the machine's clock behind the OpenAI
 * dialect. Demos, integration tests and benchmarks talk to it as they would to a provider; nothing of the
 * plant's parameters goes over the wire. Runs on one event loop, on that loop's thread.
 *
 *   POST /NAME/v1/chat/completions   provider NAME; streams when the body says so
 *   GET  /NAME/v1/models, /NAME/health
 *   POST /_plant/event               starts an event now:
 * {"what":"brownout","provider":"own-middle","for_min":1}
 *
 * With one provider the paths work without /NAME, too. Provider "faults" fails on purpose, by model:
 * fault-S01 429 once with Retry-After 2; fault-S03 500 once; fault-S04 503 always; fault-S06 never answers
 * (120 s); fault-S08 cut after 40 of 60 tokens; fault-S09 silent for 30 s after 20 tokens, then closed.
 * "Once" is per model since the start of the fleet or since POST /_plant/reset.
 *
 * Lengths: the prompt counts as padded to metadata.tokens_in of the body (or X-Sim-Tokens-In), the answer has
 * metadata.tokens_out tokens (or X-Sim-Tokens-Out), at most max_tokens; else both are drawn from the
 * scenario's trace by the prompt's text. */

#include "sys/evloop.h"

#include <stdbool.h>
#include <stdint.h>

enum { FLEET_PROVIDERS = 32 };

struct fleet_settings {
  const char *host;                       /* NULL: 127.0.0.1 */
  uint16_t port;                          /* 0: any */
  const char *scenario, *data;            /* a TOML file, and the directory of traces and routing data */
  const char *providers[FLEET_PROVIDERS]; /* which to serve */
  unsigned provider_count;                /* 0: all of the scenario */
  uint64_t seed;
  double speed;    /* the scenario's events come so many times faster; answers do not */
  bool cold_start; /* 503 until the provider's start_s has passed */
};

struct fleet;

/* NULL: error says what and what to do. Strings of the settings are borrowed for the call. */
struct fleet *fleet_create(struct evloop *loop, const struct fleet_settings *settings, char *error,
                           size_t error_size);
void fleet_destroy(struct fleet *fleet);

uint16_t fleet_port(const struct fleet *fleet);

#endif
