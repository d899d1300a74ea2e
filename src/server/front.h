#ifndef SERVER_FRONT_H
#define SERVER_FRONT_H

/* An HTTP/1.1 front on one event loop, over libmicrohttpd (RFC 9110, 9112). The handler is called once for
 * each whole request and answers at once or later, in one piece or as a stream. Everything runs on the loop's
 * thread.
 *
 * What the front settles itself, without calling the handler: ambiguous framing (400, RFC 9112 section 6.3),
 * bodies past the limit (413) or for which there is no memory (503), headers or bodies that do not arrive in
 * time (the connection is closed). A connection is closed after a chunked request, and after any answer of
 * the front's own. */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct evloop;
struct exchange;
struct front;

enum { FRONT_ID_SIZE = 32 };

struct front_settings {
  const char *host;          /* numeric IPv4 or IPv6 address */
  uint16_t port;             /* 0: any free one */
  bool reuse_port;           /* several fronts share the port: see front_claim */
  size_t body_limit;         /* bytes of one request's body */
  unsigned max_connections;  /* accepted at once; more wait in the kernel's queue */
  int64_t header_timeout_ns; /* from the connection, or a request's first line, to the end of its headers */
  int64_t body_timeout_ns;   /* from the end of the headers to the end of the body, however it drips */
  int64_t idle_timeout_ns;   /* between two requests */
  int64_t write_timeout_ns;  /* without progress (of a whole answer: little) while it waits for its reader */
  /* Bodies that arrive and whole answers that are being sent are added to it; NULL: to nothing. */
  _Atomic int64_t *held;
  bool (*has_room)(void *ctx, size_t more); /* for a body that arrives; NULL: always */
  /* The front refuses a request: writes the id that the answer bears; NULL: it bears none. */
  void (*refuses)(void *ctx, const char *path, int status, char id[FRONT_ID_SIZE]);
};

struct front_header {
  const char *name, *value;
};

/* A whole request has arrived. The exchange belongs to the handler until it calls exchange_reply,
 * exchange_end or exchange_abort, or until its gone callback is called; none of these need happen inside the
 * call. */
typedef void front_handler(void *ctx, struct exchange *exchange, int64_t now_ns);

/* Binds and listens. NULL: error then says what failed and what to do. The loop must outlive the front, and
 * does not run again after front_destroy. */
struct front *front_create(struct evloop *loop, const struct front_settings *settings, front_handler *handler,
                           void *ctx, char *error, size_t error_size);

uint16_t front_port(const struct front *front);

/* Exchanges that still belong to the handler or whose answer is being sent; once it is closing, also
 * connections whose request is still coming, and the listening socket while it is not closed. */
unsigned front_open(const struct front *front);

/* Lets nobody else knock, and closes the listening socket when all who wait there are in; closes each
 * connection after its present answer, idle ones at once. */
void front_stop_accepting(struct front *front);

/* Every exchange that is still open is aborted without a gone callback, every connection closed. */
void front_destroy(struct front *front);

/* Binds once without SO_REUSEPORT and releases the port: 0 when nobody else holds it, else -errno. Before the
 * shards bind: with SO_REUSEPORT a second daemon would take part of the traffic in silence. */
int front_claim(const char *host, uint16_t port);

/* Raises the soft limit of descriptors to what `connections` need, as far as the hard limit goes. Returns how
 * many connections the limit then allows. */
unsigned front_raise_descriptors(unsigned connections);

/* The request. Strings live as long as the exchange. */
const char *exchange_method(const struct exchange *exchange);
const char *exchange_path(const struct exchange *exchange); /* percent-decoded */
const char *exchange_header(const struct exchange *exchange,
                            const char *name); /* the first one; NULL: none */
const char *exchange_query(const struct exchange *exchange,
                           const char *name);                             /* a query argument; NULL: none */
const char *exchange_body(const struct exchange *exchange, size_t *size); /* NUL follows the last byte */
char *exchange_take_body(struct exchange *exchange,
                         size_t *size); /* malloc'ed, now the caller's; NULL when empty */

/* For the handler's own state. */
void exchange_set_owner(struct exchange *exchange, void *owner);
void *exchange_owner(const struct exchange *exchange);

/* Called when the client has left before the answer was complete, once, from the event loop; a FIN after the
 * whole request counts as leaving. The exchange is not to be touched after the callback returns. */
void exchange_on_gone(struct exchange *exchange,
                      void (*gone)(struct exchange *exchange, void *owner, int64_t now_ns));

/* The whole answer. Body and headers are copied; headers end with count. HEAD gets no body. */
void exchange_reply(struct exchange *exchange, int status, const char *content_type, const void *body,
                    size_t size, const struct front_header *headers, size_t count);

/* As exchange_reply, and the malloc'ed body is taken over. */
void exchange_reply_owned(struct exchange *exchange, int status, const char *content_type, char *body,
                          size_t size, const struct front_header *headers, size_t count);

/* A streamed answer: begin, any number of writes, then end (clean) or abort (the client sees a cut stream).
 * Status line and headers leave together with the first bytes. exchange_write copies and returns the bytes
 * that the client has not read yet; the caller bounds them. */
void exchange_begin(struct exchange *exchange, int status, const char *content_type,
                    const struct front_header *headers, size_t count);
size_t exchange_write(struct exchange *exchange, const void *bytes, size_t size);
void exchange_end(struct exchange *exchange);

/* Closes the connection; before exchange_begin without any answer. */
void exchange_abort(struct exchange *exchange);

#endif
