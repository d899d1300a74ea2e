/* Reading out of a scanned text. Strings were checked by the scan: escapes are whole, bytes are UTF-8. */

#include "dialect/json_scan.h"

#include "dialect/buffer.h"
#include "dialect/utf8.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NUMBER_SIZE = 64 };

/* Escapes of one letter; position by position the same. */
static const char short_escapes[] = "\b\f\n\r\t\"\\", short_names[] = "bfnrt\"\\";

static int hex_digit(char c) {
  return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
}

static uint32_t hex4(const char *text) {
  return (uint32_t)(hex_digit(text[0]) << 12 | hex_digit(text[1]) << 8 | hex_digit(text[2]) << 4 |
                    hex_digit(text[3]));
}

/* Decodes the character at *text (an escape that jsmn has checked, or one byte as it is) and moves behind it.
 */
/* The bytes of one character that stands for itself. */
static size_t plain_character(const char **text, char out[4]) {
  unsigned char first = (unsigned char)**text;
  size_t n = first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  memcpy(out, *text, n);
  *text += n;
  return n;
}

size_t json_decode(const char **text, const char *end, char out[4]) {
  const char *t = *text;
  if (*t != '\\') return plain_character(text, out);
  *text = t + 2;
  if (t[1] != 'u') {
    const char *name = strchr(short_names, t[1]);
    out[0] = name ? short_escapes[name - short_names] : t[1];
    return 1;
  }
  uint32_t code = hex4(t + 2);
  *text = t + 6;
  if (code >= 0xD800 && code < 0xDC00 && end - t >= 12 && t[6] == '\\' && t[7] == 'u') {
    uint32_t low = hex4(t + 8);
    if (low >= 0xDC00 && low < 0xE000) {
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
      *text = t + 12;
    }
  }
  return utf8_encode(code, out);
}

static const jsmntok_t *token_of(const struct json_scan *s, int value) {
  return value >= 0 && value < s->count ? &s->tokens[value] : NULL;
}

enum json_type json_type(const struct json_scan *s, int value) {
  const jsmntok_t *token = token_of(s, value);
  if (!token) return JSON_ABSENT;
  if (token->type == JSMN_OBJECT) return JSON_OBJECT;
  if (token->type == JSMN_ARRAY) return JSON_ARRAY;
  if (token->type == JSMN_STRING) return JSON_STRING;
  switch (s->text[token->start]) {
  case 't':
    return JSON_TRUE;
  case 'f':
    return JSON_FALSE;
  case 'n':
    return JSON_NULL;
  default:
    return JSON_NUMBER;
  }
}

size_t json_at(const struct json_scan *s, int value) {
  const jsmntok_t *token = token_of(s, value);
  if (!token) return 0;
  return (size_t)(token->type == JSMN_STRING ? token->start - 1 : token->start);
}

size_t json_size(const struct json_scan *s, int value) {
  const jsmntok_t *token = token_of(s, value);
  if (!token) return 0;
  return (size_t)(token->end - token->start) + (token->type == JSMN_STRING ? 2 : 0);
}

/* ---- walking ---- */

int json_first(const struct json_scan *s, int container) {
  const jsmntok_t *token = token_of(s, container);
  bool any = token && (token->type == JSMN_OBJECT || token->type == JSMN_ARRAY) && token->size > 0;
  return any ? container + 1 : -1;
}

int json_next(const struct json_scan *s, int container, int child) {
  const jsmntok_t *outer = token_of(s, container);
  if (!outer || !token_of(s, child)) return -1;
  int last = outer->type == JSMN_OBJECT ? child + 1 : child, next = s->tokens[last].parent;
  return next < outer->parent ? next : -1;
}

int json_value_of(const struct json_scan *s, int key) {
  return token_of(s, key) ? key + 1 : -1;
}

int json_count(const struct json_scan *s, int container) {
  return json_first(s, container) < 0 ? 0 : s->tokens[container].size;
}

/* Whether a string's content, decoded, is that text. */
static bool content_is(const struct json_scan *s, const jsmntok_t *token, const char *text) {
  const char *at = s->text + token->start, *end = s->text + token->end;
  size_t size = strlen(text);
  if (!memchr(at, '\\', (size_t)(end - at))) return (size_t)(end - at) == size && memcmp(at, text, size) == 0;
  while (at < end) {
    char piece[4];
    size_t n = json_decode(&at, end, piece);
    if (n > size || memcmp(piece, text, n) != 0) return false;
    text += n;
    size -= n;
  }
  return size == 0;
}

bool json_key_is(const struct json_scan *s, int key, const char *name) {
  const jsmntok_t *token = token_of(s, key);
  return token && token->type == JSMN_STRING && content_is(s, token, name);
}

int json_member(const struct json_scan *s, int object, const char *name) {
  int found = -1;
  if (json_type(s, object) != JSON_OBJECT) return -1;
  for (int key = json_first(s, object); key >= 0; key = json_next(s, object, key))
    if (json_key_is(s, key, name)) found = key + 1;
  return found;
}

/* ---- values ---- */

bool json_bool(const struct json_scan *s, int value, bool *out) {
  enum json_type type = json_type(s, value);
  if (type != JSON_TRUE && type != JSON_FALSE) return false;
  *out = type == JSON_TRUE;
  return true;
}

/* A number's text with a NUL behind it; false when it is none or too long to matter. */
static bool number_text(const struct json_scan *s, int value, char out[NUMBER_SIZE]) {
  size_t size = json_size(s, value);
  if (json_type(s, value) != JSON_NUMBER || size >= NUMBER_SIZE) return false;
  memcpy(out, s->text + json_at(s, value), size);
  out[size] = '\0';
  return true;
}

bool json_integer(const struct json_scan *s, int value, int64_t *out) {
  char text[NUMBER_SIZE];
  if (!number_text(s, value, text) || strpbrk(text, ".eE")) return false;
  errno = 0;
  long long number = strtoll(text, NULL, 10);
  if (errno == ERANGE) return false;
  *out = number;
  return true;
}

bool json_double(const struct json_scan *s, int value, double *out) {
  char text[NUMBER_SIZE];
  if (!number_text(s, value, text)) return false;
  double number = strtod(text, NULL);
  if (!isfinite(number)) return false;
  *out = number;
  return true;
}

static const jsmntok_t *string_of(const struct json_scan *s, int value) {
  const jsmntok_t *token = token_of(s, value);
  return token && token->type == JSMN_STRING ? token : NULL;
}

bool json_is_text(const struct json_scan *s, int value, const char *text) {
  const jsmntok_t *token = string_of(s, value);
  return token && content_is(s, token, text);
}

bool json_text_empty(const struct json_scan *s, int value) {
  const jsmntok_t *token = string_of(s, value);
  return !token || token->start == token->end;
}

size_t json_copy(const struct json_scan *s, int value, char *out, size_t out_size) {
  const jsmntok_t *token = string_of(s, value);
  size_t size = 0;
  if (out_size == 0) return 0;
  const char *at = token ? s->text + token->start : NULL, *end = token ? s->text + token->end : NULL;
  while (at < end) {
    char piece[4];
    size_t n = json_decode(&at, end, piece);
    if (size + n >= out_size) break;
    memcpy(out + size, piece, n);
    size += n;
  }
  out[size] = '\0';
  return size;
}

void json_append(const struct json_scan *s, int value, struct buffer *out) {
  const jsmntok_t *token = string_of(s, value);
  if (!token) return;
  const char *at = s->text + token->start, *end = s->text + token->end;
  while (at < end) {
    const char *escape = memchr(at, '\\', (size_t)(end - at));
    buffer_append(out, at, (size_t)((escape ? escape : end) - at));
    if (!escape) return;
    at = escape;
    char piece[4];
    size_t n = json_decode(&at, end, piece);
    buffer_append(out, piece, n);
  }
}

/* ---- writing ---- */

static void quote_valid(struct buffer *out, const char *text, size_t size) {
  static const char digits[] = "0123456789abcdef";
  size_t plain = 0;
  for (size_t i = 0; i < size; i++) {
    unsigned char c = (unsigned char)text[i];
    if (c >= 0x20 && c != '"' && c != '\\') continue;
    buffer_append(out, text + plain, i - plain);
    plain = i + 1;
    char escape[6] = {'\\', 'u', '0', '0', digits[c >> 4], digits[c & 15]};
    const char *name = strchr(short_escapes, (char)c);
    if (c && name) escape[1] = short_names[name - short_escapes];
    buffer_append(out, escape, c && name ? 2 : 6);
  }
  buffer_append(out, text + plain, size - plain);
}

void json_quote(struct buffer *out, const char *text, size_t size) {
  buffer_append(out, "\"", 1);
  if (utf8_valid(text, size)) {
    quote_valid(out, text, size);
  } else {
    struct buffer repaired = {0};
    utf8_repair(text, size, &repaired);
    if (repaired.failed) out->failed = true;
    quote_valid(out, repaired.bytes, repaired.size);
    buffer_free(&repaired);
  }
  buffer_append(out, "\"", 1);
}
