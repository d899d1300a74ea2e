#ifndef DIALECT_RETRY_AFTER_H
#define DIALECT_RETRY_AFTER_H

/* How long a provider asks to be left alone. Values are header values without surrounding blanks. All return
 * nanoseconds from now, 0 for what is past, -1 for what cannot be understood. Nothing is longer than a week.
 */

#include <stddef.h>
#include <stdint.h>

/* Retry-After (RFC 9110, section 10.2.3): seconds, also with a fraction, or a date in any of the three forms.
 */
int64_t retry_after_ns(const char *value, size_t size, int64_t wall_ms);

/* retry-after-ms: milliseconds, also with a fraction. */
int64_t retry_after_ms_ns(const char *value, size_t size);

/* x-ratelimit-reset-*: "1s", "6m0s", "20ms", "1h2m3.5s", or plain seconds. */
int64_t reset_duration_ns(const char *value, size_t size);

#endif
