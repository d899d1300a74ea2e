#ifndef EVOLVE_SNAPSHOT_H
#define EVOLVE_SNAPSHOT_H

/* A configuration as text, and its name: one line "name=value" for each tunable (for each provider where the
 * row is a provider's), sorted by name as bytes, values in the fewest digits that read back the same. The id
 * is the SHA-256 of the text, in hex: equal values, equal id. */

#include "bus/tunables.h"
#include "store/rows.h"

#include <stddef.h>

char *snapshot_text(const double values[TUNABLES][MAX_PROVIDERS], const char (*providers)[NAME_SIZE],
                    unsigned count); /* malloc'ed or NULL */

/* The number alone, in the same form. Returns its length. */
int snapshot_number(double value, char *out, size_t size);

int snapshot_id(const char *text, char id[SNAPSHOT_ID_SIZE]); /* 0 or -EIO */

/* Reads a text back: values[id][provider], NAN where it says nothing. Lines that name nothing known, or whose
 * value is no finite number or outside its bounds, are skipped: their names go to `skipped`, joined by ", "
 * and cut to fit (may be NULL with size 0). Returns how many were skipped. */
int snapshot_parse(const char *text, const char (*providers)[NAME_SIZE], unsigned count,
                   double values[TUNABLES][MAX_PROVIDERS], char *skipped, size_t skipped_size);

/* What differs, as a JSON array of {"name", "from", "to"}, sorted by name; null where one side has no such
 * line. malloc'ed or NULL. */
char *snapshot_diff(const char *from, const char *to);

#endif
