#ifndef CONFIG_READER_H
#define CONFIG_READER_H

/* Reading values out of a parsed file, and collecting everything that is wrong with them, so that a person
 * sees all errors at once: one line each, "FILE:LINE: KEY: what is wrong; what is allowed". */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct toml_node;

enum { READER_KEY = 160, READER_PROBLEMS = 100 }; /* of more problems only the number is told */

struct reader {
  const char *file;
  char *text; /* all problems, a line each; NULL while there is none */
  size_t size;
  unsigned count;
};

void reader_init(struct reader *r, const char *file);
void reader_free(struct reader *r);

/* at: where (NULL: the file as a whole). key: the full path, such as "server.port". */
void reader_problem(struct reader *r, const struct toml_node *at, const char *key, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* A problem outside any file, such as a variable's: "SOURCE: what is wrong; what is allowed". */
void reader_problem_of(struct reader *r, const char *source, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Each returns true and sets *out when the node is there and its value is allowed; a node that is absent
 * (NULL) is no problem, one that is not allowed is. */
bool reader_integer(struct reader *r, const struct toml_node *node, const char *key, int64_t min, int64_t max,
                    int64_t *out);
bool reader_number(struct reader *r, const struct toml_node *node, const char *key, double min, double max,
                   double *out);
bool reader_bool(struct reader *r, const struct toml_node *node, const char *key, bool *out);

/* A text that is not empty and shorter than size, with ${VAR} replaced by the environment's value; a variable
 * that is unset or empty is a problem that names it. */
bool reader_text(struct reader *r, const struct toml_node *node, const char *key, char *out, size_t size);

/* A text that is a name: printable, no spaces, shorter than size. */
bool reader_name(struct reader *r, const struct toml_node *node, const char *key, char *out, size_t size);

/* What is wrong with a name of less than size bytes, as the end of a sentence; NULL: nothing. */
const char *reader_name_fault(const char *name, size_t size);

/* A list: true when the node is one; a node of another type is a problem. */
bool reader_list(struct reader *r, const struct toml_node *node, const char *key);

/* The name among names[] that looks most like the text, or NULL when none is near enough to be meant. */
const char *reader_nearest(const char *text, const char *const *names, size_t count);

#endif
