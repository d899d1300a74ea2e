#ifndef SYS_LOG_H
#define SYS_LOG_H

/* One line a message on standard error, as text or as JSON. The one global of the daemon. Any thread may log;
 * a line is written with one write(2), and lost, counted, rather than waited for when nobody reads. Prompts,
 * completions and keys never go here. */

#include <stdbool.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_setup(enum log_level level, bool json);

/* Parses "error", "warn", "info", "debug". Returns 0 or -EINVAL, and then leaves *level alone. */
int log_parse_level(const char *text, enum log_level *level);

void log_line(enum log_level level, const char *who, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* who: the module that speaks, such as "store". */
#define log_error(who, ...) log_line(LOG_ERROR, who, __VA_ARGS__)
#define log_warn(who, ...) log_line(LOG_WARN, who, __VA_ARGS__)
#define log_info(who, ...) log_line(LOG_INFO, who, __VA_ARGS__)
#define log_debug(who, ...) log_line(LOG_DEBUG, who, __VA_ARGS__)

#endif
