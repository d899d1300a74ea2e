/* Who reads standard error may stop doing so (a pipe that fills, a terminal at Ctrl-S), and the daemon does
 * not wait for him. What poll(2) calls writable takes a line at once: a pipe then has PIPE_BUF bytes free,
 * and a line is shorter. The lock keeps two threads from meeting in that room. Lines that find none are
 * counted, and the next one that does says how many. */

#include "sys/log.h"

#include "sys/clock.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 2048 };

static _Atomic int threshold = LOG_INFO;
static _Atomic bool as_json;

static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER; /* guards the next line */
static unsigned long lost;

static const char *const names[] = {"error", "warn", "info", "debug"};

void log_setup(enum log_level level, bool json) {
  atomic_store_explicit(&threshold, (int)level, memory_order_relaxed);
  atomic_store_explicit(&as_json, json, memory_order_relaxed);
}

int log_parse_level(const char *text, enum log_level *level) {
  for (int i = LOG_ERROR; i <= LOG_DEBUG; i++)
    if (strcmp(text, names[i]) == 0) {
      *level = (enum log_level)i;
      return 0;
    }
  return -EINVAL;
}

static size_t stamp(char *out, size_t size) {
  int64_t wall = clock_wall_ms();
  time_t seconds = (time_t)(wall / 1000);
  struct tm t;
  gmtime_r(&seconds, &t);
  size_t n = strftime(out, size, "%Y-%m-%dT%H:%M:%S", &t);
  return n + (size_t)snprintf(out + n, size - n, ".%03dZ", (int)(wall % 1000));
}

/* JSON string body: quotes, backslashes and control characters escaped, bytes that are not ASCII as they are.
 */
static size_t escape(char *out, size_t size, const char *text) {
  size_t n = 0;
  for (const char *p = text; *p && n + 7 < size; p++) {
    unsigned char c = (unsigned char)*p;
    if (c == '"' || c == '\\') {
      out[n++] = '\\';
      out[n++] = (char)c;
    } else if (c < 0x20) {
      n += (size_t)snprintf(out + n, size - n, "\\u%04x", c);
    } else {
      out[n++] = (char)c;
    }
  }
  out[n] = '\0';
  return n;
}

static size_t compose(char *line, size_t size, enum log_level level, const char *who, const char *text) {
  char when[40];
  stamp(when, sizeof when);
  int n;
  if (atomic_load_explicit(&as_json, memory_order_relaxed)) {
    char body[LINE_MAX_BYTES - 128];
    escape(body, sizeof body, text);
    n = snprintf(line, size, "{\"time\":\"%s\",\"level\":\"%s\",\"module\":\"%s\",\"message\":\"%s\"}\n",
                 when, names[level], who, body);
  } else {
    n = snprintf(line, size, "%s %-5s %-9s %s\n", when, names[level], who, text);
  }
  if (n < (int)size) return (size_t)n;
  line[size - 2] = '\n';
  return size - 1;
}

/* False: it would have to wait. What cannot be written at all is gone. */
static bool put(const char *line, size_t size) {
  struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};
  if (poll(&out, 1, 0) == 0) return false;
  ssize_t ignored = write(STDERR_FILENO, line, size);
  (void)ignored;
  return true;
}

static bool tell_lost(void) {
  char text[80], line[256];
  snprintf(text, sizeof text, "%lu lines before this one were lost: nobody read them", lost);
  return put(line, compose(line, sizeof line, LOG_WARN, "log", text));
}

void log_line(enum log_level level, const char *who, const char *format, ...) {
  if ((int)level > atomic_load_explicit(&threshold, memory_order_relaxed)) return;
  char text[LINE_MAX_BYTES / 2], line[LINE_MAX_BYTES];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  size_t size = compose(line, sizeof line, level, who, text);
  pthread_mutex_lock(&writing);
  if (lost > 0 && tell_lost()) lost = 0;
  if (lost > 0 || !put(line, size)) lost++;
  pthread_mutex_unlock(&writing);
}
