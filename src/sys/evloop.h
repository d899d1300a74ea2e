#ifndef SYS_EVLOOP_H
#define SYS_EVLOOP_H

/* One thread's event loop: epoll, timers, and hooks that run once a turn. Only evloop_stop and evloop_wake
 * may be called from other threads (and from signal handlers). */

#include <stdbool.h>
#include <stdint.h>

struct evloop;
struct timers;

/* A descriptor that is watched. Embedded in its owner; must outlive the watch. */
struct watch {
  int fd;
  uint32_t events; /* EPOLLIN and so on, as last asked for; 0: not watched */
  void (*ready)(struct watch *watch, uint32_t events, int64_t now_ns);
};

/* Runs at the end of every turn, before the loop waits. Returns true when there is more to do at once: the
 * loop then polls instead of sleeping. */
struct turn_hook {
  bool (*run)(struct turn_hook *hook, int64_t now_ns);
  struct turn_hook *next;
};

struct evloop *evloop_create(void); /* NULL: no descriptors or no memory */
void evloop_destroy(struct evloop *loop);

struct timers *evloop_timers(struct evloop *loop);
int64_t evloop_now_ns(const struct evloop *loop); /* read once a turn */

/* Starts, changes or (events 0) ends a watch. Returns 0 or -errno. Ending is safe inside any callback, and
 * ends it in any case: an error then says that the descriptor had been closed before. */
int evloop_watch(struct evloop *loop, struct watch *watch, uint32_t events);

void evloop_add_hook(struct evloop *loop, struct turn_hook *hook); /* for the life of the loop */

void evloop_run(struct evloop *loop);                   /* until evloop_stop */
void evloop_turn(struct evloop *loop, int64_t wait_ns); /* one turn that waits at most so long */
void evloop_stop(struct evloop *loop);
void evloop_wake(struct evloop *loop);

#endif
