/* Ticks are due at whole seconds from the start. After a pause (a debugger, a suspended machine) the missed
 * ones are left out: the loop knows the true time between two ticks. */

#include "cli/ticker.h"

#include "loop.h"
#include "sys/clock.h"
#include "sys/evloop.h"
#include "sys/mailbox.h"
#include "sys/timer.h"

#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/epoll.h>

enum { COMMAND_BATCH = 32 };

struct ticker {
  struct evloop *events;
  struct mailbox *commands;
  struct loop *loop;
  struct watch watch;
  struct timer timer;
  pthread_t thread;
  bool running;
};

static void run_commands(struct ticker *t, int64_t now_ns) {
  void *items[COMMAND_BATCH];
  size_t n;
  while ((n = mailbox_take(t->commands, items, COMMAND_BATCH)) > 0)
    for (size_t i = 0; i < n; i++) {
      struct command *command = items[i];
      loop_command(t->loop, command, now_ns, clock_wall_ms());
      command->done(command);
    }
}

static void mail(struct watch *watch, uint32_t events, int64_t now_ns) {
  (void)events;
  run_commands((struct ticker *)((char *)watch - offsetof(struct ticker, watch)), now_ns);
}

static void tick(struct timer *timer, int64_t now_ns) {
  struct ticker *t = (struct ticker *)((char *)timer - offsetof(struct ticker, timer));
  loop_tick(t->loop, now_ns, clock_wall_ms());
  int64_t next_ns = timer->due_ns + NS_PER_S;
  if (next_ns <= now_ns) next_ns = now_ns + NS_PER_S;
  timer_arm(evloop_timers(t->events), timer, next_ns);
}

static void *work(void *arg) {
  struct ticker *t = arg;
  evloop_run(t->events);
  run_commands(t, clock_now_ns());
  loop_flush(t->loop, clock_now_ns(), clock_wall_ms());
  return NULL;
}

struct ticker *ticker_create(void) {
  struct ticker *t = calloc(1, sizeof *t);
  if (!t) return NULL;
  t->events = evloop_create();
  t->commands = mailbox_create(TICKER_COMMANDS);
  if (t->events && t->commands) return t;
  ticker_destroy(t);
  return NULL;
}

struct mailbox *ticker_commands(struct ticker *ticker) {
  return ticker->commands;
}

int ticker_start(struct ticker *t, struct loop *loop) {
  t->loop = loop;
  t->watch = (struct watch){.fd = mailbox_fd(t->commands), .ready = mail};
  t->timer.fire = tick;
  int status = evloop_watch(t->events, &t->watch, EPOLLIN);
  if (status == 0) status = timer_arm(evloop_timers(t->events), &t->timer, clock_now_ns() + NS_PER_S);
  if (status == 0) status = -pthread_create(&t->thread, NULL, work, t);
  t->running = status == 0;
  return status;
}

void ticker_stop(struct ticker *t) {
  if (!t->running) return;
  evloop_stop(t->events);
  pthread_join(t->thread, NULL);
  t->running = false;
}

void ticker_destroy(struct ticker *t) {
  if (!t) return;
  evloop_destroy(t->events);
  mailbox_destroy(t->commands);
  free(t);
}
