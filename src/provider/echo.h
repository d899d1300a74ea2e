#ifndef PROVIDER_ECHO_H
#define PROVIDER_ECHO_H

/* A provider that needs none: it answers with the words of the last user message, through the same seam and
 * in the same forms as a real one. For trying the daemon without a key, and for tests. */

struct provider_settings;
struct timers;
struct upstream;

struct upstream *echo_create(const struct provider_settings *settings,
                             struct timers *timers); /* NULL: no memory */
void echo_destroy(struct upstream *upstream);        /* nothing in flight; NULL is fine */

#endif
