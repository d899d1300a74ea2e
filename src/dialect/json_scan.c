/* Four passes, each linear:
 *   1. UTF-8;
 *   2. depth, counted over brackets outside strings: jsmn walks up its parents at each closing bracket, so
 * that nesting must be bounded before it runs;
 *   3. jsmn, strict, with parent links, into a table that grows;
 *   4. the grammar: jsmn finds tokens, but takes ["a" "b"], {"a":1,}, tru and 01. Between two tokens there
 * must be exactly the separator that the place asks for. Pass 4 also turns each token's parent link, of no
 * more use, into the index behind its last descendant, so that siblings are one step apart, and its size into
 * the number of its values or members. */

#define JSMN_STATIC
#define JSMN_STRICT
#define JSMN_PARENT_LINKS
#include <jsmn.h>

#include "dialect/json_scan.h"

#include "dialect/utf8.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

struct level {
  int container;
  int children; /* seen; keys and values count alike */
};

struct walk {
  struct json_scan *s;
  size_t at; /* everything before `at` is in order */
  unsigned depth;
  struct level levels[JSON_DEPTH_CEILING];
};

static int fail(struct json_scan *s, int error, const char *why, size_t at) {
  s->why = why;
  s->why_at = at;
  return error;
}

/* ---- before jsmn ---- */

/* The offset behind the string that starts at i, or size. */
static size_t string_end(const char *text, size_t size, size_t i) {
  for (i++; i < size; i++) {
    const char *quote = memchr(text + i, '"', size - i);
    if (!quote) return size;
    size_t at = (size_t)(quote - text), slashes = 0;
    while (slashes < at - i && text[at - 1 - slashes] == '\\')
      slashes++;
    if (slashes % 2 == 0) return at + 1;
    i = at;
  }
  return size;
}

static int check_depth(struct json_scan *s, size_t size, unsigned max_depth) {
  unsigned depth = 0;
  for (size_t i = 0; i < size;) {
    char c = s->text[i];
    if (c == '"') {
      i = string_end(s->text, size, i);
      continue;
    }
    if ((c == '{' || c == '[') && ++depth > max_depth)
      return fail(s, -E2BIG, "arrays and objects are nested too deeply", i);
    if ((c == '}' || c == ']') && depth > 0) depth--;
    i++;
  }
  return 0;
}

/* ---- jsmn ---- */

static int grow(struct json_scan *s, unsigned *capacity) {
  unsigned more = *capacity * 4 < JSON_MAX_VALUES ? *capacity * 4 : JSON_MAX_VALUES;
  if (*capacity == JSON_MAX_VALUES) return fail(s, -E2BIG, "there are too many values", 0);
  jsmntok_t *tokens = realloc(s->tokens == s->own ? NULL : s->tokens, more * sizeof *tokens);
  if (!tokens) return fail(s, -ENOMEM, "out of memory", 0);
  if (s->tokens == s->own) memcpy(tokens, s->own, sizeof s->own);
  s->tokens = tokens;
  *capacity = more;
  return 0;
}

static int tokenise(struct json_scan *s, size_t size) {
  unsigned capacity = JSON_INLINE_TOKENS;
  jsmn_parser parser;
  jsmn_init(&parser);
  for (;;) {
    int n = jsmn_parse(&parser, s->text, size, s->tokens, capacity);
    if (n == JSMN_ERROR_NOMEM) {
      int error = grow(s, &capacity);
      if (error < 0) return error;
      continue;
    }
    if (n == JSMN_ERROR_PART) return fail(s, -EINVAL, "the text ends too early", size);
    if (n < 0) return fail(s, -EINVAL, "this is not JSON", parser.pos);
    s->count = (int)parser.toknext;
    return 0;
  }
}

/* ---- the grammar ---- */

static bool blank(char c) {
  return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

/* Goes over blanks up to `end`; true when nothing else is there. */
static bool blanks_to(struct walk *w, size_t end) {
  while (w->at < end && blank(w->s->text[w->at]))
    w->at++;
  return w->at == end;
}

static bool separator(struct walk *w, char wanted, size_t end) {
  while (w->at < end && blank(w->s->text[w->at]))
    w->at++;
  if (w->at >= end || w->s->text[w->at] != wanted) return false;
  w->at++;
  return true;
}

static bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

static size_t digits(const char *text, size_t size) {
  size_t n = 0;
  while (n < size && is_digit(text[n]))
    n++;
  return n;
}

static bool is_number(const char *text, size_t size) {
  size_t i = size > 0 && text[0] == '-' ? 1 : 0, n = digits(text + i, size - i);
  if (n == 0 || (n > 1 && text[i] == '0')) return false;
  i += n;
  if (i < size && text[i] == '.') {
    n = digits(text + i + 1, size - i - 1);
    if (n == 0) return false;
    i += n + 1;
  }
  if (i < size && (text[i] == 'e' || text[i] == 'E')) {
    i++;
    if (i < size && (text[i] == '+' || text[i] == '-')) i++;
    n = digits(text + i, size - i);
    if (n == 0) return false;
    i += n;
  }
  return i == size;
}

static bool is_primitive(const char *text, size_t size) {
  if (size == 4 && (memcmp(text, "true", 4) == 0 || memcmp(text, "null", 4) == 0)) return true;
  return (size == 5 && memcmp(text, "false", 5) == 0) || is_number(text, size);
}

/* No control characters: those must be escaped. Eight bytes at a time: a byte below 32 borrows from its top
 * bit. */
static bool plain_string(const char *text, size_t size) {
  size_t i = 0;
  for (uint64_t word; i + sizeof word <= size; i += sizeof word) {
    memcpy(&word, text + i, sizeof word);
    if ((word - UINT64_C(0x2020202020202020)) & ~word & UINT64_C(0x8080808080808080)) return false;
  }
  for (; i < size; i++)
    if ((unsigned char)text[i] < 0x20) return false;
  return true;
}

static size_t first_byte(const jsmntok_t *token) {
  return (size_t)(token->type == JSMN_STRING ? token->start - 1 : token->start);
}

static int close_container(struct walk *w, int next) {
  struct level *level = &w->levels[--w->depth];
  jsmntok_t *token = &w->s->tokens[level->container];
  bool object = token->type == JSMN_OBJECT;
  if (!blanks_to(w, (size_t)token->end - 1) || (object && level->children % 2 != 0))
    return fail(w->s, -EINVAL, "a value is missing, or a comma is too many", w->at);
  w->at = (size_t)token->end;
  token->parent = next;
  token->size = object ? level->children / 2 : level->children;
  return 0;
}

/* Goes over what must stand between the last token and this one. */
static int enter(struct walk *w, const jsmntok_t *token) {
  size_t start = first_byte(token);
  if (w->depth == 0) {
    if (token != w->s->tokens || !blanks_to(w, start))
      return fail(w->s, -EINVAL, "something stands outside the top-level object", w->at);
    return 0;
  }
  struct level *level = &w->levels[w->depth - 1];
  bool object = w->s->tokens[level->container].type == JSMN_OBJECT;
  bool is_value = object && level->children % 2 != 0;
  if (level->children > 0 && !separator(w, is_value ? ':' : ',', start))
    return fail(w->s, -EINVAL, is_value ? "a colon is missing" : "a comma is missing", w->at);
  if (!blanks_to(w, start)) return fail(w->s, -EINVAL, "a value is missing, or a comma is too many", w->at);
  if (object && !is_value && token->type != JSMN_STRING)
    return fail(w->s, -EINVAL, "a member's name must be a string", start);
  level->children++;
  return 0;
}

static int leaf(struct walk *w, int i) {
  jsmntok_t *token = &w->s->tokens[i];
  const char *text = w->s->text + token->start;
  size_t size = (size_t)(token->end - token->start);
  bool string = token->type == JSMN_STRING;
  if (string ? !plain_string(text, size) : !is_primitive(text, size))
    return fail(w->s, -EINVAL, string ? "a string holds a bare control character" : "this is not a value",
                (size_t)token->start);
  w->at = (size_t)token->end + (string ? 1 : 0);
  token->parent = i + 1;
  token->size = 0;
  return 0;
}

static int check_token(struct walk *w, int i) {
  const jsmntok_t *token = &w->s->tokens[i];
  int error = 0;
  while (error == 0 && w->depth > 0 &&
         (size_t)w->s->tokens[w->levels[w->depth - 1].container].end <= first_byte(token))
    error = close_container(w, i);
  if (error == 0) error = enter(w, token);
  if (error < 0) return error;
  if (token->type == JSMN_STRING || token->type == JSMN_PRIMITIVE) return leaf(w, i);
  w->at = (size_t)token->start + 1;
  w->levels[w->depth++] = (struct level){.container = i};
  return 0;
}

static int check_grammar(struct json_scan *s, size_t size) {
  struct walk w; /* its levels stay unset: they are many, and set when entered */
  w.s = s;
  w.at = 0;
  w.depth = 0;
  int error = 0;
  if (s->count == 0 || s->tokens[0].type != JSMN_OBJECT)
    return fail(s, -EINVAL, "the top level must be an object", 0);
  for (int i = 0; i < s->count && error == 0; i++)
    error = check_token(&w, i);
  while (w.depth > 0 && error == 0)
    error = close_container(&w, s->count);
  if (error == 0 && !blanks_to(&w, size))
    error = fail(s, -EINVAL, "something stands behind the top-level object", w.at);
  return error;
}

/* ---- names at the top ---- */

/* FNV-1a over the decoded name: "mod\u0065l" is the same name as "model". A collision refuses a body, no
 * more. */
static uint64_t name_hash(const struct json_scan *s, int key) {
  const char *at = s->text + s->tokens[key].start, *end = s->text + s->tokens[key].end;
  uint64_t hash = UINT64_C(0xcbf29ce484222325);
  while (at < end) {
    char piece[4];
    size_t n = json_decode(&at, end, piece);
    for (size_t i = 0; i < n; i++)
      hash = (hash ^ (unsigned char)piece[i]) * UINT64_C(0x100000001b3);
  }
  return hash;
}

static int check_unique(struct json_scan *s) {
  uint64_t seen[JSON_MAX_MEMBERS];
  int count = 0;
  if (json_count(s, 0) > JSON_MAX_MEMBERS) return fail(s, -E2BIG, "the object has too many members", 0);
  for (int key = json_first(s, 0); key >= 0; key = json_next(s, 0, key)) {
    uint64_t hash = name_hash(s, key);
    for (int i = 0; i < count; i++)
      if (seen[i] == hash)
        return fail(s, -EINVAL, "a member's name occurs twice", (size_t)s->tokens[key].start);
    seen[count++] = hash;
  }
  return 0;
}

int json_scan(struct json_scan *s, const char *text, size_t size, unsigned max_depth, bool unique) {
  s->text = text;
  s->tokens = s->own;
  s->count = 0;
  s->why = NULL;
  s->why_at = 0;
  if (max_depth == 0) max_depth = JSON_MAX_DEPTH;
  if (max_depth > JSON_DEPTH_CEILING) max_depth = JSON_DEPTH_CEILING;
  if (size > INT_MAX / 2) return fail(s, -E2BIG, "the text is too large", 0);
  size_t valid = utf8_valid_prefix(text, size);
  if (valid < size) return fail(s, -EINVAL, "this is not UTF-8", valid);
  int error = check_depth(s, size, max_depth);
  if (error == 0) error = tokenise(s, size);
  if (error == 0) error = check_grammar(s, size);
  if (error == 0 && unique) error = check_unique(s);
  if (error < 0) s->count = 0;
  return error;
}

void json_release(struct json_scan *s) {
  if (s->tokens != s->own) free(s->tokens);
  s->tokens = s->own;
  s->count = 0;
}
