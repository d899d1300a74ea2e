#include "server/call.h"

#include "sys/mailbox.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>

static void on_gone(struct exchange *exchange, void *owner, int64_t now_ns) {
  (void)exchange;
  (void)now_ns;
  ((struct call *)owner)->exchange = NULL;
}

struct call *call_create(struct server *server, struct exchange *exchange) {
  struct call *call = server->calls < SERVER_ERRANDS ? calloc(1, sizeof *call) : NULL;
  if (!call) {
    struct refusal_text text = {
        503,
        1,
        "overloaded_error",
        "overloaded",
        NULL,
        "Too many admin requests are under way. Try again after the time in Retry-After."};
    reply_error(server, exchange, &text, NULL, 0);
    return NULL;
  }
  server->calls++;
  call->server = server;
  call->exchange = exchange;
  call->job.inbox = server->env.inbox;
  exchange_set_owner(exchange, call);
  exchange_on_gone(exchange, on_gone);
  return call;
}

static void release(struct call *call) {
  call->server->calls--;
  cJSON_Delete(call->body);
  free(call->command.body);
  free(call->rows);
  free(call->more_rows);
  free(call);
}

void call_answer(struct call *call, int status, char *json) {
  if (call->exchange)
    reply_json(call->server, call->exchange, status, json);
  else
    free(json);
  release(call);
}

void call_refuse(struct call *call, int status, const char *code, const char *message) {
  const char *type = status >= 500 ? "overloaded_error" : "invalid_request_error";
  if (call->exchange) reply_simple(call->server, call->exchange, status, type, code, message);
  release(call);
}

void call_answer_command(struct call *call) {
  char *json = call->command.body;
  call->command.body = NULL;
  call_answer(call, call->command.status, json);
}

static void at_home(struct errand *errand, int64_t now_ns) {
  (void)now_ns;
  struct call *call = (struct call *)((char *)errand - offsetof(struct call, job.home));
  call->then(call);
}

/* On the ticker's thread. The inbox has room for every call of its shard. */
static void command_done(struct command *command) {
  struct call *call = command->ctx;
  mailbox_post(call->job.inbox, &call->job.home);
}

void call_ticker(struct call *call, enum command_kind kind, void (*then)(struct call *call)) {
  free(call->command.body);
  call->command.body = NULL;
  call->command.kind = kind;
  call->command.actor = "http";
  call->command.ctx = call;
  call->command.done = command_done;
  call->job.home.run = at_home;
  call->then = then;
  if (mailbox_post(call->server->env.commands, &call->command) < 0)
    call_refuse(call, 503, "overloaded", "The control loop has too much to do. Try again in a second.");
}

void call_clerk(struct call *call, void (*work)(struct clerk_job *, struct store_reader *),
                void (*then)(struct call *call)) {
  call->job.home.run = at_home;
  call->job.work = work;
  call->then = then;
  if (!call->server->env.clerk)
    call_refuse(call, 503, "no_database", "The daemon runs without a database, so there is no history.");
  else if (clerk_post(call->server->env.clerk, &call->job) < 0)
    call_refuse(call, 503, "overloaded", "Too many database reads are waiting. Try again in a second.");
}

void call_read(struct clerk_job *job, struct store_reader *reader) {
  struct call *call = (struct call *)((char *)job - offsetof(struct call, job));
  call->rows = store_query(reader, call->query, call->text, call->limit, &call->status);
}

bool call_has_rows(struct call *call) {
  if (call->rows) return true;
  if (call->status == -ENOENT)
    call_refuse(
        call, 404, "not_found",
        "There is no such entry. The list above this path names them; no snapshot is 'best' until one has a "
        "score of 100 requests.");
  else if (call->status == -EINVAL)
    call_refuse(
        call, 400, "invalid_value",
        "This names no single entry: give the whole id, or at least 6 characters that no other begins with.");
  else
    call_refuse(call, 503, "storage",
                "The database cannot be read now. GET /health says why; try again later.");
  return false;
}
