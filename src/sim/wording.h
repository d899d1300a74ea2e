#ifndef SIM_WORDING_H
#define SIM_WORDING_H

/* What a simulated provider says, in OpenAI's form: chunks of a stream, whole answers, errors. The words
 * follow from model and prompt alone, so that a second attempt says the same. Functions that fill `out`
 * return the bytes written; WORDING_EVENT bytes are always enough. */

#include <stddef.h>
#include <stdint.h>

enum { WORDING_EVENT = 640 };

struct wording {
  char id[40];
  char model[64];
  int64_t created_s; /* Unix time */
  uint64_t seed;     /* which words */
};

struct wording_usage {
  uint32_t tokens_in, tokens_out;
  double usd;
};

/* text: the prompt; number: of the call, makes the id. */
void wording_init(struct wording *w, const char *model, const char *text, size_t size, uint64_t number,
                  int64_t created_s);

size_t wording_role(const struct wording *w, char *out);
size_t wording_token(const struct wording *w, uint32_t n, char *out); /* token n, from 0 */
size_t wording_finish(const struct wording *w, const char *reason, char *out);
size_t wording_usage_event(const struct wording *w, const struct wording_usage *usage, char *out);
size_t wording_done(char *out);

/* The whole answer, malloc'ed; NULL: no memory. reason: "stop" or "length". */
char *wording_answer(const struct wording *w, const struct wording_usage *usage, const char *reason,
                     size_t *size);

/* An error body. type, code and message need no escaping. */
size_t wording_error(const char *type, const char *code, const char *message, char *out);

#endif
