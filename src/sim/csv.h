#ifndef SIM_CSV_H
#define SIM_CSV_H

/* Reads CSV with a header row (RFC 4180: quoted fields may hold commas, quotes and line ends), plain or
 * gzipped. */

#include <stddef.h>

enum { CSV_FIELDS = 64 };

struct csv;

/* Looks for name, with .gz added or taken off, in dir/subdir and dir. NULL: error says where it looked. */
struct csv *csv_open(const char *dir, const char *subdir, const char *name, char *error, size_t error_size);
void csv_close(struct csv *csv);

/* The next row, the header first: number of fields, or 0 at the end. Fields are valid until the next call. */
size_t csv_next(struct csv *csv, const char *fields[CSV_FIELDS]);

#endif
