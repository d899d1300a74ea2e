#ifndef PROVIDER_LOCAL_H
#define PROVIDER_LOCAL_H

/* The processes of local providers: started, watched until they are ready, drained and stopped. One pool a
 * daemon, with a small thread of its own: starting a process blocks, and the kernel ties a child's life to
 * the thread that made it.
 *
 * An instance is a child that runs the configured command. It says "listening on http://127.0.0.1:PORT" on
 * its standard output and is ready when GET /health there answers 200. One that ends by itself is started
 * again after a back-off; one that is no longer healthy is killed and replaced; one that is to stop gets no
 * new calls, then SIGTERM once its calls have ended (or after 30 s), then SIGKILL. All children end with the
 * daemon, however it ends. */

#include "bus/limits.h"
#include "loop.h"

#include <stddef.h>
#include <stdint.h>

struct local_instance;
struct local_pool;
struct plane;
struct provider_settings;

enum { LOCAL_MAX_INSTANCES = 64 }; /* processes of one pool */

/* plane and settings are indexed alike and must outlive the pool. Starts the thread, and each local
 * provider's `instances` tunable's worth of processes. Counts them in plane->providers[i].ready_instances and
 * .starting_instances. NULL: no memory, no thread. */
struct local_pool *local_pool_create(struct plane *plane, const struct provider_settings *settings,
                                     unsigned count);

/* Stops every process (drained for at most drain_ns, then SIGTERM, a second later SIGKILL) and the thread.
 * All instances must have been released. */
void local_pool_destroy(struct local_pool *pool, int64_t drain_ns);

struct scaler local_pool_scaler(struct local_pool *pool);

/* How many processes that provider should have. Any thread; returns at once: 0, or -EINVAL (not local),
 * -ENOSPC. */
int local_pool_set(struct local_pool *pool, unsigned provider, unsigned wanted);

/* The ready instance with the fewest calls, one of which is now the caller's; NULL: none is ready. Any
 * thread. */
struct local_instance *local_acquire(struct local_pool *pool, unsigned provider);
const char *local_url(const struct local_instance *instance); /* of chat completions; valid until released */
void local_release(struct local_pool *pool, struct local_instance *instance);

#endif
