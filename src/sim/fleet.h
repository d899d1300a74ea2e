#ifndef SIM_FLEET_H
#define SIM_FLEET_H

/* The simulated providers over real HTTP: the plant (sim/plant.h) on the machine's clock behind the OpenAI
 * dialect. Demos, integration tests and benchmarks talk to it as they would to a provider; nothing of the
 * plant's parameters goes over the wire. Runs on one event loop, on that loop's thread.
 *
 *   POST /NAME/v1/chat/completions   provider NAME; streams when the body says so
 *   GET  /NAME/v1/models, /NAME/health, /health
 *   POST /_plant/event   starts one now: {"what":"brownout","provider":"own-middle","for_min":1}
 *   GET  /_plant/calls   chat requests by provider and by fault
 *   POST /_plant/reset   faults begin anew
 *
 * With one provider the paths work without /NAME, too. Provider "faults" fails on purpose, by model: see
 * sim/faults.h.
 *
 * Lengths: the prompt counts as padded to metadata.tokens_in of the body (or X-Sim-Tokens-In), the answer has
 * metadata.tokens_out tokens (or X-Sim-Tokens-Out), at most max_tokens; else both are drawn from the
 * scenario's trace by the prompt's text. */

#include "sys/evloop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FLEET_PROVIDERS = 32 };

struct fleet_settings {
  const char *host;                       /* NULL: 127.0.0.1 */
  uint16_t port;                          /* 0: any */
  const char *scenario, *data;            /* a TOML file, and the directory of traces and routing data */
  const char *providers[FLEET_PROVIDERS]; /* which to serve */
  unsigned provider_count;                /* 0: all of the scenario */
  uint64_t seed;
  double speed;       /* the scenario's events come so many times faster; answers do not */
  int64_t epoch_ms;   /* wall-clock time at which the scenario began; 0: now */
  unsigned instances; /* of every server; 0: as the scenario starts */
  bool cold_start;    /* 503 until the slowest chosen server's start_s has passed */
};

struct fleet;

/* NULL: error says what and what to do. Strings of the settings are borrowed for the call. */
struct fleet *fleet_create(struct evloop *loop, const struct fleet_settings *settings, char *error,
                           size_t error_size);
void fleet_destroy(struct fleet *fleet);

uint16_t fleet_port(const struct fleet *fleet);

#endif
