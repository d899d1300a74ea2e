#ifndef STORE_FILE_H
#define STORE_FILE_H

/* The database as a file: its directory, the lock that keeps a second daemon out, opening it for the writer,
 * and what happens to one that is damaged. */

#include <sqlite3.h>
#include <stddef.h>

/* Makes the directory of path where it is missing and locks it for this process. Returns a descriptor, which
 * holds the lock until it is closed and is not inherited across exec; or -errno with what to do in error. */
int file_lock(const char *path, char *error, size_t error_size);

/* Opens the file, or makes it, in WAL mode and with the present schema. A damaged one is renamed aside, with
 * a line in the log, and a new one begun. NULL: error says what to do. */
sqlite3 *file_open(const char *path, char *error, size_t error_size);

/* What to do about an SQLite code at the start; "" when nobody knows. */
const char *file_advice(int rc);

#endif
