#ifndef PIPELINE_PRICE_H
#define PIPELINE_PRICE_H

#include <stdint.h>

/* Dollars for a million tokens. */
struct price {
  double in, cached, out;
};

/* tokens_in counts cached ones too; those pay the cached price. */
static inline double price_of(const struct price *p, uint32_t tokens_in, uint32_t tokens_cached,
                              uint32_t tokens_out) {
  return ((double)(tokens_in - tokens_cached) * p->in + (double)tokens_cached * p->cached +
          (double)tokens_out * p->out) *
         1e-6;
}

#endif
