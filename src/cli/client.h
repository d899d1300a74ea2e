#ifndef CLI_CLIENT_H
#define CLI_CLIENT_H

/* Asking a daemon: over HTTP while it runs, else its database file. */

#include "store/store.h"

#include <stdbool.h>
#include <stdint.h>

struct cJSON;

enum { CLIENT_PATH = 1024 };

struct client {
  char url[CLIENT_PATH], database[CLIENT_PATH]; /* "": an address was given, but no database with it */
  char key[512];                                /* API_KEY of the environment; "": none */
  bool json;                                    /* --json: print answers as they come */
  bool changes;                                 /* --changes */
  int64_t limit;                                /* --limit */
  const char *reason;                           /* --reason */
  const char *names[2];                         /* what stands without a dash */
  unsigned name_count;
};

/* Options and names of a subcommand that wants min to max names. False: a mistake, which has been told. */
bool client_parse(struct client *client, int argc, char **argv, unsigned min, unsigned max);

/* GET (body NULL) or POST. Returns the HTTP status and *answer (malloc'ed), or 0 when no daemon answers. */
int client_call(const struct client *client, const char *path, const char *body, char **answer);

/* path over HTTP, or the query from the database. NULL: the reason has been told; *offline tells which it
 * was. */
struct cJSON *client_ask(const struct client *client, const char *path, enum store_query query,
                         const char *text, bool *offline);

/* name made fit for a path; size bytes hold it. */
void client_escape(const char *name, char *out, size_t size);

/* Tells an error answer of the daemon. */
void client_tell(int status, const char *answer);

#endif
