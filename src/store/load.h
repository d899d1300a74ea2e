#ifndef STORE_LOAD_H
#define STORE_LOAD_H

#include "store/store.h"

#include <sqlite3.h>

/* Reads what store_load promises through db. 0, -ENOMEM or -EIO; *state is untouched on failure. */
int load_state(sqlite3 *db, struct store_state *state);

#endif
