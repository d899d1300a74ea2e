/* cJSON reads the body. Lengths may come in the metadata object, which gateways pass on, or in headers, which
 * they do not; the headers win. */

#include "sim/chat_request.h"

#include "server/front.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t clamp_tokens(double value) {
  return value >= 1 && value <= 1e7 ? (uint32_t)value : 0;
}

static uint32_t read_number(const cJSON *object, const char *name) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
  if (cJSON_IsNumber(item)) return clamp_tokens(item->valuedouble);
  return cJSON_IsString(item) ? clamp_tokens(strtod(item->valuestring, NULL)) : 0;
}

static void read_lengths(const struct exchange *exchange, const cJSON *root, struct chat_request *out) {
  const cJSON *metadata = cJSON_GetObjectItemCaseSensitive(root, "metadata");
  out->tokens_in = read_number(metadata, "tokens_in");
  out->tokens_out = read_number(metadata, "tokens_out");
  const char *in = exchange_header(exchange, "X-Sim-Tokens-In"),
             *answer = exchange_header(exchange, "X-Sim-Tokens-Out");
  if (in) out->tokens_in = clamp_tokens(strtod(in, NULL));
  if (answer) out->tokens_out = clamp_tokens(strtod(answer, NULL));
  out->max_tokens = read_number(root, "max_completion_tokens");
  if (!out->max_tokens) out->max_tokens = read_number(root, "max_tokens");
}

/* A message's text: its content, or the first text among its parts. */
static const char *message_text(const cJSON *message) {
  const cJSON *content = cJSON_GetObjectItemCaseSensitive(message, "content"), *part;
  if (cJSON_IsString(content)) return content->valuestring;
  cJSON_ArrayForEach(part, content) {
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(part, "text");
    if (cJSON_IsString(text)) return text->valuestring;
  }
  return NULL;
}

static int read_fields(const struct exchange *exchange, const cJSON *root, struct chat_request *out,
                       const char **error) {
  const cJSON *model = cJSON_GetObjectItemCaseSensitive(root, "model");
  const cJSON *messages = cJSON_GetObjectItemCaseSensitive(root, "messages");
  int count = cJSON_IsArray(messages) ? cJSON_GetArraySize(messages) : 0;
  const char *text = count > 0 ? message_text(cJSON_GetArrayItem(messages, count - 1)) : NULL;
  if (!cJSON_IsString(model) || !text) {
    *error = cJSON_IsString(model) ? "messages must end with a text" : "model must be a string";
    return -EINVAL;
  }
  const cJSON *options = cJSON_GetObjectItemCaseSensitive(root, "stream_options");
  out->stream = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(root, "stream"));
  out->include_usage = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(options, "include_usage"));
  snprintf(out->model, sizeof out->model, "%s", model->valuestring);
  read_lengths(exchange, root, out);
  out->prompt = strdup(text);
  if (!out->prompt) return -ENOMEM;
  out->prompt_size = strlen(text);
  return 0;
}

int chat_request_read(const struct exchange *exchange, struct chat_request *out, const char **error) {
  size_t size;
  const char *body = exchange_body(exchange, &size);
  cJSON *root = body ? cJSON_ParseWithLength(body, size) : NULL;
  memset(out, 0, sizeof *out);
  *error = "the body is not a JSON object";
  int result = cJSON_IsObject(root) ? read_fields(exchange, root, out, error) : -EINVAL;
  cJSON_Delete(root);
  return result;
}

void chat_request_free(struct chat_request *request) {
  free(request->prompt);
  request->prompt = NULL;
}
