/* Bytes are kept until an event is whole (an empty line ends it) or the
 * body is over; each piece of JSON goes through cJSON. */

#include "sim/reply_reader.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void reply_reader_init(struct reply_reader *reader, bool stream) {
  memset(reader, 0, sizeof *reader);
  reader->stream = stream;
  reader->reply.usd = NAN;
}

void reply_reader_free(struct reply_reader *reader) {
  free(reader->held);
  reader->held = NULL;
}

static void copy_string(const cJSON *object, const char *key, char *out, size_t size) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
  if (cJSON_IsString(item) && item->valuestring[0]) snprintf(out, size, "%s", item->valuestring);
}

static uint32_t token_count(const cJSON *usage, const char *key) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(usage, key);
  return cJSON_IsNumber(item) && item->valuedouble > 0 ? (uint32_t)item->valuedouble : 0;
}

static void read_usage(struct reply *reply, const cJSON *root) {
  const cJSON *usage = cJSON_GetObjectItemCaseSensitive(root, "usage");
  if (!cJSON_IsObject(usage)) return;
  reply->tokens_in = token_count(usage, "prompt_tokens");
  reply->tokens_out = token_count(usage, "completion_tokens");
  const cJSON *cost = cJSON_GetObjectItemCaseSensitive(usage, "cost");
  if (cJSON_IsNumber(cost)) reply->usd = cost->valuedouble;
}

static void read_error(struct reply *reply, const cJSON *root) {
  const cJSON *error = cJSON_GetObjectItemCaseSensitive(root, "error");
  if (!cJSON_IsObject(error)) return;
  snprintf(reply->error_type, sizeof reply->error_type, "error");
  copy_string(error, "type", reply->error_type, sizeof reply->error_type);
}

/* The text of the first choice, NULL when there is none. part: "message" or "delta". */
static const char *content_of(const cJSON *root, const char *part) {
  const cJSON *choices = cJSON_GetObjectItemCaseSensitive(root, "choices");
  const cJSON *message = cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(choices, 0), part);
  const cJSON *content = cJSON_GetObjectItemCaseSensitive(message, "content");
  return cJSON_IsString(content) && content->valuestring[0] ? content->valuestring : NULL;
}

static bool read_json(struct reply *reply, const char *text, size_t size, const char *part) {
  cJSON *root = cJSON_ParseWithLength(text, size);
  bool content = false;
  if (cJSON_IsObject(root)) {
    copy_string(root, "id", reply->id, sizeof reply->id);
    copy_string(root, "model", reply->model, sizeof reply->model);
    read_usage(reply, root);
    read_error(reply, root);
    content = content_of(root, part) != NULL;
  } else {
    reply->broken = true;
  }
  cJSON_Delete(root);
  return content;
}

static bool keep(struct reply_reader *reader, const char *bytes, size_t size) {
  if (reader->used + size > REPLY_LIMIT) {
    reader->reply.broken = true;
    return false;
  }
  if (reader->used + size > reader->capacity) {
    size_t capacity = 2 * (reader->used + size);
    char *longer = realloc(reader->held, capacity);
    if (!longer) {
      reader->reply.broken = true;
      return false;
    }
    reader->held = longer;
    reader->capacity = capacity;
  }
  memcpy(reader->held + reader->used, bytes, size);
  reader->used += size;
  return true;
}

/* One event. Returns whether it had content. */
static bool read_event(struct reply *reply, const char *event, size_t size) {
  if (size < 6 || memcmp(event, "data: ", 6) != 0) return false; /* comments and other fields */
  if (size == 12 && memcmp(event + 6, "[DONE]", 6) == 0) {
    reply->complete = true;
    return false;
  }
  return read_json(reply, event + 6, size - 6, "delta");
}

uint32_t reply_reader_feed(struct reply_reader *reader, int status, const char *bytes, size_t size) {
  if (size == 0 || reader->reply.broken || !keep(reader, bytes, size)) return 0;
  if (!reader->stream || status != 200) return 0;
  uint32_t before = reader->reply.events;
  size_t at = 0;
  for (;;) {
    const char *end = memmem(reader->held + at, reader->used - at, "\n\n", 2);
    if (!end) break;
    size_t length = (size_t)(end - reader->held) - at;
    if (read_event(&reader->reply, reader->held + at, length)) reader->reply.events++;
    at += length + 2;
  }
  memmove(reader->held, reader->held + at, reader->used - at);
  reader->used -= at;
  return reader->reply.events - before;
}

void reply_reader_end(struct reply_reader *reader, int status) {
  struct reply *reply = &reader->reply;
  if (!reader->stream || status != 200) {
    if (reader->used > 0 && !reply->broken)
      reply->complete = read_json(reply, reader->held, reader->used, "message");
    reply->complete = reply->complete && status == 200;
  }
  if (reply->error_type[0] || reply->broken) reply->complete = false;
}
