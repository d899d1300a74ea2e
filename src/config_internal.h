#ifndef CONFIG_INTERNAL_H
#define CONFIG_INTERNAL_H

/* Between the configuration's own files: config.c (scalar settings, keys, tunables), config_fleet.c
 * (providers and routes), config_env.c (environment). */

#include "config.h"
#include "config_reader.h"

struct toml_node;

/* [[providers]] and [[routes]] of one layer; routes are kept as read until config_resolve_routes. */
struct config_route {
  char name[NAME_SIZE];
  char candidates[MAX_CANDIDATES][NAME_SIZE], fallbacks[MAX_CANDIDATES][NAME_SIZE];
  unsigned candidate_count, fallback_count;
  bool sticky, coalesce;
  const struct toml_node *at; /* for problems */
  const char *file;
};

struct config_routes {
  unsigned count;
  struct config_route route[MAX_ROUTES];
};

/* The keys of one table of each list, as "providers.name". */
extern const char *const config_provider_keys[], *const config_route_keys[];
extern const size_t config_provider_key_count, config_route_key_count;

void config_read_providers(struct config *c, struct reader *r, const struct toml_node *root);
void config_read_routes(struct config_routes *routes, struct reader *r, const struct toml_node *root);

/* A provider that speaks the OpenAI dialect, or echo. Returns its index, or -ENOSPC. */
int config_add_provider(struct config *c, const char *name, enum provider_kind kind, const char *base_url,
                        const char *key, const char *model);

/* Names to provider indexes, then the implicit routes: auto, and every model's own name. */
void config_resolve_routes(struct config *c, const struct config_routes *routes, struct reader *r);

void config_read_environment(struct config *c, struct reader *r, char *const *environment);

void config_notice(struct config *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Hashes a client key into the server's settings. */
void config_add_key(struct config *c, struct reader *r, const struct toml_node *at, const char *where,
                    const char *key);

#endif
