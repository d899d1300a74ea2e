#include "sys/clock.h"
#include "sys/evloop.h"
#include "sys/mailbox.h"
#include "sys/timer.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmocka.h>

enum { ITEMS = 20000 };

struct reader {
  struct watch watch;
  struct mailbox *box;
  struct evloop *loop;
  uintptr_t sum;
  unsigned taken;
};

static void take_all(struct watch *watch, uint32_t events, int64_t now_ns) {
  struct reader *r = (struct reader *)watch;
  void *items[64];
  size_t n;
  (void)events;
  (void)now_ns;
  while ((n = mailbox_take(r->box, items, 64)) > 0)
    for (size_t i = 0; i < n; i++) {
      r->sum += (uintptr_t)items[i];
      r->taken++;
    }
  if (r->taken == 2 * ITEMS) evloop_stop(r->loop);
}

static void *post_all(void *ctx) {
  for (uintptr_t i = 1; i <= ITEMS; i++)
    while (mailbox_post(ctx, (void *)i) != 0)
      usleep(100);
  return NULL;
}

static void nothing_posted_by_two_threads_is_lost(void **state) {
  (void)state;
  struct evloop *loop = evloop_create();
  struct reader r = {.loop = loop, .box = mailbox_create(128)};
  pthread_t threads[2];
  r.watch = (struct watch){.fd = mailbox_fd(r.box), .ready = take_all};
  assert_int_equal(evloop_watch(loop, &r.watch, EPOLLIN), 0);
  for (int i = 0; i < 2; i++)
    pthread_create(&threads[i], NULL, post_all, r.box);
  evloop_run(loop);
  for (int i = 0; i < 2; i++)
    pthread_join(threads[i], NULL);
  assert_int_equal(r.taken, 2 * ITEMS);
  assert_true(r.sum == (uintptr_t)ITEMS * (ITEMS + 1));
  evloop_watch(loop, &r.watch, 0);
  mailbox_destroy(r.box);
  evloop_destroy(loop);
}

static void a_full_mailbox_refuses(void **state) {
  (void)state;
  struct mailbox *box = mailbox_create(2);
  void *items[4];
  assert_int_equal(mailbox_post(box, (void *)1), 0);
  assert_int_equal(mailbox_post(box, (void *)2), 0);
  assert_true(mailbox_post(box, (void *)3) < 0);
  assert_int_equal(mailbox_take(box, items, 4), 2);
  assert_ptr_equal(items[0], (void *)1);
  assert_int_equal(mailbox_post(box, (void *)4), 0);
  mailbox_destroy(box);
}

struct pair {
  struct watch watch;
  struct watch *other;
  struct evloop *loop;
  unsigned *calls;
};

static void end_other(struct watch *watch, uint32_t events, int64_t now_ns) {
  struct pair *p = (struct pair *)watch;
  (void)events;
  (void)now_ns;
  (*p->calls)++;
  evloop_watch(p->loop, p->other, 0);
  evloop_watch(p->loop, watch, 0);
}

static void a_watch_ended_in_the_same_turn_is_not_called(void **state) {
  (void)state;
  struct evloop *loop = evloop_create();
  unsigned calls = 0;
  int a[2], b[2];
  assert_int_equal(pipe(a) | pipe(b), 0);
  struct pair one = {.watch = {.fd = a[0], .ready = end_other}, .loop = loop, .calls = &calls};
  struct pair two = {.watch = {.fd = b[0], .ready = end_other}, .loop = loop, .calls = &calls};
  one.other = &two.watch;
  two.other = &one.watch;
  evloop_watch(loop, &one.watch, EPOLLIN);
  evloop_watch(loop, &two.watch, EPOLLIN);
  assert_int_equal(write(a[1], "x", 1) + write(b[1], "x", 1), 2);
  evloop_turn(loop, NS_PER_S);
  assert_int_equal(calls, 1);
  for (int i = 0; i < 2; i++)
    close(a[i]), close(b[i]);
  evloop_destroy(loop);
}

static void stop_loop(struct timer *timer, int64_t now_ns) {
  (void)now_ns;
  timer->order = 0;
}

static void a_turn_waits_for_the_next_timer_and_no_longer(void **state) {
  (void)state;
  struct evloop *loop = evloop_create();
  struct timer t = {.fire = stop_loop};
  int64_t begun = clock_now_ns();
  timer_arm(evloop_timers(loop), &t, begun + 30 * NS_PER_MS);
  while (t.slot)
    evloop_turn(loop, NS_PER_S);
  int64_t took = clock_now_ns() - begun;
  assert_true(took >= 30 * NS_PER_MS && took < 500 * NS_PER_MS);
  evloop_destroy(loop);
}

enum { MANY = 300 };

struct late {
  struct watch watches[MANY];
  struct timer timer;
  int pipes[MANY][2], seen, seen_by_timer;
};

static struct late late;

static void note_input(struct watch *watch, uint32_t events, int64_t now_ns) {
  char byte;
  (void)events;
  (void)now_ns;
  if (read(watch->fd, &byte, 1) == 1) late.seen++;
}

static void note_time(struct timer *timer, int64_t now_ns) {
  (void)timer;
  (void)now_ns;
  late.seen_by_timer = late.seen;
}

static void watch_many(struct evloop *loop, int count) {
  late = (struct late){.timer.fire = note_time, .seen_by_timer = -1};
  for (int i = 0; i < count; i++) {
    assert_int_equal(pipe(late.pipes[i]), 0);
    late.watches[i] = (struct watch){.fd = late.pipes[i][0], .ready = note_input};
    assert_int_equal(evloop_watch(loop, &late.watches[i], EPOLLIN), 0);
  }
}

static void close_many(struct evloop *loop, int count) {
  for (int i = 0; i < count; i++) {
    evloop_watch(loop, &late.watches[i], 0);
    close(late.pipes[i][0]);
    close(late.pipes[i][1]);
  }
  evloop_destroy(loop);
}

/* As if the process were stopped here: input comes and the timer falls due before it goes on. */
static void pause_here(int number) {
  (void)number;
  usleep(80000);
  ssize_t ignored = write(late.pipes[0][1], "x", 1);
  (void)ignored;
}

static void after_a_stop_what_came_is_seen_before_timers_fire(void **state) {
  (void)state;
  struct evloop *loop = evloop_create();
  struct sigaction action = {.sa_handler = pause_here}, before;
  struct itimerval soon = {.it_value.tv_usec = 20000};
  watch_many(loop, 1);
  sigaction(SIGALRM, &action, &before);
  timer_arm(evloop_timers(loop), &late.timer, clock_now_ns() + 60 * NS_PER_MS);
  setitimer(ITIMER_REAL, &soon, NULL);
  while (late.seen_by_timer < 0)
    evloop_turn(loop, NS_PER_S);
  sigaction(SIGALRM, &before, NULL);
  assert_int_equal(late.seen_by_timer, 1);
  close_many(loop, 1);
}

static void timers_that_are_late_fire_after_all_that_came(void **state) {
  (void)state;
  struct evloop *loop = evloop_create();
  watch_many(loop, MANY);
  for (int i = 0; i < MANY; i++)
    assert_int_equal(write(late.pipes[i][1], "x", 1), 1);
  timer_arm(evloop_timers(loop), &late.timer, clock_now_ns() - NS_PER_MS);
  evloop_turn(loop, NS_PER_S);
  assert_int_equal(late.seen_by_timer, MANY);
  close_many(loop, MANY);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(nothing_posted_by_two_threads_is_lost),
      cmocka_unit_test(a_full_mailbox_refuses),
      cmocka_unit_test(a_watch_ended_in_the_same_turn_is_not_called),
      cmocka_unit_test(a_turn_waits_for_the_next_timer_and_no_longer),
      cmocka_unit_test(after_a_stop_what_came_is_seen_before_timers_fire),
      cmocka_unit_test(timers_that_are_late_fire_after_all_that_came),
  };
  return cmocka_run_group_tests_name("event loop and mailbox", tests, NULL, NULL);
}
