#ifndef DIALECT_OPENAI_H
#define DIALECT_OPENAI_H

/* Requests in the OpenAI form (POST /v1/chat/completions) and in our own short form (POST /v1/prompt), read
 * and edited in place: whatever is not named here stays as the client wrote it, digit for digit. Pure; any
 * thread. */

#include "bus/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;

/* Why a request is refused, for a 400. Strings are static, but for the message. */
struct openai_error {
  const char *type; /* "invalid_request_error" */
  const char
      *code; /* "invalid_json", "missing_field", "invalid_type", "invalid_value", "unsupported_field" */
  const char *param; /* the field, NULL when it is the body as a whole */
  char message[192]; /* what is wrong, where, what is allowed */
};

struct openai_request {
  size_t model_at,
      model_size; /* the value of "model" in the body, with its quotes; 0, 0: absent (prompt form only) */
  char model[NAME_SIZE];      /* its content; a longer name is cut and ends in "...", and so names no route */
  bool stream, include_usage; /* include_usage: of stream_options */
  size_t session_at, session_size; /* content of "user", or of the prompt form's "session"; 0, 0: absent */
  int64_t max_tokens;              /* max_completion_tokens, else max_tokens; -1: not said */
  int64_t n;                       /* choices asked for; 1 when not said */
  uint32_t tokens_in;              /* estimate: bytes of all message contents / 4, at least 1 */
};

/* Reads and checks. max_depth 0: JSON_MAX_DEPTH. 0, or -EINVAL and *error says why (-ENOMEM likewise). Fields
 * that would choose another upstream (api_base, base_url, api_key) are refused. */
int openai_parse_chat(const char *body, size_t size, unsigned max_depth, struct openai_request *request,
                      struct openai_error *error);

/* {"input": "...", optional "model", "session", "stream" and any other chat field but "messages"}. */
int openai_parse_prompt(const char *body, size_t size, unsigned max_depth, struct openai_request *request,
                        struct openai_error *error);

/* The chat request that a prompt request stands for: input becomes the one user message, session goes, the
 * rest stays. *chat is malloc'ed; model_at and model_size as above. 0, -EINVAL or -ENOMEM. */
int openai_chat_from_prompt(const char *body, size_t size, char **chat, size_t *chat_size, size_t *model_at,
                            size_t *model_size);

/* The body for a provider: the model's value replaced (or added), and with add_usage
 * stream_options.include_usage set to true. Everything else keeps its bytes. The body must have been parsed
 * before. 0, -EINVAL or -ENOMEM. */
int openai_prepare_body(const char *body, size_t size, size_t model_at, size_t model_size, const char *model,
                        bool add_usage, struct buffer *out);

#endif
