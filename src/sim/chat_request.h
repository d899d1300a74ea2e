#ifndef SIM_CHAT_REQUEST_H
#define SIM_CHAT_REQUEST_H

/* What the simulated provider needs of an OpenAI chat request. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct exchange;

struct chat_request {
  char model[64];
  bool stream, include_usage;
  uint32_t tokens_in, tokens_out; /* 0: not said */
  uint32_t max_tokens;            /* 0: not said */
  char *prompt;                   /* the last message's text; malloc'ed */
  size_t prompt_size;
};

/* Reads body and headers. 0, or -EINVAL: error then says what is wrong; -ENOMEM. After 0 free with
 * chat_request_free. */
int chat_request_read(const struct exchange *exchange, struct chat_request *out, const char **error);
void chat_request_free(struct chat_request *request);

#endif
