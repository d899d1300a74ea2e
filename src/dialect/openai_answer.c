#include "dialect/openai_answer.h"

#include "dialect/buffer.h"
#include "dialect/json_scan.h"

#include <errno.h>
#include <math.h>
#include <string.h>

/* A count as providers write it, sometimes as 12.0; what is no count is 0. */
static uint32_t count_of(const struct json_scan *s, int object, const char *name) {
  double number;
  if (!json_double(s, json_member(s, object, name), &number) || number < 0) return 0;
  return number >= UINT32_MAX ? UINT32_MAX : (uint32_t)number;
}

void openai_read_usage(const struct json_scan *s, int object, struct openai_usage *usage) {
  int u = json_member(s, object, "usage");
  if (json_type(s, u) != JSON_OBJECT) return;
  double cost;
  usage->known = true;
  usage->tokens_in = count_of(s, u, "prompt_tokens");
  usage->tokens_out = count_of(s, u, "completion_tokens");
  usage->tokens_cached = count_of(s, json_member(s, u, "prompt_tokens_details"), "cached_tokens");
  if (usage->tokens_cached > usage->tokens_in) usage->tokens_cached = usage->tokens_in;
  bool told = json_double(s, json_member(s, u, "cost"), &cost);
  usage->cost_usd = told && cost >= 0 && cost <= OPENAI_COST_MAX ? cost : NAN;
}

/* An error object makes it a failure whatever else is there; without choices there is no answer. */
static int read_answer(const struct json_scan *s, struct openai_answer *answer) {
  int choices = json_member(s, 0, "choices"), model = json_member(s, 0, "model");
  enum json_type error = json_type(s, json_member(s, 0, "error"));
  bool failed = error != JSON_ABSENT && error != JSON_NULL;
  if (failed || json_type(s, choices) != JSON_ARRAY || json_count(s, choices) == 0) return -EINVAL;
  *answer = (struct openai_answer){.usage.cost_usd = NAN};
  openai_read_usage(s, 0, &answer->usage);
  int content = json_member(s, json_member(s, json_first(s, choices), "message"), "content");
  if (json_type(s, content) == JSON_STRING) {
    answer->content_at = json_at(s, content);
    answer->content_size = json_size(s, content);
  }
  if (json_type(s, model) == JSON_STRING) {
    answer->model_at = json_at(s, model);
    answer->model_size = json_size(s, model);
  }
  return 0;
}

int openai_parse_answer(const char *body, size_t size, struct openai_answer *answer) {
  struct json_scan s;
  int error = json_scan(&s, body, size, JSON_DEPTH_CEILING, false);
  if (error == 0) error = read_answer(&s, answer);
  json_release(&s);
  return error == -E2BIG ? -EINVAL : error;
}

/* Places in the answer move with the id. */
static void shift(size_t *at, size_t from, size_t old_size, size_t new_size) {
  if (*at > from) *at = *at - old_size + new_size;
}

static void write_answer(const struct json_scan *s, size_t size, const char *id, struct openai_answer *answer,
                         struct buffer *out) {
  int theirs = json_member(s, 0, "id");
  size_t at = theirs >= 0 ? json_at(s, theirs) : json_at(s, 0) + 1, old_size = json_size(s, theirs);
  size_t base = out->size, before;
  buffer_reserve(out, size + strlen(id) + 8);
  buffer_append(out, s->text, at);
  before = out->size;
  buffer_text(out, theirs >= 0 ? "\"" : "\"id\":\"");
  buffer_text(out, id);
  buffer_text(out, theirs >= 0 ? "\"" : "\",");
  size_t new_size = out->size - before;
  buffer_append(out, s->text + at + old_size, size - at - old_size);
  shift(&answer->content_at, at, old_size, new_size);
  shift(&answer->model_at, at, old_size, new_size);
  if (answer->content_size) answer->content_at += base;
  if (answer->model_size) answer->model_at += base;
}

int openai_rewrite_answer(const char *body, size_t size, const char *id, struct openai_answer *answer,
                          struct buffer *out) {
  struct json_scan s;
  int error = json_scan(&s, body, size, JSON_DEPTH_CEILING, false);
  if (error == 0) error = read_answer(&s, answer);
  if (error == 0) write_answer(&s, size, id, answer, out);
  json_release(&s);
  if (error == 0 && out->failed) return -ENOMEM;
  return error == -E2BIG ? -EINVAL : error;
}

static void text_or_null(struct buffer *out, const char *name, const char *text) {
  buffer_text(out, name);
  if (text)
    json_quote(out, text, strlen(text));
  else
    buffer_text(out, "null");
}

void openai_error_body(struct buffer *out, const char *type, const char *code, const char *param,
                       const char *message) {
  text_or_null(out, "{\"error\":{\"message\":", message);
  text_or_null(out, ",\"type\":", type);
  text_or_null(out, ",\"param\":", param);
  text_or_null(out, ",\"code\":", code);
  buffer_text(out, "}}");
}
