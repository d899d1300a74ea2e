#ifndef CLI_DEMO_H
#define CLI_DEMO_H

/* The demo: a simulated fleet over real HTTP instead of providers, and a client that replays recorded
 * traffic. Both are children of the daemon and run this very program; the daemon itself knows nothing of the
 * plant. Main thread only. */

#include "cli/child.h"

#include <stddef.h>
#include <stdint.h>

enum { DEMO_PATH = 1024 };

struct demo {
  struct child fleet, client;
  char program[DEMO_PATH]; /* this executable */
  char fleet_url[128];     /* of the hosted providers; "": there are none */
  const char *scenario, *data;
  double speed;
  int64_t epoch_ms; /* when the scenario began: instances that start later live in the same world */
};

/* Starts the fleet's hosted providers and returns the configuration layer that names them, with the local
 * ones' commands, as TOML, malloc'ed. NULL: error says what failed and what to do. */
char *demo_start_fleet(struct demo *demo, const char *scenario, const char *data, double speed, char *error,
                       size_t error_size);

/* Starts the client against the daemon at url, whose own output is seen. 0 or -errno. */
int demo_start_client(struct demo *demo, const char *url);

void demo_stop_client(struct demo *demo);
void demo_stop_fleet(struct demo *demo);

#endif
