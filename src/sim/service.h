#ifndef SIM_SERVICE_H
#define SIM_SERVICE_H

/* Chat requests over HTTP, answered when and as the plant says: status, Retry-After, x-ratelimit headers,
 * paced tokens, usage with cost, cut and silent streams. One event loop, its thread. */

#include <stdint.h>

struct dataset;
struct evloop;
struct exchange;
struct plant;
struct scenario;
struct service;

/* Everything outlives the service. NULL: no memory. */
struct service *service_create(struct evloop *loop, struct plant *plant, const struct scenario *scenario,
                               const struct dataset *data);
void service_destroy(struct service *service); /* exchanges under way end without a word */

/* Answers a chat request for a provider, now or later; takes the exchange over. */
void service_chat(struct service *service, struct exchange *exchange, unsigned provider, int64_t now_ns);

/* Chat requests that reached the provider. */
uint64_t service_count(const struct service *service, unsigned provider);

#endif
