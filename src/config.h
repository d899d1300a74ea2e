#ifndef CONFIG_H
#define CONFIG_H

/* The configuration: TOML and environment turned into the settings that each module owns. Layers, later ones
 * stronger: defaults, the file, further texts (the demo's fleet), the environment. All value errors are told
 * at once, of syntax errors the first. docs/configuration.md is the list of keys for people. */

#include "bus/objective.h"
#include "bus/tunables.h"
#include "pipeline/plane.h"
#include "provider/provider.h"
#include "server/server.h"
#include "sys/log.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CONFIG_PATH = 1024, CONFIG_NOTICES = 16 };

struct config_demo {
  bool enabled;               /* run the demo when no provider is configured */
  char scenario[CONFIG_PATH]; /* a file; relative paths start at the working directory, as all do */
  char data[CONFIG_PATH];     /* directory of traces and routing data */
  double speed;               /* of the scenario's events and of the trace */
};

struct config {
  char file[CONFIG_PATH]; /* "" when there is none */
  struct server_settings server;
  bool auth, auth_given; /* server.auth: client keys are asked for */
  char store_path[CONFIG_PATH];
  int64_t frame_days, request_days, dead_letter_rows, dead_letter_mib;
  struct objective objective;
  unsigned provider_count, route_count;
  struct provider_spec specs[MAX_PROVIDERS];         /* for the plane */
  struct provider_settings providers[MAX_PROVIDERS]; /* for the transports; same indexes */
  char groups[MAX_PROVIDERS][NAME_SIZE];             /* name of the [[providers]] table each came from */
  struct route_spec routes[MAX_ROUTES];
  bool rate_limited;
  double rate_burst;
  double file_values[TUNABLES][MAX_PROVIDERS]; /* what the file says; NAN: nothing */
  double environment[TUNABLES][MAX_PROVIDERS]; /* likewise */
  enum log_level log_level;
  bool log_json;
  bool observe;                /* loop.observe: decide and record, apply nothing */
  bool control, learn, evolve; /* loop.*: which parts of the loop run; off for comparisons */
  struct config_demo demo;
  char prefer[NAME_SIZE]; /* PROVIDER: comes first in route auto; "" none */
  unsigned notice_count;
  char notices[CONFIG_NOTICES][256]; /* for the log: what was understood but has no effect */
};

struct config_source {
  const char *path;             /* NULL: no file */
  const char *text, *text_name; /* a further layer, and what errors call it; NULL: none */
  char *const *environment;     /* as environ; NULL: none. ${VAR} always reads the process's own */
  bool places;                  /* only where a daemon listens and keeps its database, for those who ask it */
};

/* Returns 0 and a configuration that config_free frees, or -EINVAL and *problems: one line each, malloc'ed.
 */
int config_load(const struct config_source *source, struct config **out, char **problems);
void config_free(struct config *config); /* NULL is fine */

/* Does a provider's base URL lead to the address and port that we listen on ourselves? Resolves names only
 * when the ports are equal. Returns 0, or -EINVAL and error says which provider. port: the one really bound.
 */
int config_check_loops(const struct config *config, uint16_t port, char *error, size_t error_size);

#endif
