#ifndef SIM_FLUID_H
#define SIM_FLUID_H

/* Processor sharing in the fluid limit: all members progress at one rate, so one running level stands for all
 * of them, and who is done next is the top of a heap. Adding, removing and finishing cost O(log n), however
 * long they take. Kleinrock 1967 is the model; the virtual time is that of fair queueing (Demers, Keshav,
 * Shenker 1989). */

#include <stddef.h>
#include <stdint.h>

/* Embedded in whatever is served. Zero it before first use. */
struct fluid_member {
  double target; /* level at which it is done */
  size_t slot;   /* position in the heap + 1; 0: not a member */
};

struct fluid {
  double level, rate; /* work done for each member since the pool was last empty; per ns */
  int64_t at_ns;      /* when level held */
  struct fluid_member **heap;
  size_t count, capacity;
};

void fluid_free(struct fluid *f); /* its memory; members are left as they are */

void fluid_set_rate(struct fluid *f, double rate, int64_t now_ns); /* what is past went at the old rate */
int fluid_add(struct fluid *f, struct fluid_member *m, double work, int64_t now_ns); /* 0 or -ENOMEM */
void fluid_remove(struct fluid *f, struct fluid_member *m, int64_t now_ns); /* does nothing for others */

double fluid_left(const struct fluid *f, const struct fluid_member *m, int64_t now_ns); /* work, at least 0 */
int64_t fluid_reach_ns(const struct fluid *f, double level); /* NS_NEVER at rate 0 */
int64_t fluid_next_ns(const struct fluid *f);                /* when the next is done; NS_NEVER: none */

/* Takes out a member that is done by now; NULL: none. */
struct fluid_member *fluid_take_done(struct fluid *f, int64_t now_ns);

#endif
