/* Errors have one shape everywhere, OpenAI's: {"error":{"message","type","param","code"}}. The message says
 * what is wrong and what to do. */

#include "server/internal.h"

#include "dialect/buffer.h"
#include "dialect/openai_answer.h"
#include "sys/rng.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXTRA_HEADERS = 8 };

void server_new_id(struct server *server, char id[REPLY_ID_SIZE]) {
  snprintf(id, REPLY_ID_SIZE, "req-%016" PRIx64, mix64(server->next_id++));
}

bool reply_is_read(const struct exchange *exchange) {
  const char *method = exchange_method(exchange);
  return !strcmp(method, "GET") || !strcmp(method, "HEAD");
}

void reply_error(struct server *server, struct exchange *exchange, const struct refusal_text *r,
                 const struct front_header *headers, size_t count) {
  struct front_header all[EXTRA_HEADERS];
  char id[REPLY_ID_SIZE], seconds[16];
  size_t n = 0;
  server_new_id(server, id);
  all[n++] = (struct front_header){"X-Request-Id", id};
  if (r->retry_after_s >= 0) {
    snprintf(seconds, sizeof seconds, "%d", r->retry_after_s);
    all[n++] = (struct front_header){"Retry-After", seconds};
  }
  for (size_t i = 0; i < count && n < EXTRA_HEADERS; i++)
    all[n++] = headers[i];
  struct buffer body = {0};
  openai_error_body(&body, r->type, r->code, r->param, r->message);
  size_t size;
  char *text = buffer_take(&body, &size);
  if (text)
    exchange_reply_owned(exchange, r->status, "application/json", text, size, all, n);
  else
    exchange_abort(exchange);
}

void reply_simple(struct server *server, struct exchange *exchange, int status, const char *type,
                  const char *code, const char *message) {
  struct refusal_text refusal = {status, -1, type, code, NULL, message};
  reply_error(server, exchange, &refusal, NULL, 0);
}

void reply_json(struct server *server, struct exchange *exchange, int status, char *json) {
  if (!json) {
    reply_simple(server, exchange, 503, "overloaded_error", "out_of_memory",
                 "The daemon is short of memory. Try again later.");
    return;
  }
  char id[REPLY_ID_SIZE];
  server_new_id(server, id);
  struct front_header header = {"X-Request-Id", id};
  exchange_reply_owned(exchange, status, "application/json", json, strlen(json), &header, 1);
}

void reply_method(struct server *server, struct exchange *exchange, const char *allowed) {
  char message[160];
  snprintf(message, sizeof message, "This path does not take that method. Allowed: %s.", allowed);
  struct refusal_text refusal = {405, -1, "invalid_request_error", "method_not_allowed", NULL, message};
  struct front_header header = {"Allow", allowed};
  reply_error(server, exchange, &refusal, &header, 1);
}
