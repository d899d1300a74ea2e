/* Lines end in LF, CR or CRLF. A CR ends its line at once, and a LF that comes right behind it, even in a
 * later push, is swallowed: so an event leaves as soon as its blank line is there. The usual event, one data
 * line inside one push, is handed on without being copied. */

#include "dialect/sse.h"

#include <errno.h>
#include <string.h>

void sse_init(struct sse *p, size_t max_event) {
  *p = (struct sse){.max_event = max_event ? max_event : SSE_MAX_EVENT};
}

static void forget_event(struct sse *p) {
  buffer_clear(&p->data);
  p->borrowed = NULL;
  p->borrowed_size = 0;
  p->has_data = false;
  p->type[0] = '\0';
}

void sse_reset(struct sse *p) {
  buffer_clear(&p->line);
  forget_event(p);
  p->after_cr = p->started = false;
}

void sse_free(struct sse *p) {
  buffer_free(&p->line);
  buffer_free(&p->data);
}

/* Makes the borrowed line our own, before its bytes go or another one joins it. */
static int keep_borrowed(struct sse *p) {
  if (!p->borrowed) return 0;
  buffer_append(&p->data, p->borrowed, p->borrowed_size);
  p->borrowed = NULL;
  return p->data.failed ? -ENOMEM : 0;
}

static int take_data(struct sse *p, const char *value, size_t size) {
  if (!p->has_data) {
    p->has_data = true;
    p->borrowed = value;
    p->borrowed_size = size;
    return size > p->max_event ? -EMSGSIZE : 0;
  }
  int error = keep_borrowed(p);
  if (error < 0) return error;
  if (p->data.size + 1 + size > p->max_event) return -EMSGSIZE;
  buffer_append(&p->data, "\n", 1);
  buffer_append(&p->data, value, size);
  return p->data.failed ? -ENOMEM : 0;
}

static void take_type(struct sse *p, const char *value, size_t size) {
  if (size >= SSE_TYPE_SIZE) size = SSE_TYPE_SIZE - 1;
  memcpy(p->type, value, size);
  p->type[size] = '\0';
}

/* id and retry serve reconnecting readers; we are none. They and unknown fields are passed over. */
static int take_field(struct sse *p, const char *line, size_t size) {
  const char *colon = memchr(line, ':', size);
  size_t name = colon ? (size_t)(colon - line) : size;
  const char *value = colon ? colon + 1 : line + size;
  if (value < line + size && *value == ' ') value++;
  size_t value_size = (size_t)(line + size - value);
  if (name == 4 && memcmp(line, "data", 4) == 0) return take_data(p, value, value_size);
  if (name == 5 && memcmp(line, "event", 5) == 0) take_type(p, value, value_size);
  return 0;
}

/* The blank line. An event whose data is empty text is no event. */
static int dispatch(struct sse *p, sse_event_fn *event, void *ctx) {
  const char *data = p->borrowed ? p->borrowed : p->data.bytes;
  size_t size = p->borrowed ? p->borrowed_size : p->data.size;
  if (p->has_data && size > 0 && !event(ctx, p->type[0] ? p->type : "message", data, size)) return 1;
  forget_event(p);
  return 0;
}

static int take_line(struct sse *p, const char *line, size_t size, sse_event_fn *event, void *ctx) {
  if (!p->started) {
    p->started = true;
    if (size >= 3 && memcmp(line, "\xEF\xBB\xBF", 3) == 0) {
      line += 3;
      size -= 3;
    }
  }
  return size == 0 ? dispatch(p, event, ctx) : take_field(p, line, size);
}

/* A line that began in an earlier push. Its bytes go when this returns, so that nothing may stay borrowed. */
static int take_stored_line(struct sse *p, sse_event_fn *event, void *ctx) {
  int error = take_line(p, p->line.bytes, p->line.size, event, ctx);
  if (error != 0) return error;
  error = keep_borrowed(p);
  buffer_clear(&p->line);
  return error;
}

static int store(struct sse *p, const char *bytes, size_t size) {
  if (p->line.size + size > p->max_event) return -EMSGSIZE;
  buffer_append(&p->line, bytes, size);
  return p->line.failed ? -ENOMEM : 0;
}

/* The first CR or LF, or NULL. */
static const char *line_end(const char *bytes, size_t size) {
  const char *lf = memchr(bytes, '\n', size);
  const char *cr = memchr(bytes, '\r', lf ? (size_t)(lf - bytes) : size);
  return cr ? cr : lf;
}

int sse_push(struct sse *p, const char *bytes, size_t size, sse_event_fn *event, void *ctx) {
  const char *at = bytes, *end = bytes + size;
  int error = 0;
  while (at < end && error == 0) {
    if (p->after_cr && *at == '\n') at++;
    p->after_cr = false;
    const char *stop = line_end(at, (size_t)(end - at));
    size_t length = (size_t)((stop ? stop : end) - at);
    if (!stop || p->line.size > 0) error = store(p, at, length);
    if (!stop || error != 0) break;
    p->after_cr = *stop == '\r';
    error = p->line.size > 0 ? take_stored_line(p, event, ctx) : take_line(p, at, length, event, ctx);
    at = stop + 1;
  }
  return error == 0 ? keep_borrowed(p) : error;
}
