/* Plain ASCII goes eight bytes at a time; anything else by the table of well-formed sequences (Unicode 15,
 * table 3-7), in which only the second byte has a range that depends on the first. */

#include "dialect/utf8.h"

#include "dialect/buffer.h"

#include <string.h>

#define HIGH_BITS UINT64_C(0x8080808080808080)

static bool between(unsigned char byte, unsigned char low, unsigned char high) {
  return byte >= low && byte <= high;
}

/* What may follow a first byte: how many bytes, and the range of the second. 0 for a byte that cannot be
 * first. */
static size_t followers(unsigned char first, unsigned char *low, unsigned char *high) {
  *low = 0x80;
  *high = 0xBF;
  if (between(first, 0xC2, 0xDF)) return 1;
  if (first == 0xE0) *low = 0xA0;
  if (first == 0xED) *high = 0x9F;
  if (between(first, 0xE0, 0xEF)) return 2;
  if (first == 0xF0) *low = 0x90;
  if (first == 0xF4) *high = 0x8F;
  return between(first, 0xF0, 0xF4) ? 3 : 0;
}

/* Size of the sequence at text, which does not start with ASCII. *whole: it is well-formed; else the size is
 * that of the maximal part that could have begun one, at least 1. */
static size_t sequence(const unsigned char *text, size_t size, bool *whole) {
  unsigned char low, high;
  size_t more = followers(text[0], &low, &high), n = 1;
  *whole = false;
  if (more == 0) return 1;
  for (; n <= more && n < size; n++) {
    if (!between(text[n], low, high)) return n;
    low = 0x80;
    high = 0xBF;
  }
  *whole = n == more + 1;
  return n;
}

static size_t ascii_prefix(const char *text, size_t size) {
  size_t i = 0;
  for (uint64_t word; i + sizeof word <= size; i += sizeof word) {
    memcpy(&word, text + i, sizeof word);
    if (word & HIGH_BITS) break;
  }
  while (i < size && (unsigned char)text[i] < 0x80)
    i++;
  return i;
}

size_t utf8_valid_prefix(const char *text, size_t size) {
  size_t i = 0;
  for (;;) {
    i += ascii_prefix(text + i, size - i);
    if (i == size) return i;
    bool whole;
    size_t n = sequence((const unsigned char *)text + i, size - i, &whole);
    if (!whole) return i;
    i += n;
  }
}

bool utf8_valid(const char *text, size_t size) {
  return utf8_valid_prefix(text, size) == size;
}

void utf8_repair(const char *text, size_t size, struct buffer *out) {
  for (size_t i = 0; i < size;) {
    size_t good = utf8_valid_prefix(text + i, size - i);
    buffer_append(out, text + i, good);
    i += good;
    if (i == size) return;
    bool whole;
    i += sequence((const unsigned char *)text + i, size - i, &whole);
    buffer_text(out, "\xEF\xBF\xBD");
  }
}

size_t utf8_encode(uint32_t code, char out[4]) {
  if ((code >= 0xD800 && code <= 0xDFFF) || code > 0x10FFFF) code = 0xFFFD;
  if (code < 0x80) {
    out[0] = (char)code;
    return 1;
  }
  size_t more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  static const unsigned char marks[] = {0, 0xC0, 0xE0, 0xF0};
  out[0] = (char)(marks[more] | code >> (6 * more));
  for (size_t i = 1; i <= more; i++)
    out[i] = (char)(0x80 | (code >> (6 * (more - i)) & 0x3F));
  return more + 1;
}
