/* One token is one word of a short list; which one is a hash of seed and position. */

#include "sim/wording.h"

#include "sys/rng.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const words[] = {
    "the",   "a",     "river", "light", "of",    "to",    "carries", "small", "stone",  "and",   "over",
    "under", "model", "reads", "word",  "after", "quiet", "because", "there", "answer", "is",    "first",
    "then",  "its",   "own",   "path",  "which", "turns", "back",    "into",  "north",  "again",
};

static const char *word(const struct wording *w, uint32_t n) {
  return words[mix64(w->seed + n) % (sizeof words / sizeof *words)];
}

void wording_init(struct wording *w, const char *model, const char *text, size_t size, uint64_t number,
                  int64_t created_s) {
  w->seed = hash_bytes(text, size, hash_bytes(model, strlen(model), 0));
  snprintf(w->id, sizeof w->id, "chatcmpl-sim%016" PRIx64, mix64(w->seed ^ number));
  snprintf(w->model, sizeof w->model, "%s", model);
  w->created_s = created_s;
}

static size_t chunk(const struct wording *w, const char *delta, const char *reason, char *out) {
  char quoted[32];
  snprintf(quoted, sizeof quoted, reason ? "\"%s\"" : "null", reason);
  return (size_t)snprintf(
      out, WORDING_EVENT,
      "data: {\"id\":\"%s\",\"object\":\"chat.completion.chunk\",\"created\":%" PRId64
      ",\"model\":\"%s\",\"choices\":[{\"index\":0,\"delta\":{%s},\"finish_reason\":%s}]}\n\n",
      w->id, w->created_s, w->model, delta, quoted);
}

size_t wording_role(const struct wording *w, char *out) {
  return chunk(w, "\"role\":\"assistant\",\"content\":\"\"", NULL, out);
}

size_t wording_token(const struct wording *w, uint32_t n, char *out) {
  char delta[64];
  snprintf(delta, sizeof delta, "\"content\":\"%s%s\"", n ? " " : "", word(w, n));
  return chunk(w, delta, NULL, out);
}

size_t wording_finish(const struct wording *w, const char *reason, char *out) {
  return chunk(w, "", reason, out);
}

static int print_usage(const struct wording_usage *usage, char *out, size_t size) {
  return snprintf(out, size,
                  "{\"prompt_tokens\":%u,\"completion_tokens\":%u,\"total_tokens\":%u,\"cost\":%.9f}",
                  usage->tokens_in, usage->tokens_out, usage->tokens_in + usage->tokens_out, usage->usd);
}

size_t wording_usage_event(const struct wording *w, const struct wording_usage *usage, char *out) {
  char text[160];
  print_usage(usage, text, sizeof text);
  return (size_t)snprintf(out, WORDING_EVENT,
                          "data: {\"id\":\"%s\",\"object\":\"chat.completion.chunk\",\"created\":%" PRId64
                          ",\"model\":\"%s\",\"choices\":[],\"usage\":%s}\n\n",
                          w->id, w->created_s, w->model, text);
}

size_t wording_done(char *out) {
  return (size_t)snprintf(out, WORDING_EVENT, "data: [DONE]\n\n");
}

char *wording_answer(const struct wording *w, const struct wording_usage *usage, const char *reason,
                     size_t *size) {
  char text[160], *out = NULL;
  print_usage(usage, text, sizeof text);
  FILE *file = open_memstream(&out, size);
  if (!file) return NULL;
  fprintf(file,
          "{\"id\":\"%s\",\"object\":\"chat.completion\",\"created\":%" PRId64
          ",\"model\":\"%s\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"",
          w->id, w->created_s, w->model);
  for (uint32_t n = 0; n < usage->tokens_out; n++)
    fprintf(file, "%s%s", n ? " " : "", word(w, n));
  fprintf(file, "\"},\"finish_reason\":\"%s\"}],\"usage\":%s}", reason, text);
  if (fclose(file) == 0) return out;
  free(out);
  return NULL;
}

size_t wording_error(const char *type, const char *code, const char *message, char *out) {
  return (size_t)snprintf(out, WORDING_EVENT,
                          "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,\"code\":\"%s\"}}",
                          message, type, code);
}
