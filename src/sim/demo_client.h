#ifndef SIM_DEMO_CLIENT_H
#define SIM_DEMO_CLIENT_H

/* The two acts of the demo's client, through the public API and printed as its own: it creates an experiment,
 * and it pushes a change that does harm. What becomes of them is the daemon's affair. One event loop, its
 * thread. */

struct demo_client;
struct evloop;
struct scenario;

/* url: of the gateway; scenario: names the providers that the harmful change is for; say: prints one line for
 * people. All outlive the client. NULL: no memory. */
struct demo_client *demo_client_create(struct evloop *loop, const char *url, const struct scenario *scenario,
                                       void (*say)(const char *line));
void demo_client_destroy(struct demo_client *client);

#endif
