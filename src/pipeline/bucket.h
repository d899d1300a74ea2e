#ifndef PIPELINE_BUCKET_H
#define PIPELINE_BUCKET_H

/* A token bucket on monotonic time. The rate may change between calls; tokens stay in [0, burst]. Not locked.
 */

#include <stdbool.h>
#include <stdint.h>

struct bucket {
  double tokens;
  int64_t filled_ns;
};

void bucket_init(struct bucket *b, double burst, int64_t now_ns); /* full */

/* Takes n tokens. False when there are not enough; *wait_ns is then how long until there would be. */
bool bucket_take(struct bucket *b, double n, double rate, double burst, int64_t now_ns, int64_t *wait_ns);

#endif
