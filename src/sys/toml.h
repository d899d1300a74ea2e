#ifndef SYS_TOML_H
#define SYS_TOML_H

/* TOML through toml++ behind a C face: a parsed file is a tree of read-only nodes that know their line and
 * column. The tree belongs to the document; strings live as long as it does. One thread at a time. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct toml_doc;
struct toml_node; /* a table, an array or a value */

enum toml_type { TOML_TABLE, TOML_ARRAY, TOML_STRING, TOML_INTEGER, TOML_FLOAT, TOML_BOOLEAN, TOML_OTHER };

/* Parses a file or a text; name is what errors call it. NULL on a syntax error: error then holds
 * "NAME:LINE:COLUMN: what is wrong". A byte order mark and CRLF are accepted; double keys are errors,
 * and files over 16 MiB. */
struct toml_doc *toml_parse_file(const char *path, char *error, size_t error_size);
struct toml_doc *toml_parse_text(const char *text, const char *name, char *error, size_t error_size);
void toml_free(struct toml_doc *doc);

const struct toml_node *toml_root(const struct toml_doc *doc);
enum toml_type toml_type(const struct toml_node *node);
int toml_line(const struct toml_node *node);
int toml_column(const struct toml_node *node);

/* Tables keep the file's order of lines. */
size_t toml_count(const struct toml_node *table_or_array);
const char *toml_key(const struct toml_node *table, size_t i);
const struct toml_node *toml_at(const struct toml_node *table_or_array, size_t i);
const struct toml_node *toml_get(const struct toml_node *table, const char *key); /* NULL: absent */

/* Each returns false, and leaves *out alone, when node is NULL or of another type. An integer passes as a
 * double. */
bool toml_as_string(const struct toml_node *node, const char **out);
bool toml_as_integer(const struct toml_node *node, int64_t *out);
bool toml_as_double(const struct toml_node *node, double *out);
bool toml_as_bool(const struct toml_node *node, bool *out);

#endif
