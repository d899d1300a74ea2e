#ifndef SERVER_CALL_H
#define SERVER_CALL_H

/* An admin request on its way: to the ticker (a command), to the clerk (a database read), or both in turn,
 * and back to its shard. One message is under way at a time. Belongs to call.c; freed once its answer has
 * been given. */

#include "loop.h"
#include "server/clerk.h"
#include "server/internal.h"
#include "store/store.h"

struct cJSON;

enum { CALL_ARGUMENT = 192 };

struct call {
  struct clerk_job job; /* its errand brings the call home from the ticker, too */
  struct command command;
  struct server *server;
  struct exchange *exchange;        /* NULL: the client has left, the answer goes nowhere */
  void (*then)(struct call *call);  /* at home again */
  struct cJSON *body;               /* of the request; the command borrows its strings */
  char arguments[2][CALL_ARGUMENT]; /* from the path */
  const char *list;                 /* name of the answer's list */
  enum store_query query;
  const char *text; /* borrowed: an argument, or filter */
  char filter[CALL_ARGUMENT];
  int64_t limit;
  char *rows, *more_rows; /* what the clerk read */
  int status;             /* 0, or -errno of the read */
};

/* NULL: refused, and the answer has been given. */
struct call *call_create(struct server *server, struct exchange *exchange);

/* Sends it off; `then` is called on the shard's thread. When that fails, the answer is given and the call is
 * gone. */
void call_ticker(struct call *call, enum command_kind kind, void (*then)(struct call *call));
void call_clerk(struct call *call, void (*work)(struct clerk_job *job, struct store_reader *reader),
                void (*then)(struct call *call));

/* Each answers and frees. */
void call_answer(struct call *call, int status, char *json); /* json is taken over */
void call_refuse(struct call *call, int status, const char *code, const char *message);
void call_answer_command(struct call *call); /* what the command brought */

/* Runs call->query on the clerk's thread: rows and status. */
void call_read(struct clerk_job *job, struct store_reader *reader);

/* True when the read brought rows; else the answer has been given and the call is gone. */
bool call_has_rows(struct call *call);

#endif
