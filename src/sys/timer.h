#ifndef SYS_TIMER_H
#define SYS_TIMER_H

/* Timers for one thread, live or simulated: a binary heap ordered by due time, then by order of arming, so
 * that a simulated run replays. Whoever drives the heap supplies the time; nothing here asks a clock. */

#include <stddef.h>
#include <stdint.h>

struct timers;

/* Embedded in the object that waits. Zero it before first use. */
struct timer {
  void (*fire)(struct timer *timer, int64_t now_ns);
  int64_t due_ns;
  uint64_t order;
  size_t slot; /* position in the heap + 1; 0 when not armed */
};

struct timers *timers_create(void); /* NULL: out of memory */
void timers_destroy(struct timers *timers);

/* Arms, or moves when armed already. Returns 0 or -ENOMEM (then the timer is not armed). */
int timer_arm(struct timers *timers, struct timer *timer, int64_t due_ns);
void timer_disarm(struct timers *timers, struct timer *timer); /* does nothing when not armed */

int64_t timers_next_ns(const struct timers *timers); /* NS_NEVER when none is armed */

/* Fires all that is due, earliest first, each disarmed before its call; a callback may arm and disarm any
 * timer. */
void timers_run(struct timers *timers, int64_t now_ns);

#endif
