#ifndef SERVER_ERRAND_H
#define SERVER_ERRAND_H

/* What travels through a shard's mailbox: something to run on the shard's own thread. */

#include <stdint.h>

struct errand {
  void (*run)(struct errand *errand, int64_t now_ns); /* owns the errand from then on */
  struct errand *next;                                /* for whoever must hold it back */
};

#endif
