/* Feeds broken variants of good texts to whatever reads what strangers send. The same seed gives the same
 * run:
 *
 *   fuzz_dialect [iterations] [seed]
 *
 * Besides not crashing (build it with sanitizers), it must hold that:
 *   - what the scan takes is UTF-8, and a chunk or body made from it is taken again, on one line;
 *   - events do not depend on how their bytes were cut;
 *   - a refused request says why. */

#include "dialect/buffer.h"
#include "dialect/json_scan.h"
#include "dialect/openai.h"
#include "dialect/openai_answer.h"
#include "dialect/openai_stream.h"
#include "dialect/retry_after.h"
#include "dialect/sse.h"
#include "dialect/utf8.h"
#include "sys/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_MAX = 2048, DEFAULT_ITERATIONS = 20000 };

static const char *const json_seeds[] = {
    "{\"id\":\"x\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hel\\u00e9\"},\"finish_reason\":null}],"
    "\"usage\":null}",
    "{\"id\":1,\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c1\"},{\"id\":"
    "\"c2\"}]}}]}",
    "{\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":5,\"cost\":0.1},\"choices\":[]}",
    "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"stream\":true,\"stream_"
    "options\":{}}",
    "{\"input\":\"say \\\"hi\\\"\",\"model\":\"auto\",\"session\":\"s\",\"max_tokens\":5}",
    "{\"error\":{\"message\":\"no\",\"type\":\"t\"}}",
    "{\"id\":\"a\",\"choices\":[{\"message\":{\"role\":\"assistant\",\"content\":\"\xF0\x9F\x98\x80\"}}],"
    "\"model\":\"z\"}",
};

static const char *const sse_seeds[] = {
    "data: {\"a\":1}\n\ndata: [DONE]\n\n",
    ": comment\r\nid: 4\r\nevent: e\r\ndata: x\r\n\r\n",
    "data: a\rdata: b\r\rdata:c\n\n",
};

static const char *const pieces[] = {"\"",
                                     "{",
                                     "}",
                                     "[",
                                     "]",
                                     ",",
                                     ":",
                                     "\\",
                                     "\\u",
                                     "\\ud800",
                                     "\n",
                                     "\r",
                                     "data:",
                                     "null",
                                     "1e9",
                                     "\"index\":0,",
                                     "\"usage\":{},",
                                     "\xF0\x9F",
                                     "\xC3\x28",
                                     "\"id\":\"\","};

static void broken(const char *what, const char *text, size_t size) {
  fprintf(stderr, "fuzz_dialect: %s:\n%.*s\n", what, (int)size, text);
  exit(1);
}

/* ---- mutations ---- */

static size_t insert(char *text, size_t size, size_t at, const char *bytes, size_t n) {
  if (size + n > TEXT_MAX) return size;
  memmove(text + at + n, text + at, size - at);
  memcpy(text + at, bytes, n);
  return size + n;
}

static size_t mutate(struct rng *r, char *text, size_t size) {
  size_t at = (size_t)rng_below(r, size + 1), n = (size_t)rng_below(r, 12);
  const char *piece = pieces[rng_below(r, sizeof pieces / sizeof pieces[0])];
  switch (rng_below(r, 5)) {
  case 0:
    if (at < size) text[at] = (char)rng_below(r, 256);
    return size;
  case 1:
    if (n > size - at) n = size - at;
    memmove(text + at, text + at + n, size - at - n);
    return size - n;
  case 2:
    return insert(text, size, at, piece, strlen(piece));
  case 3:
    if (n > size - at) n = size - at;
    char copy[16];
    memcpy(copy, text + at, n);
    return insert(text, size, (size_t)rng_below(r, size + 1), copy, n);
  default:
    return at > size / 2 ? at : size;
  }
}

static size_t variant(struct rng *r, const char *seed, char *text) {
  size_t size = strlen(seed);
  memcpy(text, seed, size);
  for (uint64_t n = rng_below(r, 4); n > 0; n--)
    size = mutate(r, text, size);
  return size;
}

/* ---- what must hold ---- */

static bool scans(const char *text, size_t size) {
  struct json_scan s;
  bool good = json_scan(&s, text, size, JSON_DEPTH_CEILING, false) == 0;
  for (int key = good ? json_first(&s, 0) : -1; key >= 0; key = json_next(&s, 0, key)) {
    char copy[8];
    double number;
    json_copy(&s, key, copy, sizeof copy);
    json_double(&s, json_value_of(&s, key), &number);
  }
  json_release(&s);
  if (good && !utf8_valid(text, size)) broken("a text was taken that is not UTF-8", text, size);
  return good;
}

static void try_chunk(const char *text, size_t size, bool strip) {
  struct openai_stream stream;
  struct openai_chunk chunk;
  struct buffer out = {0};
  openai_stream_init(&stream);
  for (int again = 0; again < 2; again++) {
    buffer_clear(&out);
    openai_stream_chunk(&stream, text, size, "chatcmpl-0", strip, &chunk, &out);
    if (chunk.kind != OPENAI_CHUNK && chunk.kind != OPENAI_USAGE) continue;
    if (out.size < 8 || memcmp(out.bytes, "data: {", 6) != 0 || !scans(out.bytes + 6, out.size - 8))
      broken("a chunk became something else", text, size);
    if (memchr(out.bytes, '\n', out.size - 2)) broken("an event has two lines", text, size);
  }
  buffer_free(&out);
}

static void try_request(const char *text, size_t size) {
  struct openai_request request;
  struct openai_error error = {0};
  struct buffer out = {0};
  char *chat;
  size_t chat_size, at, model_size;
  if (openai_parse_chat(text, size, 0, &request, &error) < 0) {
    if (!error.code || !error.message[0] || !utf8_valid(error.message, strlen(error.message)))
      broken("a refusal does not say why", text, size);
  } else if (openai_prepare_body(text, size, request.model_at, request.model_size, "p/m\"", true, &out) !=
                 0 ||
             !scans(out.bytes, out.size)) {
    broken("a body was made that is no JSON", text, size);
  }
  if (openai_parse_prompt(text, size, 0, &request, &error) == 0) {
    if (openai_chat_from_prompt(text, size, &chat, &chat_size, &at, &model_size) != 0 ||
        !scans(chat, chat_size))
      broken("a prompt became no chat", text, size);
    free(chat);
  }
  buffer_free(&out);
}

static void try_answer(const char *text, size_t size) {
  struct openai_answer answer;
  struct buffer out = {0};
  if (openai_rewrite_answer(text, size, "chatcmpl-0", &answer, &out) == 0) {
    if (!scans(out.bytes, out.size)) broken("an answer became no JSON", text, size);
    if (answer.content_at + answer.content_size > out.size) broken("content lies outside", text, size);
  }
  buffer_free(&out);
}

static bool collect(void *ctx, const char *type, const char *data, size_t size) {
  struct buffer *all = ctx;
  buffer_text(all, type);
  buffer_append(all, data, size);
  buffer_append(all, "", 1);
  return true;
}

/* Each piece is in memory of its own, so that a sanitizer sees what is used after it is gone. */
static void feed(const char *text, size_t size, struct rng *r, struct buffer *all) {
  struct sse p;
  sse_init(&p, 0);
  for (size_t at = 0, n; at < size; at += n) {
    n = r ? 1 + (size_t)rng_below(r, 9) : size;
    if (n > size - at) n = size - at;
    char *bytes = malloc(n);
    memcpy(bytes, text + at, n);
    sse_push(&p, bytes, n, collect, all);
    free(bytes);
  }
  sse_free(&p);
}

static void try_events(const char *text, size_t size, struct rng *r) {
  struct buffer whole = {0}, cut = {0};
  feed(text, size, NULL, &whole);
  feed(text, size, r, &cut);
  if (whole.size != cut.size || (whole.size && memcmp(whole.bytes, cut.bytes, whole.size) != 0))
    broken("events depend on how the bytes were cut", text, size);
  buffer_free(&whole);
  buffer_free(&cut);
}

int main(int argc, char **argv) {
  long iterations = argc > 1 ? strtol(argv[1], NULL, 10) : DEFAULT_ITERATIONS;
  uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
  struct rng r;
  rng_seed(&r, seed, 0);
  for (long i = 0; i < iterations; i++) {
    char *text = malloc(TEXT_MAX + 16);
    size_t size = variant(&r, json_seeds[rng_below(&r, sizeof json_seeds / sizeof json_seeds[0])], text);
    scans(text, size);
    try_chunk(text, size, i % 2 == 0);
    try_request(text, size);
    try_answer(text, size);
    retry_after_ns(text, size, 0);
    size = variant(&r, sse_seeds[rng_below(&r, sizeof sse_seeds / sizeof sse_seeds[0])], text);
    try_events(text, size, &r);
    free(text);
  }
  printf("fuzz_dialect: %ld iterations, seed %llu\n", iterations, (unsigned long long)seed);
  return 0;
}
