#include "pipeline/bucket.h"

#include "sys/clock.h"

#include <math.h>

void bucket_init(struct bucket *b, double burst, int64_t now_ns) {
  b->tokens = burst;
  b->filled_ns = now_ns;
}

static void fill(struct bucket *b, double rate, double burst, int64_t now_ns) {
  if (now_ns > b->filled_ns) {
    b->tokens += rate * (double)(now_ns - b->filled_ns) / (double)NS_PER_S;
    b->filled_ns = now_ns;
  }
  b->tokens = fmin(b->tokens, burst);
}

bool bucket_take(struct bucket *b, double n, double rate, double burst, int64_t now_ns, int64_t *wait_ns) {
  fill(b, rate, burst, now_ns);
  if (b->tokens >= n) {
    b->tokens -= n;
    return true;
  }
  *wait_ns = rate > 0 ? (int64_t)ceil((n - b->tokens) / rate * (double)NS_PER_S) : NS_NEVER;
  return false;
}
