#ifndef PROVIDER_OPENAI_UPSTREAM_H
#define PROVIDER_OPENAI_UPSTREAM_H

/* A provider that speaks the OpenAI form over HTTP, remote or a local process: one shard's upstream for it.
 */

struct local_pool;
struct provider_settings;
struct upstream;
struct wire;
struct timers;

/* settings, pool (NULL: not local), wire and timers outlive it. provider: its index, for the pool. NULL: no
 * memory. */
struct upstream *openai_upstream_create(const struct provider_settings *settings, unsigned provider,
                                        struct local_pool *pool, struct wire *wire, struct timers *timers);
void openai_upstream_destroy(struct upstream *upstream); /* nothing in flight; NULL is fine */

#endif
