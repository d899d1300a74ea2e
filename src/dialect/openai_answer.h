#ifndef DIALECT_OPENAI_ANSWER_H
#define DIALECT_OPENAI_ANSWER_H

/* Answers and errors in the OpenAI form. Pure; any thread. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct json_scan;

/* Dollars that an answer may claim to cost. More is no cost, but would stay in sums for ever. */
#define OPENAI_COST_MAX 10000.0

struct openai_usage {
  bool known;
  uint32_t tokens_in, tokens_cached, tokens_out; /* cached ones are part of tokens_in */
  double cost_usd;                               /* usage.cost; NAN when not said, or past OPENAI_COST_MAX */
};

struct openai_answer {
  struct openai_usage usage;
  size_t content_at, content_size; /* choices[0].message.content with its quotes; 0, 0: not a string */
  size_t model_at, model_size;     /* with quotes; 0, 0: absent */
};

/* A whole answer. 0; -EINVAL: not a chat completion (no JSON object, no choices, an error object); -ENOMEM.
 */
int openai_parse_answer(const char *body, size_t size, struct openai_answer *answer);

/* As openai_parse_answer, and appends the answer with our id in place of the provider's; all other bytes
 * stay. */
int openai_rewrite_answer(const char *body, size_t size, const char *id, struct openai_answer *answer,
                          struct buffer *out);

/* Reads an object's "usage" member, when there is one. */
void openai_read_usage(const struct json_scan *s, int object, struct openai_usage *usage);

/* {"error":{"message":...,"type":...,"param":...,"code":...}}; param and code may be NULL. */
void openai_error_body(struct buffer *out, const char *type, const char *code, const char *param,
                       const char *message);

#endif
