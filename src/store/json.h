#ifndef STORE_JSON_H
#define STORE_JSON_H

#include <sqlite3.h>
#include <stdbool.h>

struct cJSON;

/* The present row of a statement as an object, its keys the column names. A name may end in a hint that is
 * cut off: "evidence:json" is stored JSON, nested as it is (as a string where it does not parse);
 * "stream:bool" is true or false. Text that is not UTF-8 has its stray bytes replaced by '?'; a blob is a
 * string when it is text, else "NAME_hex". NULL: no memory. */
struct cJSON *json_row(sqlite3_stmt *statement);

#endif
