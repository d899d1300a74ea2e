#ifndef PROVIDER_PROVIDER_H
#define PROVIDER_PROVIDER_H

/* Upstreams: what a configured provider is, and the transports of one shard. */

#include "bus/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct evloop;
struct local_pool;
struct upstream;

enum {
  PROVIDER_URL_SIZE = 512,
  PROVIDER_KEY_SIZE = 512,
  PROVIDER_COMMAND_SIZE = 1024,
  PROVIDER_PATH_SIZE = 512,
  PROVIDER_ANSWER_LIMIT = 16 << 20 /* bytes of one answer, by default */
};

enum provider_kind { PROVIDER_OPENAI, PROVIDER_ECHO };

/* One deployment, index for index as in the plane. Filled by the configuration. */
struct provider_settings {
  char name[NAME_SIZE];
  char model[NAME_SIZE]; /* sent upstream */
  enum provider_kind kind;
  char base_url[PROVIDER_URL_SIZE];    /* as configured; empty for echo and for local providers */
  char api_key[PROVIDER_KEY_SIZE];     /* empty: none is sent */
  size_t answer_limit;                 /* 0: PROVIDER_ANSWER_LIMIT */
  bool local;                          /* served by processes of our own: command and start_ns count */
  char command[PROVIDER_COMMAND_SIZE]; /* run by /bin/sh, after "exec"; prints "listening on
                                          http://127.0.0.1:PORT" */
  int64_t start_ns;                    /* longest time until an instance is ready; 0: 120 s */
  int64_t health_ns;                   /* between two looks at a ready instance; 0: 5 s */
  char ca_file[PROVIDER_PATH_SIZE]; /* PEM: who may vouch for the provider's certificate; empty: the system's
                                     */
};

/* The address that requests go to: "http://h", "http://h/", "http://h/v1" and "http://h/v1/" all give
 * "http://h/v1/chat/completions", "http://h/api/v1" gives "http://h/api/v1/chat/completions". A query is
 * kept. 0, or -EINVAL and error says what is wrong and what is allowed. */
int provider_chat_url(const char *base_url, char *url, size_t url_size, char *error, size_t error_size);

/* Does this file hold at least one certificate in PEM? 0, or -EINVAL. */
int provider_check_ca(const char *path);

/* Checks one provider's settings: 0, or -EINVAL with the reason. Keys never appear in it. */
int provider_check(const struct provider_settings *settings, char *error, size_t error_size);

/* All transports of one shard, on its loop. Fills upstreams[0 .. count-1], which belong to the result. The
 * settings and the pool (NULL when no provider is local) must outlive it. The shard's loop must not run
 * meanwhile. Transports use a turn hook: add the pipeline's own hook *after* this call's, so that it runs
 * first and a call leaves in the turn that started it. NULL and error on failure. */
struct providers *providers_attach(struct evloop *loop, const struct provider_settings *settings,
                                   unsigned count, struct local_pool *pool,
                                   struct upstream *upstreams[MAX_PROVIDERS], char *error, size_t error_size);

/* Nothing may be in flight, and the loop does not run again. NULL is fine. */
void providers_detach(struct providers *providers);

#endif
