/* Problems are appended to one growing text. A key that nobody knows is compared with the known ones by edit
 * distance (Levenshtein 1966); a third of its length is near enough to be a slip of the hand. */

#include "config_reader.h"

#include "sys/toml.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void reader_init(struct reader *r, const char *file) {
  *r = (struct reader){.file = file};
}

void reader_free(struct reader *r) {
  free(r->text);
  *r = (struct reader){0};
}

static void append(struct reader *r, const char *line) {
  if (r->count++ >= READER_PROBLEMS) return;
  size_t length = strlen(line);
  char *grown = realloc(r->text, r->size + length + 2);
  if (!grown) return;
  memcpy(grown + r->size, line, length);
  r->text = grown;
  r->size += length;
  r->text[r->size++] = '\n';
  r->text[r->size] = '\0';
}

void reader_problem(struct reader *r, const struct toml_node *at, const char *key, const char *format, ...) {
  char what[512], line[1024];
  va_list args;
  va_start(args, format);
  vsnprintf(what, sizeof what, format, args);
  va_end(args);
  if (at)
    snprintf(line, sizeof line, "%s:%d: %s: %s", r->file, toml_line(at), key, what);
  else
    snprintf(line, sizeof line, "%s: %s: %s", r->file, key, what);
  append(r, line);
}

void reader_problem_of(struct reader *r, const char *source, const char *format, ...) {
  char what[512], line[1024];
  va_list args;
  va_start(args, format);
  vsnprintf(what, sizeof what, format, args);
  va_end(args);
  snprintf(line, sizeof line, "%s: %s", source, what);
  append(r, line);
}

bool reader_integer(struct reader *r, const struct toml_node *node, const char *key, int64_t min, int64_t max,
                    int64_t *out) {
  int64_t value;
  if (!node) return false;
  if (!toml_as_integer(node, &value)) {
    reader_problem(r, node, key, "is not a whole number; allowed: %" PRId64 " to %" PRId64, min, max);
    return false;
  }
  if (value < min || value > max) {
    reader_problem(r, node, key, "%" PRId64 " is out of range; allowed: %" PRId64 " to %" PRId64, value, min,
                   max);
    return false;
  }
  *out = value;
  return true;
}

bool reader_number(struct reader *r, const struct toml_node *node, const char *key, double min, double max,
                   double *out) {
  double value;
  if (!node) return false;
  if (!toml_as_double(node, &value)) {
    reader_problem(r, node, key, "is not a number; allowed: %.15g to %.15g", min, max);
    return false;
  }
  if (!(value >= min && value <= max)) {
    reader_problem(r, node, key, "%.15g is out of range; allowed: %.15g to %.15g", value, min, max);
    return false;
  }
  *out = value;
  return true;
}

bool reader_bool(struct reader *r, const struct toml_node *node, const char *key, bool *out) {
  if (!node) return false;
  if (toml_as_bool(node, out)) return true;
  reader_problem(r, node, key, "is neither true nor false; allowed: true, false (without quotes)");
  return false;
}

/* Copies from *text up to its ${VAR}, then the variable's value. False on a problem, which is then told. */
static bool expand_one(struct reader *r, const struct toml_node *node, const char *key, const char **text,
                       char *out, size_t size, size_t *used) {
  const char *end = strchr(*text + 2, '}');
  char name[128];
  if (!end || (size_t)(end - *text - 2) >= sizeof name || end == *text + 2) {
    reader_problem(r, node, key, "has a ${ without a variable's name and a }; allowed: ${NAME}");
    return false;
  }
  snprintf(name, sizeof name, "%.*s", (int)(end - *text - 2), *text + 2);
  const char *value = getenv(name);
  if (!value || !*value) {
    reader_problem(r, node, key, "the environment variable %s is %s; set it, or write the value here", name,
                   value ? "empty" : "not set");
    return false;
  }
  *used += (size_t)snprintf(out + *used, size - *used, "%s", value);
  *text = end + 1;
  return true;
}

bool reader_text(struct reader *r, const struct toml_node *node, const char *key, char *out, size_t size) {
  const char *text;
  if (!node) return false;
  if (!toml_as_string(node, &text)) {
    reader_problem(r, node, key, "is not a text; allowed: a text in quotes");
    return false;
  }
  char expanded[2048];
  size_t used = 0;
  while (*text && used < sizeof expanded - 1) {
    if (text[0] == '$' && text[1] == '{') {
      if (!expand_one(r, node, key, &text, expanded, sizeof expanded, &used)) return false;
    } else {
      expanded[used++] = *text++;
    }
  }
  if (used == 0) {
    reader_problem(r, node, key, "is empty; give a value or leave the key out");
    return false;
  }
  if (used >= size || used >= sizeof expanded - 1) {
    reader_problem(r, node, key, "is too long; allowed: up to %zu bytes", size - 1);
    return false;
  }
  memcpy(out, expanded, used);
  out[used] = '\0';
  return true;
}

const char *reader_name_fault(const char *name, size_t size) {
  for (const char *p = name; *p; p++)
    if ((unsigned char)*p <= ' ' || *p == 0x7f || *p == '"' || *p == '\\')
      return "holds a space, quote, backslash or control character; allowed in a name: others";
  return strlen(name) < size ? NULL : "is too long for a name; allowed: up to 63 bytes";
}

bool reader_name(struct reader *r, const struct toml_node *node, const char *key, char *out, size_t size) {
  char text[2048];
  if (!reader_text(r, node, key, text, sizeof text)) return false;
  const char *fault = reader_name_fault(text, size);
  if (fault) {
    reader_problem(r, node, key, "%s", fault);
    return false;
  }
  memcpy(out, text, strlen(text) + 1);
  return true;
}

bool reader_list(struct reader *r, const struct toml_node *node, const char *key) {
  if (!node) return false;
  if (toml_type(node) == TOML_ARRAY) return true;
  reader_problem(r, node, key, "is not a list; allowed: [\"...\", \"...\"]");
  return false;
}

static size_t edit_distance(const char *a, const char *b) {
  size_t row[READER_KEY + 1], n = strlen(b);
  if (n > READER_KEY) return SIZE_MAX;
  for (size_t j = 0; j <= n; j++)
    row[j] = j;
  for (size_t i = 1; a[i - 1]; i++) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= n; j++) {
      size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      size_t shorter = row[j] < row[j - 1] ? row[j] : row[j - 1];
      row[j] = replaced < shorter + 1 ? replaced : shorter + 1;
    }
  }
  return row[n];
}

const char *reader_nearest(const char *text, const char *const *names, size_t count) {
  const char *best = NULL;
  size_t least = strlen(text) / 3 + 2;
  for (size_t i = 0; i < count; i++) {
    size_t distance = edit_distance(text, names[i]);
    if (distance < least) {
      least = distance;
      best = names[i];
    }
  }
  return best;
}
