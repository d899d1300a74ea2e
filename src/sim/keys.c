#include "sim/keys.h"

#include "sys/toml.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int keys_fail(const struct key_source *source, const struct toml_node *node, const char *format, ...) {
  int n = node ? snprintf(source->error, source->error_size, "%s:%d: ", source->file, toml_line(node))
               : snprintf(source->error, source->error_size, "%s: ", source->file);
  if (n < 0 || (size_t)n >= source->error_size) return -EINVAL;
  va_list args;
  va_start(args, format);
  vsnprintf(source->error + n, source->error_size - (size_t)n, format, args);
  va_end(args);
  return -EINVAL;
}

static const struct key *find(const struct key *keys, size_t count, const char *name) {
  for (size_t i = 0; i < count; i++)
    if (strcmp(keys[i].name, name) == 0) return &keys[i];
  return NULL;
}

static int unknown(const struct key_source *source, const struct toml_node *node, const char *table_name,
                   const char *name, const struct key *keys, size_t count) {
  char allowed[1024] = "";
  size_t used = 0;
  for (size_t i = 0; i < count && used < sizeof allowed; i++)
    used += (size_t)snprintf(allowed + used, sizeof allowed - used, "%s%s", i ? ", " : "", keys[i].name);
  return keys_fail(source, node, "%s has no key \"%s\"; allowed are: %s", table_name, name, allowed);
}

static double unit_ns(enum key_type type) {
  switch (type) {
  case KEY_SECONDS:
    return 1e9;
  case KEY_MINUTES:
    return 60e9;
  case KEY_HOURS:
    return 3600e9;
  case KEY_DAYS:
    return 86400e9;
  default:
    return 1;
  }
}

static int read_number(const struct key_source *source, const struct toml_node *node, const struct key *key,
                       char *at) {
  double x;
  int64_t whole;
  if (!toml_as_double(node, &x) || !(x >= key->min && x <= key->max) ||
      (key->type == KEY_UNSIGNED && !toml_as_integer(node, &whole)))
    return keys_fail(source, node, "%s must be %s from %g to %g", key->name,
                     key->type == KEY_UNSIGNED ? "a whole number" : "a number", key->min, key->max);
  if (key->type == KEY_REAL)
    *(double *)at = x;
  else if (key->type == KEY_UNSIGNED)
    *(unsigned *)at = (unsigned)x;
  else
    *(int64_t *)at = (int64_t)(x * unit_ns(key->type));
  return 0;
}

static int read_key(const struct key_source *source, const struct toml_node *node, const struct key *key,
                    char *at) {
  const char *text;
  switch (key->type) {
  case KEY_OTHER:
    return 0;
  case KEY_BOOL:
    if (toml_as_bool(node, (bool *)at)) return 0;
    return keys_fail(source, node, "%s must be true or false", key->name);
  case KEY_STRING:
    if (!toml_as_string(node, &text) || strlen(text) == 0 || strlen(text) >= key->size)
      return keys_fail(source, node, "%s must be a text of 1 to %zu bytes", key->name, key->size - 1);
    strcpy(at, text);
    return 0;
  default:
    return read_number(source, node, key, at);
  }
}

int keys_read(const struct key_source *source, const struct toml_node *table, const char *table_name,
              const struct key *keys, size_t count, void *into) {
  if (toml_type(table) != TOML_TABLE) return keys_fail(source, table, "%s must be a table", table_name);
  for (size_t i = 0; i < toml_count(table); i++) {
    const struct toml_node *node = toml_at(table, i);
    const struct key *key = find(keys, count, toml_key(table, i));
    if (!key) return unknown(source, node, table_name, toml_key(table, i), keys, count);
    int status = read_key(source, node, key, (char *)into + key->offset);
    if (status) return status;
  }
  return 0;
}
