#ifndef PROVIDER_WIRE_H
#define PROVIDER_WIRE_H

/* libcurl's multi handle on a shard's event loop. One a shard: all its providers share connections, DNS and
 * timers.
 *
 * Inside libcurl's own callbacks nothing but buffers may be touched. So a call says there that it has news
 * (wire_touch), and is told to look at them (moved) once libcurl has returned: then anything may be started
 * and stopped. */

#include <curl/curl.h>
#include <stdbool.h>
#include <stdint.h>

struct evloop;
struct wire;

/* Embedded in its owner, with an easy handle of its own. */
struct wire_call {
  CURL *easy;
  struct wire *wire; /* set by wire_prepare */
  void (*moved)(struct wire_call *call, int64_t now_ns);
  void (*done)(struct wire_call *call, CURLcode code, int64_t now_ns); /* ended, and off the wire */
  bool running, touched;
  struct wire_call *next, *previous; /* among the touched */
};

void wire_initialise(void); /* libcurl itself, once a process; any thread. wire_create does it, too. */

struct wire *wire_create(struct evloop *loop); /* NULL: no memory */
void wire_destroy(struct wire *wire);          /* no call may be running */

/* Settles what all calls have in common: how sockets are opened and closed, what is allowed. Once a handle.
 */
bool wire_prepare(struct wire *wire, struct wire_call *call);

int wire_start(struct wire_call *call); /* 0, or -EIO */
void wire_stop(
    struct wire_call *call); /* does nothing when off the wire; closes the connection of an unfinished call */
void wire_touch(struct wire_call *call); /* from libcurl's callbacks: call moved() soon */

#endif
