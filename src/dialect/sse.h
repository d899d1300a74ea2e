#ifndef DIALECT_SSE_H
#define DIALECT_SSE_H

/* Server-sent events (WHATWG HTML, section 9.2.6), pushed in as bytes arrive, in pieces of any size. */

#include <stdbool.h>
#include <stddef.h>

#include "dialect/buffer.h"

enum { SSE_TYPE_SIZE = 32, SSE_MAX_EVENT = 4 << 20 };

/* One event with data. data is borrowed for the call; several data lines are joined by a line feed. type is
 * "message" when none was said. Returns false to stop: the parser is then not touched any more, and may be
 * gone. */
typedef bool sse_event_fn(void *ctx, const char *type, const char *data, size_t size);

struct sse {
  struct buffer line;   /* a line whose end has not come */
  struct buffer data;   /* lines of the event so far */
  const char *borrowed; /* its one data line, inside the bytes of the present push */
  size_t borrowed_size;
  bool has_data, after_cr, started;
  char type[SSE_TYPE_SIZE];
  size_t max_event;
};

void sse_init(struct sse *p, size_t max_event); /* 0: SSE_MAX_EVENT */
void sse_reset(struct sse *p);                  /* for another stream; memory is kept */
void sse_free(struct sse *p);

/* Returns 0; 1 when the callback stopped it; -EMSGSIZE when a line or an event is larger than allowed;
 * -ENOMEM. After a negative value the parser is good for sse_reset and sse_free only. At the end of a stream
 * an event without its blank line is dropped, as the standard says. */
int sse_push(struct sse *p, const char *bytes, size_t size, sse_event_fn *event, void *ctx);

#endif
