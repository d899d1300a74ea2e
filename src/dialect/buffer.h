#ifndef DIALECT_BUFFER_H
#define DIALECT_BUFFER_H

/* Bytes that grow. A failed append leaves the buffer as it was and marks it; whoever builds a text appends
 * all of it and asks once, at the end, whether memory was short. */

#include <stdbool.h>
#include <stddef.h>

struct buffer {
  char *bytes; /* malloc'ed; NULL while nothing was ever appended. Not NUL-terminated. */
  size_t size, capacity;
  bool failed; /* an append found no memory; stays until buffer_clear */
};

void buffer_append(struct buffer *b, const void *bytes, size_t size);
void buffer_text(struct buffer *b, const char *text); /* NUL-terminated */
void buffer_format(struct buffer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool buffer_reserve(struct buffer *b, size_t more); /* room for so many more bytes; false: no memory */
void buffer_clear(struct buffer *b);                /* empty, memory kept */
void buffer_trim(struct buffer *b, size_t keep);    /* empty; memory beyond keep bytes is given back */
void buffer_free(struct buffer *b);                 /* empty and without memory */

/* Hands the bytes over (free them with free()); the buffer is empty after. NULL when it is empty or has
 * failed. */
char *buffer_take(struct buffer *b, size_t *size);

#endif
