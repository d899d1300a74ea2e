#ifndef CLI_TABLE_H
#define CLI_TABLE_H

/* JSON for people: a list of objects as an aligned table, an object as lines of key and value. */

struct cJSON;

enum { TABLE_TIME = 32, TABLE_NUMBER = 32 };

/* Unix milliseconds as local date and time. */
void table_time(double wall_ms, char out[TABLE_TIME]);

/* Four digits are enough to read; whole numbers stay whole. Returns out. */
const char *table_number(double value, char out[TABLE_NUMBER]);

struct column {
  const char *title, *key; /* key: a member, "outer.inner" for one of an object inside */
  enum { COLUMN_TEXT, COLUMN_NUMBER, COLUMN_TIME, COLUMN_ID } kind; /* COLUMN_ID: the first ten characters */
};

/* The list's rows, and "none" for an empty list. list may be an object that holds one list. */
void table_print(const struct cJSON *list, const struct column *columns, unsigned count, const char *none);

/* Members that are neither list nor object, one a line, indented. */
void table_members(const struct cJSON *object);

/* The list itself, or the one list inside the object; NULL: there is none. */
const struct cJSON *table_list(const struct cJSON *json);

#endif
