/* One scan a request. The body is walked once, member by member, through a table of the fields that matter;
 * what no row names is nobody's business here. */

#include "dialect/openai.h"

#include "dialect/buffer.h"
#include "dialect/json_scan.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BYTES_A_TOKEN = 4, MOST_CHOICES = 128 };

struct reading {
  const struct json_scan *s;
  struct openai_request *out;
  struct openai_error *error;
  bool prompt; /* the short form */
  int model, messages, input, stream_options;
};

static int refuse(struct openai_error *e, int error, const char *code, const char *param, const char *format,
                  ...) __attribute__((format(printf, 5, 6)));

static int refuse(struct openai_error *e, int error, const char *code, const char *param, const char *format,
                  ...) {
  va_list arguments;
  e->type = "invalid_request_error";
  e->code = code;
  e->param = param;
  va_start(arguments, format);
  vsnprintf(e->message, sizeof e->message, format, arguments);
  va_end(arguments);
  return error;
}

static int wrong_type(struct reading *r, const char *param, const char *wanted) {
  return refuse(r->error, -EINVAL, "invalid_type", param, "'%s' must be %s.", param, wanted);
}

static bool is_null(const struct reading *r, int value) {
  return json_type(r->s, value) == JSON_NULL;
}

/* ---- one reader a field; each gets the value of a member that is there ---- */

static int read_model(struct reading *r, int value, const char *name) {
  struct openai_request *out = r->out;
  if (json_text_empty(r->s, value)) return wrong_type(r, name, "a string that is not empty");
  r->model = value;
  out->model_at = json_at(r->s, value);
  out->model_size = json_size(r->s, value);
  char full[NAME_SIZE + 4];
  if (json_copy(r->s, value, full, sizeof full) < NAME_SIZE) {
    strcpy(out->model, full);
  } else {
    json_copy(r->s, value, out->model, NAME_SIZE - 3);
    strcat(out->model, "...");
  }
  return 0;
}

static int read_stream(struct reading *r, int value, const char *name) {
  if (is_null(r, value) || json_bool(r->s, value, &r->out->stream)) return 0;
  return wrong_type(r, name, "true or false");
}

static int read_stream_options(struct reading *r, int value, const char *name) {
  if (is_null(r, value)) return 0;
  if (json_type(r->s, value) != JSON_OBJECT) return wrong_type(r, name, "an object");
  int usage = json_member(r->s, value, "include_usage");
  if (usage < 0 || is_null(r, usage) || json_bool(r->s, usage, &r->out->include_usage)) return 0;
  return wrong_type(r, "stream_options.include_usage", "true or false");
}

static int read_session(struct reading *r, int value, const char *name) {
  if (is_null(r, value)) return 0;
  if (json_type(r->s, value) != JSON_STRING) return wrong_type(r, name, "a string");
  if (r->prompt && strcmp(name, "user") == 0 && r->out->session_size > 0) return 0;
  r->out->session_at = json_at(r->s, value) + 1;
  r->out->session_size = json_size(r->s, value) - 2;
  return 0;
}

/* The newer name wins, in whatever order they come. */
static int read_max_tokens(struct reading *r, int value, const char *name) {
  bool older = strcmp(name, "max_tokens") == 0;
  int64_t number;
  if (is_null(r, value)) return 0;
  if (!json_integer(r->s, value, &number) || number < 1)
    return wrong_type(r, name, "an integer of at least 1");
  if (!older || r->out->max_tokens < 0) r->out->max_tokens = number;
  return 0;
}

static int read_n(struct reading *r, int value, const char *name) {
  int64_t number;
  if (is_null(r, value)) return 0;
  if (!json_integer(r->s, value, &number) || number < 1 || number > MOST_CHOICES)
    return wrong_type(r, name, "an integer from 1 to 128");
  r->out->n = number;
  return 0;
}

static int read_number(struct reading *r, int value, const char *name) {
  enum json_type type = json_type(r->s, value);
  return type == JSON_NUMBER || type == JSON_NULL ? 0 : wrong_type(r, name, "a number");
}

static int read_messages(struct reading *r, int value, const char *name) {
  if (r->prompt)
    return refuse(r->error, -EINVAL, "unsupported_field", name,
                  "'messages' does not go with /v1/prompt. Use 'input' here, or /v1/chat/completions.");
  r->messages = value;
  return 0;
}

static int read_input(struct reading *r, int value, const char *name) {
  if (!r->prompt) return 0;
  if (json_text_empty(r->s, value)) return wrong_type(r, name, "a string that is not empty");
  r->input = value;
  r->out->tokens_in = (uint32_t)((json_size(r->s, value) - 2) / BYTES_A_TOKEN);
  return 0;
}

/* Who could choose the upstream would be sent the provider's key. */
static int read_forbidden(struct reading *r, int value, const char *name) {
  (void)value;
  return refuse(r->error, -EINVAL, "unsupported_field", name,
                "'%s' is not taken from requests: providers are configured in the daemon. Remove the field.",
                name);
}

static int read_nested(struct reading *r, int value, const char *name) {
  static const char *const forbidden[] = {"api_base", "base_url", "api_key"};
  (void)name;
  for (size_t i = 0; i < sizeof forbidden / sizeof forbidden[0]; i++)
    if (json_member(r->s, value, forbidden[i]) >= 0) return read_forbidden(r, value, forbidden[i]);
  return 0;
}

static const struct field {
  const char *name;
  int (*read)(struct reading *r, int value, const char *name);
} fields[] = {
    {"model", read_model},
    {"messages", read_messages},
    {"stream", read_stream},
    {"stream_options", read_stream_options},
    {"input", read_input},
    {"session", read_session},
    {"user", read_session},
    {"max_tokens", read_max_tokens},
    {"max_completion_tokens", read_max_tokens},
    {"n", read_n},
    {"temperature", read_number},
    {"top_p", read_number},
    {"presence_penalty", read_number},
    {"frequency_penalty", read_number},
    {"api_base", read_forbidden},
    {"base_url", read_forbidden},
    {"api_key", read_forbidden},
    {"extra_body", read_nested},
    {"metadata", read_nested},
};

static int read_member(struct reading *r, int key) {
  for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
    if (!json_key_is(r->s, key, fields[i].name)) continue;
    if (fields[i].read == read_session && !r->prompt && strcmp(fields[i].name, "session") == 0) return 0;
    return fields[i].read(r, json_value_of(r->s, key), fields[i].name);
  }
  return 0;
}

/* ---- messages ---- */

/* Bytes that a model will read: of a text the text, of anything else what stands there. */
static size_t content_bytes(const struct json_scan *s, int message) {
  size_t size = json_size(s, json_member(s, message, "content"));
  return size + json_size(s, json_member(s, message, "tool_calls"));
}

static int read_message(struct reading *r, int message, unsigned number, size_t *bytes) {
  if (json_type(r->s, message) != JSON_OBJECT)
    return refuse(r->error, -EINVAL, "invalid_type", "messages", "'messages[%u]' must be an object.", number);
  if (json_text_empty(r->s, json_member(r->s, message, "role")))
    return refuse(r->error, -EINVAL, "missing_field", "messages",
                  "'messages[%u].role' must be a string such as \"user\".", number);
  enum json_type content = json_type(r->s, json_member(r->s, message, "content"));
  if (content != JSON_STRING && content != JSON_ARRAY && content != JSON_NULL && content != JSON_ABSENT)
    return refuse(r->error, -EINVAL, "invalid_type", "messages",
                  "'messages[%u].content' must be a string, an array of parts or null.", number);
  *bytes += content_bytes(r->s, message);
  return 0;
}

static int check_messages(struct reading *r) {
  size_t bytes = 0;
  unsigned number = 0;
  if (r->messages < 0)
    return refuse(r->error, -EINVAL, "missing_field", "messages",
                  "'messages' is missing: an array of messages.");
  if (json_count(r->s, r->messages) == 0 || json_type(r->s, r->messages) != JSON_ARRAY)
    return wrong_type(r, "messages", "an array with at least one message");
  for (int m = json_first(r->s, r->messages); m >= 0; m = json_next(r->s, r->messages, m)) {
    int error = read_message(r, m, number++, &bytes);
    if (error < 0) return error;
  }
  r->out->tokens_in = (uint32_t)(bytes / BYTES_A_TOKEN);
  return 0;
}

/* ---- the whole ---- */

static int check_whole(struct reading *r) {
  if (r->prompt && r->input < 0)
    return refuse(r->error, -EINVAL, "missing_field", "input", "'input' is missing: the prompt, a string.");
  if (!r->prompt && r->model < 0)
    return refuse(r->error, -EINVAL, "missing_field", "model",
                  "'model' is missing: the name of a route or of a model. GET /v1/models lists them.");
  int error = r->prompt ? 0 : check_messages(r);
  if (error == 0 && r->out->tokens_in == 0) r->out->tokens_in = 1;
  return error;
}

static int scan_error(const struct json_scan *s, int error, struct openai_error *out) {
  if (error == -ENOMEM) {
    refuse(out, error, "out_of_memory", NULL, "The daemon is out of memory. Try again later.");
    out->type = "overloaded_error";
    return error;
  }
  return refuse(out, -EINVAL, "invalid_json", NULL,
                "The body is not a JSON object that can be served: %s (byte %zu).", s->why, s->why_at);
}

static int parse(const char *body, size_t size, unsigned max_depth, bool prompt,
                 struct openai_request *request, struct openai_error *error) {
  struct json_scan s;
  struct openai_request out = {.max_tokens = -1, .n = 1};
  int result = json_scan(&s, body, size, max_depth, true);
  if (result < 0) {
    result = scan_error(&s, result, error);
  } else {
    struct reading r = {
        .s = &s, .out = &out, .error = error, .prompt = prompt, .model = -1, .messages = -1, .input = -1};
    for (int key = json_first(&s, 0); key >= 0 && result == 0; key = json_next(&s, 0, key))
      result = read_member(&r, key);
    if (result == 0) result = check_whole(&r);
    if (result == 0) *request = out;
  }
  json_release(&s);
  return result;
}

int openai_parse_chat(const char *body, size_t size, unsigned max_depth, struct openai_request *request,
                      struct openai_error *error) {
  return parse(body, size, max_depth, false, request, error);
}

int openai_parse_prompt(const char *body, size_t size, unsigned max_depth, struct openai_request *request,
                        struct openai_error *error) {
  return parse(body, size, max_depth, true, request, error);
}

/* ---- editing ---- */

/* {"messages":[{"role":"user","content":INPUT}], and the other members as they stand } */
static void build_chat(const struct json_scan *s, struct buffer *out, size_t *model_at, size_t *model_size) {
  static const char head[] = "{\"messages\":[{\"role\":\"user\",\"content\":";
  int input = json_member(s, 0, "input");
  buffer_text(out, head);
  buffer_append(out, s->text + json_at(s, input), json_size(s, input));
  buffer_text(out, "}]");
  for (int key = json_first(s, 0); key >= 0; key = json_next(s, 0, key)) {
    int value = json_value_of(s, key);
    if (json_key_is(s, key, "input") || json_key_is(s, key, "session")) continue;
    buffer_text(out, ",");
    buffer_append(out, s->text + json_at(s, key), json_size(s, key));
    buffer_text(out, ":");
    if (json_key_is(s, key, "model")) {
      *model_at = out->size;
      *model_size = json_size(s, value);
    }
    buffer_append(out, s->text + json_at(s, value), json_size(s, value));
  }
  buffer_text(out, "}");
}

int openai_chat_from_prompt(const char *body, size_t size, char **chat, size_t *chat_size, size_t *model_at,
                            size_t *model_size) {
  struct json_scan s;
  struct buffer out = {0};
  size_t at = 0, model = 0;
  int error = json_scan(&s, body, size, JSON_DEPTH_CEILING, true);
  if (error == 0 && json_type(&s, json_member(&s, 0, "input")) != JSON_STRING) error = -EINVAL;
  if (error == 0) build_chat(&s, &out, &at, &model);
  json_release(&s);
  if (error < 0) return error == -E2BIG ? -EINVAL : error;
  char *text = buffer_take(&out, chat_size);
  if (!text) return -ENOMEM;
  *chat = text;
  *model_at = at;
  *model_size = model;
  return 0;
}

/* One replacement: size bytes at `at` become the text. */
struct edit {
  size_t at, size;
  const char *text;
};

static void apply(const char *body, size_t size, const struct edit *edits, unsigned count,
                  struct buffer *out) {
  size_t done = 0;
  for (unsigned i = 0; i < count; i++) {
    buffer_append(out, body + done, edits[i].at - done);
    buffer_text(out, edits[i].text);
    done = edits[i].at + edits[i].size;
  }
  buffer_append(out, body + done, size - done);
}

/* The edit that makes stream_options ask for usage: into the object that is there, in place of another value,
 * or as a new member behind the opening brace. Most bodies do not name it, and are not scanned again; an
 * escape could hide it. */
static int usage_edit(const char *body, size_t size, size_t brace, struct edit *edit) {
  *edit = (struct edit){brace + 1, 0, "\"stream_options\":{\"include_usage\":true},"};
  if (!memmem(body, size, "stream_options", 14) && !memmem(body, size, "\\u", 2)) return 0;
  struct json_scan s;
  int error = json_scan(&s, body, size, JSON_DEPTH_CEILING, false),
      options = json_member(&s, 0, "stream_options");
  int usage = json_member(&s, options, "include_usage");
  if (error == 0 && usage >= 0)
    *edit = (struct edit){json_at(&s, usage), json_size(&s, usage), "true"};
  else if (error == 0 && json_count(&s, options) > 0)
    *edit = (struct edit){json_at(&s, options) + 1, 0, "\"include_usage\":true,"};
  else if (error == 0 && options >= 0)
    *edit = (struct edit){json_at(&s, options), json_size(&s, options), "{\"include_usage\":true}"};
  json_release(&s);
  return error == -E2BIG ? -EINVAL : error;
}

int openai_prepare_body(const char *body, size_t size, size_t model_at, size_t model_size, const char *model,
                        bool add_usage, struct buffer *out) {
  struct edit edits[2], *usage = &edits[1];
  struct buffer name = {0};
  const char *brace = memchr(body, '{', size);
  if (!brace || model_at + model_size > size) return -EINVAL;
  size_t start = (size_t)(brace - body);
  if (model_size == 0) buffer_text(&name, "\"model\":");
  json_quote(&name, model, strlen(model));
  if (model_size == 0) buffer_text(&name, ",");
  buffer_append(&name, "", 1);
  unsigned count = 1;
  int error = name.failed ? -ENOMEM : 0;
  edits[0] = (struct edit){model_size ? model_at : start + 1, model_size, name.bytes};
  if (error == 0 && add_usage) {
    error = usage_edit(body, size, start, usage);
    count = 2;
    if (usage->at < edits[0].at) {
      struct edit first = *usage;
      *usage = edits[0];
      edits[0] = first;
    }
  }
  if (error == 0) apply(body, size, edits, count, out);
  if (error == 0 && out->failed) error = -ENOMEM;
  buffer_free(&name);
  return error;
}
