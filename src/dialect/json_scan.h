#ifndef DIALECT_JSON_SCAN_H
#define DIALECT_JSON_SCAN_H

/* A JSON text (RFC 8259) as a table of values with their places, without copying. What is read is all that is
 * paid for: nothing is decoded until asked. jsmn finds the tokens; the grammar that it leaves open is checked
 * here.
 *
 * A value is an index into the table: 0 is the top-level object, negative is "absent", which every function
 * takes and answers with "absent" again, so that paths need no checks in between. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef JSMN_H
#define JSMN_HEADER
#define JSMN_PARENT_LINKS
#include <jsmn.h>
#endif

struct buffer;

enum {
  JSON_MAX_DEPTH = 64,       /* default limit of nested arrays and objects */
  JSON_DEPTH_CEILING = 256,  /* highest limit that can be asked for */
  JSON_MAX_VALUES = 1 << 18, /* values in one text, keys included */
  JSON_MAX_MEMBERS = 512,    /* members of the top-level object, where they must be unique */
  JSON_INLINE_TOKENS = 192   /* texts with no more values need no memory of their own */
};

enum json_type {
  JSON_ABSENT,
  JSON_NULL,
  JSON_FALSE,
  JSON_TRUE,
  JSON_NUMBER,
  JSON_STRING,
  JSON_ARRAY,
  JSON_OBJECT
};

struct json_scan {
  const char *text; /* borrowed: must outlive the scan */
  jsmntok_t
      *tokens; /* own, or malloc'ed; after a scan a token's parent is the index behind its last descendant */
  int count;
  const char *why; /* after a failure: what is wrong, a static string */
  size_t why_at;   /* and at which byte */
  jsmntok_t own[JSON_INLINE_TOKENS];
};

/* Scans one text whose top level is an object. max_depth 0: JSON_MAX_DEPTH. unique: two top-level members of
 * the same name are an error (as they must be where somebody else decides by the other one). Invalid UTF-8,
 * trailing bytes, NUL and whatever the RFC does not allow are errors. Returns 0, -EINVAL (why says what is
 * wrong), -E2BIG (too deep, too many values) or -ENOMEM. Call json_release in any case. */
int json_scan(struct json_scan *s, const char *text, size_t size, unsigned max_depth, bool unique);
void json_release(struct json_scan *s);

enum json_type json_type(const struct json_scan *s, int value);
size_t json_at(const struct json_scan *s,
               int value); /* offset of the value's first byte: of a string, its quote */
size_t json_size(const struct json_scan *s,
                 int value); /* up to its last byte: of a string, its other quote */

/* The member of that name; of several the last, as most readers do. -1: absent, or the value is no object. */
int json_member(const struct json_scan *s, int object, const char *name);

/* Children in order: of an array its values, of an object its keys. -1: no more, or no container. */
int json_first(const struct json_scan *s, int container);
int json_next(const struct json_scan *s, int container, int child);
int json_value_of(const struct json_scan *s, int key); /* of a member, by its key */
int json_count(const struct json_scan *s, int container);
bool json_key_is(const struct json_scan *s, int key, const char *name);

/* Each returns false, and leaves *out alone, when the value is absent or of another type. */
bool json_bool(const struct json_scan *s, int value, bool *out);
bool json_integer(const struct json_scan *s, int value,
                  int64_t *out); /* digits only, in range: 1.0 and 1e2 are none */
bool json_double(const struct json_scan *s, int value, double *out); /* finite */

bool json_is_text(const struct json_scan *s, int value, const char *text); /* a string with that content */
bool json_text_empty(const struct json_scan *s, int value);                /* not a string, or "" */

/* Content of a string, decoded, into out with a NUL; cut before a character that does not fit. Returns the
 * size without the NUL; 0 for what is no string. A lone surrogate becomes U+FFFD. */
size_t json_copy(const struct json_scan *s, int value, char *out, size_t out_size);
void json_append(const struct json_scan *s, int value, struct buffer *out); /* decoded, without limit */

/* One character of the content at *text, which is moved behind it; an escape counts as one. Returns its 1 to
 * 4 bytes. */
size_t json_decode(const char **text, const char *end, char out[4]);

/* Appends text as a JSON string with its quotes. The text must be UTF-8; else it is repaired. */
void json_quote(struct buffer *out, const char *text, size_t size);

#endif
