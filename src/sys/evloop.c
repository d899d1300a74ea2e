/* A turn: wait → fire watches → fire timers → run hooks. The wait is bounded by the next timer; epoll_wait
 * has millisecond steps, so a wait is rounded up and a timer is at most 1 ms late. (epoll_pwait2 would be
 * exact, but valgrind does not know it.)
 *
 * A process that was stopped, or a loop that is far behind, finds timers overdue and input waiting. What came
 * is looked at first, all of it, before a timer says that nothing came. */

#include "sys/evloop.h"

#include "sys/clock.h"
#include "sys/timer.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { BATCH = 128, LATE_BATCHES = 64, MAX_WAIT_MS = 60000 };

struct evloop {
  int epoll_fd;
  struct watch wake;
  struct timers *timers;
  struct turn_hook *hooks;
  struct epoll_event batch[BATCH];
  int batch_count;
  int64_t now_ns;
  bool more;
  _Atomic bool stopped;
};

static void drain_wake(struct watch *watch, uint32_t events, int64_t now_ns) {
  (void)events;
  (void)now_ns;
  uint64_t count;
  ssize_t ignored = read(watch->fd, &count, sizeof count);
  (void)ignored;
}

struct evloop *evloop_create(void) {
  struct evloop *loop = calloc(1, sizeof *loop);
  if (!loop) return NULL;
  loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  loop->wake.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  loop->wake.ready = drain_wake;
  loop->timers = timers_create();
  loop->now_ns = clock_now_ns();
  if (loop->epoll_fd < 0 || loop->wake.fd < 0 || !loop->timers ||
      evloop_watch(loop, &loop->wake, EPOLLIN) < 0) {
    evloop_destroy(loop);
    return NULL;
  }
  return loop;
}

void evloop_destroy(struct evloop *loop) {
  if (!loop) return;
  if (loop->wake.fd >= 0) close(loop->wake.fd);
  if (loop->epoll_fd >= 0) close(loop->epoll_fd);
  timers_destroy(loop->timers);
  free(loop);
}

struct timers *evloop_timers(struct evloop *loop) {
  return loop->timers;
}

int64_t evloop_now_ns(const struct evloop *loop) {
  return loop->now_ns;
}

int evloop_watch(struct evloop *loop, struct watch *watch, uint32_t events) {
  if (events == watch->events) return 0;
  int op = watch->events == 0 ? EPOLL_CTL_ADD : events == 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
  struct epoll_event event = {.events = events, .data.ptr = watch};
  int status = epoll_ctl(loop->epoll_fd, op, watch->fd, &event) < 0 ? -errno : 0;
  if (status < 0 && events) return status;
  watch->events = events;
  if (events == 0)
    for (int i = 0; i < loop->batch_count; i++)
      if (loop->batch[i].data.ptr == watch) loop->batch[i].data.ptr = NULL;
  return status;
}

void evloop_add_hook(struct evloop *loop, struct turn_hook *hook) {
  hook->next = loop->hooks;
  loop->hooks = hook;
}

static int wait_ms(const struct evloop *loop, int64_t wait_ns) {
  if (loop->more || wait_ns <= 0) return 0;
  int64_t next = timers_next_ns(loop->timers);
  int64_t wait = next == NS_NEVER ? wait_ns : next - clock_now_ns();
  if (wait > wait_ns) wait = wait_ns;
  if (wait <= 0) return 0;
  if (wait >= MAX_WAIT_MS * NS_PER_MS) return MAX_WAIT_MS;
  return (int)((wait + NS_PER_MS - 1) / NS_PER_MS);
}

/* The number of watches that were called: BATCH when there may be more. */
static int call_watches(struct evloop *loop, int wait) {
  int n = epoll_wait(loop->epoll_fd, loop->batch, BATCH, wait);
  if (n < 0)
    n = epoll_wait(loop->epoll_fd, loop->batch, BATCH, 0); /* so ends a wait in which we were stopped */
  loop->now_ns = clock_now_ns();
  loop->batch_count = n > 0 ? n : 0;
  for (int i = 0; i < loop->batch_count; i++) {
    struct watch *watch = loop->batch[i].data.ptr;
    if (watch) watch->ready(watch, loop->batch[i].events, loop->now_ns);
  }
  loop->batch_count = 0;
  return n;
}

void evloop_turn(struct evloop *loop, int64_t wait_ns) {
  int called = call_watches(loop, wait_ms(loop, wait_ns));
  for (int i = 0; called == BATCH && i < LATE_BATCHES && timers_next_ns(loop->timers) <= loop->now_ns; i++)
    called = call_watches(loop, 0);
  timers_run(loop->timers, loop->now_ns);
  loop->more = false;
  for (struct turn_hook *hook = loop->hooks; hook; hook = hook->next)
    if (hook->run(hook, loop->now_ns)) loop->more = true;
}

void evloop_run(struct evloop *loop) {
  while (!atomic_load_explicit(&loop->stopped, memory_order_acquire))
    evloop_turn(loop, NS_NEVER);
}

void evloop_wake(struct evloop *loop) {
  uint64_t one = 1;
  ssize_t ignored = write(loop->wake.fd, &one, sizeof one);
  (void)ignored;
}

void evloop_stop(struct evloop *loop) {
  atomic_store_explicit(&loop->stopped, true, memory_order_release);
  evloop_wake(loop);
}
