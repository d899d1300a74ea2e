#ifndef STORE_INSERT_TELEMETRY_H
#define STORE_INSERT_TELEMETRY_H

/* Frames and outcomes to their tables. Writer's thread, inside its transactions. Both return SQLite's code.
 */

#include "store/record.h"
#include "store/store.h"

#include <sqlite3.h>

struct insert_telemetry;

struct insert_telemetry *insert_telemetry_create(sqlite3 *db,
                                                 const struct store_options *options); /* or NULL */
void insert_telemetry_destroy(struct insert_telemetry *t);

int insert_telemetry_frame(struct insert_telemetry *t, const struct frame *frame);
int insert_telemetry_outcomes(struct insert_telemetry *t, const struct outcome_rows *rows);

#endif
