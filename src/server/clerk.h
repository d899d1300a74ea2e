#ifndef SERVER_CLERK_H
#define SERVER_CLERK_H

/* One helper thread with a database reader of its own: what would block an event loop is read here. A job's
 * work runs on the clerk's thread; then the job comes home through its shard's mailbox. */

#include "server/errand.h"

#include <stddef.h>

struct clerk;
struct mailbox;
struct store_reader;

/* Embedded in its owner. */
struct clerk_job {
  struct errand home;    /* run on the shard's thread once the work is done */
  struct mailbox *inbox; /* of that shard; must have room for every job that its shard has out */
  void (*work)(struct clerk_job *job, struct store_reader *reader);
};

/* path: of the database. NULL: error says why. */
struct clerk *clerk_create(const char *path, char *error, size_t error_size);
void clerk_destroy(struct clerk *clerk); /* finishes what is queued; NULL is fine */

/* Any thread. 0 and the job is under way, or -ENOSPC: too much is waiting. */
int clerk_post(struct clerk *clerk, struct clerk_job *job);

#endif
