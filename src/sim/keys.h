#ifndef SIM_KEYS_H
#define SIM_KEYS_H

/* Reads a TOML table into a struct by a table of keys. A key that is not in the table, of another type or out
 * of range is an error that says where and what is allowed. */

#include <stddef.h>

struct toml_node;

enum key_type {
  KEY_REAL,     /* double */
  KEY_UNSIGNED, /* unsigned */
  KEY_BOOL,     /* bool */
  KEY_STRING,   /* char[], size below */
  KEY_SECONDS,  /* a number, kept as int64_t ns; likewise the next two */
  KEY_MINUTES,
  KEY_HOURS,
  KEY_DAYS,
  KEY_OTHER, /* allowed here, read by the caller */
};

struct key {
  const char *name;
  enum key_type type;
  size_t offset, size;
  double min, max; /* of numbers, in the file's unit */
};

struct key_source {
  const char *file; /* for messages */
  char *error;
  size_t error_size;
};

/* table_name is what messages call it ("[run]"). 0, or -EINVAL with the error written. */
int keys_read(const struct key_source *source, const struct toml_node *table, const char *table_name,
              const struct key *keys, size_t count, void *into);

/* Writes "FILE:LINE: ..." and returns -EINVAL. */
int keys_fail(const struct key_source *source, const struct toml_node *node, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
