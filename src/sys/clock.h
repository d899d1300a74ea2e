#ifndef SYS_CLOCK_H
#define SYS_CLOCK_H

/* The only place that asks the system for the time. Everything else takes now_ns as an argument. */

#include <stdint.h>

#define NS_PER_US INT64_C(1000)
#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S INT64_C(1000000000)
#define NS_NEVER INT64_MAX

int64_t clock_now_ns(void); /* monotonic; starts anywhere, never steps */
int64_t
clock_wall_ms(void); /* Unix time; steps when somebody sets the clock: for logs, storage and people only */

/* CPU time of the calling thread, ns. */
int64_t clock_thread_cpu_ns(void);

#endif
