#ifndef SIM_REPLY_READER_H
#define SIM_REPLY_READER_H

/* Reads an answer of a gateway as a client does, in pieces as they arrive: a whole answer, a stream of
 * events, or an error. Written apart from the gateway's own reader, so that the two check each other. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { REPLY_LIMIT = 8 << 20 }; /* bytes of a whole answer or of one event; beyond: broken */

struct reply {
  bool complete;                  /* a whole answer, or a stream that reached its [DONE] */
  bool broken;                    /* not JSON, or too large */
  uint32_t events;                /* with content, of a stream */
  uint32_t tokens_in, tokens_out; /* as usage says; 0: it did not */
  double usd;                     /* usage.cost; NAN: not said */
  char id[80], model[64];
  char error_type[48]; /* of an error body or frame; empty: none */
};

struct reply_reader {
  struct reply reply;
  bool stream;
  char *held; /* bytes of the event, or of the whole answer, until now */
  size_t used, capacity;
};

void reply_reader_init(struct reply_reader *reader, bool stream);
void reply_reader_free(struct reply_reader *reader);

/* status: of the HTTP answer; errors are read as whole answers. Returns how many events with content came in.
 */
uint32_t reply_reader_feed(struct reply_reader *reader, int status, const char *bytes, size_t size);

/* The body is over: reads a whole answer, and says of a stream whether it was complete. */
void reply_reader_end(struct reply_reader *reader, int status);

#endif
