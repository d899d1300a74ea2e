#include "dialect/buffer.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_CAPACITY = 256 };

bool buffer_reserve(struct buffer *b, size_t more) {
  if (more <= b->capacity - b->size) return true;
  if (more > SIZE_MAX / 2 - b->size) return false;
  size_t capacity = b->capacity < FIRST_CAPACITY ? FIRST_CAPACITY : b->capacity;
  while (capacity < b->size + more)
    capacity += capacity / 2;
  char *bytes = realloc(b->bytes, capacity);
  if (!bytes) return false;
  b->bytes = bytes;
  b->capacity = capacity;
  return true;
}

void buffer_append(struct buffer *b, const void *bytes, size_t size) {
  if (size == 0) return;
  if (!buffer_reserve(b, size)) {
    b->failed = true;
    return;
  }
  memcpy(b->bytes + b->size, bytes, size);
  b->size += size;
}

void buffer_text(struct buffer *b, const char *text) {
  buffer_append(b, text, strlen(text));
}

void buffer_format(struct buffer *b, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int size = vsnprintf(NULL, 0, format, arguments);
  va_end(arguments);
  if (size < 0 || !buffer_reserve(b, (size_t)size + 1)) {
    b->failed = true;
    return;
  }
  va_start(arguments, format);
  vsnprintf(b->bytes + b->size, (size_t)size + 1, format, arguments);
  va_end(arguments);
  b->size += (size_t)size;
}

void buffer_clear(struct buffer *b) {
  b->size = 0;
  b->failed = false;
}

void buffer_trim(struct buffer *b, size_t keep) {
  if (b->capacity > keep) buffer_free(b);
  buffer_clear(b);
}

void buffer_free(struct buffer *b) {
  free(b->bytes);
  *b = (struct buffer){0};
}

char *buffer_take(struct buffer *b, size_t *size) {
  char *bytes = b->bytes;
  if (b->failed || b->size == 0) {
    buffer_free(b);
    *size = 0;
    return NULL;
  }
  *size = b->size;
  *b = (struct buffer){0};
  return bytes;
}
