#include "sys/clock.h"

#include <time.h>

static int64_t read_ns(clockid_t id) {
  struct timespec t;
  clock_gettime(id, &t);
  return t.tv_sec * NS_PER_S + t.tv_nsec;
}

int64_t clock_now_ns(void) {
  return read_ns(CLOCK_MONOTONIC);
}

int64_t clock_wall_ms(void) {
  return read_ns(CLOCK_REALTIME) / NS_PER_MS;
}

int64_t clock_thread_cpu_ns(void) {
  return read_ns(CLOCK_THREAD_CPUTIME_ID);
}
