#ifndef SERVER_INTERNAL_H
#define SERVER_INTERNAL_H

/* What the parts of one server share: server.c (settings, dispatch, health), api.c (model endpoints),
 * admin*.c
 * (/api/v1), metrics.c, reply.c. */

#include "server/server.h"

struct server {
  struct server_env env;
  struct front *front;
  uint64_t next_id; /* of answers that have no request behind them */
  unsigned calls;   /* admin calls at the ticker or the clerk */
};

enum { REPLY_ID_SIZE = 24 };

/* A fresh id for X-Request-Id where no request was admitted. */
void server_new_id(struct server *server, char id[REPLY_ID_SIZE]);

/* Is the client's key known? With no keys configured everyone is tenant 0. False: 401 has been sent. */
bool server_authorise(struct server *server, struct exchange *exchange, uint64_t *tenant);

/* reply.c: errors in the one shape that all endpoints use. code, param may be NULL. retry_after_s -1: none.
 */
struct refusal_text {
  int status, retry_after_s;
  const char *type, *code, *param, *message;
};

void reply_error(struct server *server, struct exchange *exchange, const struct refusal_text *refusal,
                 const struct front_header *headers, size_t count);
void reply_simple(struct server *server, struct exchange *exchange, int status, const char *type,
                  const char *code, const char *message);

/* json: malloc'ed, taken over; NULL: out of memory, answered as such. */
void reply_json(struct server *server, struct exchange *exchange, int status, char *json);

/* 405 with the methods that are allowed, such as "GET, HEAD". */
void reply_method(struct server *server, struct exchange *exchange, const char *allowed);

/* True for GET and HEAD. */
bool reply_is_read(const struct exchange *exchange);

void api_handle(struct server *server, struct exchange *exchange, int64_t now_ns);
/* The front has refused a request for that path. limited: for want of memory. */
void api_refused(struct server *server, const char *path, bool limited);
void admin_handle(struct server *server, struct exchange *exchange, int64_t now_ns);

/* Prometheus text, malloc'ed; NULL: out of memory. */
char *metrics_text(const struct server_env *env, size_t *size);

#endif
