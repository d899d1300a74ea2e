#ifndef STORE_SCHEMA_H
#define STORE_SCHEMA_H

/* Tables and views of the database file and the steps that lead to them. docs/database.md describes them:
 * they are a public interface. */

#include <sqlite3.h>
#include <stddef.h>

enum { SCHEMA_APPLICATION_ID = 0x53496d70 }; /* "SImp", in the file's header */

int schema_version(void); /* that this program writes */

/* Brings the file to the present version, each step in a transaction of its own. Returns 0; -EINVAL for a
 * file of a newer version or of another program, with what to do in error; or -EIO with SQLite's words. */
int schema_migrate(sqlite3 *db, const char *path, char *error, size_t error_size);

#endif
