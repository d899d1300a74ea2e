#ifndef PIPELINE_LANES_H
#define PIPELINE_LANES_H

/* The bounded ring before one stage: requests in four lanes, first come first served inside a lane, the most
 * urgent lane first. A request rises one lane each time the promotion interval passes, so that no lane
 * starves. Intrusive: nothing is allocated. One thread; the depth may be read by any. */

#include "bus/limits.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct request;

struct lanes {
  struct {
    struct request *first, *last;
  } lane[PRIORITIES];
  _Atomic size_t depth;
};

/* Requests that had to wait when they were looked at. All that are alike, of the same route and with the same
 * candidates given up, would have to, too. Where there are many kinds, the last ones are known one by one. */
enum { LANES_NARROWER = 8 };

struct lanes_skip {
  uint32_t round;  /* of looking; request->passed_over says in which one it was */
  uint64_t routes; /* bit i: of route i, those that have given up nothing */
  unsigned count;
  struct {
    uint16_t route;
    uint32_t spent;
  } narrower[LANES_NARROWER];
};

void lanes_skip(struct lanes_skip *skip, struct request *request); /* and all that are alike */
void lanes_look_again(struct lanes_skip *skip);                    /* something was freed: skips nobody */

void lanes_push(struct lanes *l, struct request *request);       /* behind its lane */
void lanes_push_front(struct lanes *l, struct request *request); /* keeps its turn: it was in line before */
void lanes_remove(struct lanes *l, struct request *request);

/* 0: nothing is more urgent. */
int64_t lanes_urgency(const struct request *request, int64_t now_ns, int64_t promotion_ns);

/* The most urgent one that is not to be skipped, without removing it; NULL when there is none. skip NULL:
 * any. A request that has waited k promotion intervals counts k lanes more urgent; the older first among
 * equals. */
struct request *lanes_first(const struct lanes *l, int64_t now_ns, int64_t promotion_ns,
                            const struct lanes_skip *skip);

size_t lanes_depth(const struct lanes *l);

#endif
