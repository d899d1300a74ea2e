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

void lanes_push(struct lanes *l, struct request *request);       /* behind its lane */
void lanes_push_front(struct lanes *l, struct request *request); /* keeps its turn: it was in line before */
void lanes_remove(struct lanes *l, struct request *request);

/* 0: nothing is more urgent. */
int64_t lanes_urgency(const struct request *request, int64_t now_ns, int64_t promotion_ns);

/* The most urgent one whose route is not in skip_routes (bit i: route i), without removing it; NULL when
 * there is none. A request that has waited k promotion intervals counts k lanes more urgent; the older first
 * among equals. */
struct request *lanes_first(const struct lanes *l, int64_t now_ns, int64_t promotion_ns,
                            uint64_t skip_routes);

size_t lanes_depth(const struct lanes *l);

#endif
