/* A chunk is scanned once; what changes is noted as edits in the order of the text, then the chunk is written
 * out with them. Tool calls: providers number them by index, or all of them 0, or not at all; what tells two
 * calls apart is first the call's id, then the index. A fragment without an id belongs to the newest call
 * with its index, or simply to the newest. */

#include "dialect/openai_stream.h"

#include "dialect/buffer.h"
#include "dialect/json_scan.h"
#include "dialect/utf8.h"
#include "sys/rng.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_EDITS = 80, OTHER_EDITS = 4 }; /* room for tool calls; and what a chunk needs besides */

enum edit_form { AS_IT_IS, ID, NEW_ID, INDEX, NEW_INDEX }; /* new: a member that was not there */

/* size bytes at `at` become the text or the number. */
struct edit {
  size_t at, size;
  enum edit_form as;
  const char *text;
  uint32_t number;
};

struct rewriting {
  struct openai_stream *stream;
  const struct json_scan *s;
  struct edit edits[MAX_EDITS];
  unsigned count;
};

void openai_stream_init(struct openai_stream *stream) {
  stream->usage = (struct openai_usage){.cost_usd = NAN};
  stream->call_count = 0;
  stream->seen = stream->ended = 0;
}

static void edit(struct rewriting *r, struct edit e) {
  assert(r->count < MAX_EDITS);
  r->edits[r->count++] = e;
}

/* ---- tool calls ---- */

static int64_t integer_or(const struct json_scan *s, int value, int64_t otherwise) {
  int64_t number = otherwise;
  json_integer(s, value, &number);
  return number;
}

static int find_call(const struct openai_stream *stream, int64_t choice, int64_t theirs, uint64_t id) {
  for (int i = (int)stream->call_count - 1; i >= 0; i--) {
    if (stream->calls[i].choice != choice) continue;
    if (id ? stream->calls[i].id == id : theirs < 0 || stream->calls[i].theirs == theirs) return i;
  }
  return -1;
}

/* A call that began without an id and now says it. */
static int adopt_call(struct openai_stream *stream, int64_t choice, int64_t theirs, uint64_t id) {
  int i = find_call(stream, choice, theirs, 0);
  if (i < 0 || stream->calls[i].id != 0 || theirs < 0) return -1;
  stream->calls[i].id = id;
  return i;
}

static int add_call(struct openai_stream *stream, int64_t choice, int64_t theirs, uint64_t id) {
  uint32_t ours = 0;
  if (stream->call_count == OPENAI_MAX_CALLS) return -1;
  for (unsigned i = 0; i < stream->call_count; i++)
    ours += stream->calls[i].choice == choice;
  unsigned i = stream->call_count++;
  stream->calls[i].choice = choice;
  stream->calls[i].theirs = theirs;
  stream->calls[i].id = id;
  stream->calls[i].ours = ours;
  return (int)i;
}

static void number_call(struct rewriting *r, int64_t choice, int call) {
  const struct json_scan *s = r->s;
  if (json_type(s, call) != JSON_OBJECT || json_count(s, call) == 0) return;
  int index = json_member(s, call, "index"), name = json_member(s, call, "id");
  int64_t theirs = integer_or(s, index, -1);
  uint64_t id =
      json_text_empty(s, name) ? 0 : hash_bytes(s->text + json_at(s, name), json_size(s, name), 0) | 1;
  int i = find_call(r->stream, choice, theirs, id);
  if (i < 0 && id) i = adopt_call(r->stream, choice, theirs, id);
  if (i < 0) i = add_call(r->stream, choice, theirs, id);
  if (i < 0 || theirs == r->stream->calls[i].ours || r->count >= MAX_EDITS - OTHER_EDITS) return;
  size_t at = index < 0 ? json_at(s, call) + 1 : json_at(s, index);
  edit(r, (struct edit){.at = at,
                        .size = json_size(s, index),
                        .as = index < 0 ? NEW_INDEX : INDEX,
                        .number = r->stream->calls[i].ours});
}

/* ---- reading ---- */

static bool filled(const struct json_scan *s, int value) {
  enum json_type type = json_type(s, value);
  if (type == JSON_STRING) return !json_text_empty(s, value);
  return (type == JSON_ARRAY || type == JSON_OBJECT) && json_count(s, value) > 0;
}

static bool delta_filled(const struct json_scan *s, int delta) {
  static const char *const names[] = {"content", "tool_calls", "reasoning_content", "reasoning",
                                      "refusal", "audio",      "function_call"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if (filled(s, json_member(s, delta, names[i]))) return true;
  return false;
}

static void read_choice(struct rewriting *r, int choice, struct openai_chunk *chunk) {
  const struct json_scan *s = r->s;
  int delta = json_member(s, choice, "delta"), calls = json_member(s, delta, "tool_calls");
  int64_t number = integer_or(s, json_member(s, choice, "index"), 0);
  if (delta_filled(s, delta) || filled(s, json_member(s, choice, "text"))) chunk->content = true;
  uint64_t bit = UINT64_C(1) << (number >= 0 && number < 63 ? number : 63);
  r->stream->seen |= bit;
  if (filled(s, json_member(s, choice, "finish_reason"))) r->stream->ended |= bit;
  if (json_type(s, calls) != JSON_ARRAY) return;
  for (int call = json_first(s, calls); call >= 0; call = json_next(s, calls, call))
    number_call(r, number, call);
}

/* Leaves a member out, with one of the commas beside it. */
static void strip_member(struct rewriting *r, int key) {
  const struct json_scan *s = r->s;
  int value = json_value_of(s, key);
  size_t from = json_at(s, key), to = json_at(s, value) + json_size(s, value);
  size_t comma = to + strspn(s->text + to, " \t\r\n");
  if (s->text[comma] == ',') {
    to = comma + 1;
  } else {
    while (from > 0 && s->text[from - 1] != ',' && s->text[from - 1] != '{')
      from--;
    if (from > 0 && s->text[from - 1] == ',') from--;
  }
  edit(r, (struct edit){.at = from, .size = to - from, .text = ""});
}

/* Clients walk over choices: there is always an array. */
static void mend_choices(struct rewriting *r, int choices) {
  const struct json_scan *s = r->s;
  if (choices < 0)
    edit(r, (struct edit){.at = json_at(s, 0) + 1, .text = "\"choices\":[],"});
  else if (json_type(s, choices) != JSON_ARRAY)
    edit(r, (struct edit){.at = json_at(s, choices), .size = json_size(s, choices), .text = "[]"});
}

static void set_id(struct rewriting *r, const char *id, int theirs) {
  const struct json_scan *s = r->s;
  size_t at = theirs < 0 ? json_at(s, 0) + 1 : json_at(s, theirs);
  edit(r, (struct edit){.at = at, .size = json_size(s, theirs), .text = id, .as = theirs < 0 ? NEW_ID : ID});
}

static void read_top(struct rewriting *r, const char *id, bool strip_usage, struct openai_chunk *chunk) {
  const struct json_scan *s = r->s;
  int theirs = -1, choices = -1, usage_key = -1;
  for (int key = json_first(s, 0); key >= 0; key = json_next(s, 0, key)) {
    if (json_key_is(s, key, "id")) theirs = json_value_of(s, key);
    if (json_key_is(s, key, "choices")) choices = json_value_of(s, key);
    if (json_key_is(s, key, "usage")) usage_key = key;
  }
  set_id(r, id, theirs);
  if (json_type(s, choices) != JSON_ARRAY || json_count(s, choices) == 0) {
    chunk->kind = OPENAI_USAGE;
    mend_choices(r, choices);
    return;
  }
  if (strip_usage && usage_key >= 0) strip_member(r, usage_key);
  for (int choice = json_first(s, choices); choice >= 0; choice = json_next(s, choices, choice))
    read_choice(r, choice, chunk);
  chunk->finished = (r->stream->seen & ~r->stream->ended) == 0;
}

/* ---- writing ---- */

static int by_place(const void *a, const void *b) {
  const struct edit *x = a, *y = b;
  if (x->at != y->at) return x->at < y->at ? -1 : 1;
  return (x->size > y->size) - (x->size < y->size); /* an insertion goes before what it is inserted at */
}

static void write_edit(const struct edit *e, struct buffer *out) {
  static const char *const before[] = {"", "\"", "\"id\":\"", "", "\"index\":"};
  static const char *const after[] = {"", "\"", "\",", "", ","};
  buffer_text(out, before[e->as]);
  if (e->as == INDEX || e->as == NEW_INDEX)
    buffer_format(out, "%u", e->number);
  else
    buffer_text(out, e->text);
  buffer_text(out, after[e->as]);
}

/* Line feeds between tokens, from an event of several data lines, become blanks: the client gets one line. */
static void append_line(struct buffer *out, const char *bytes, size_t size) {
  size_t start = out->size;
  buffer_append(out, bytes, size);
  if (out->failed) return;
  for (char *at = out->bytes + start; (at = memchr(at, '\n', out->size - (size_t)(at - out->bytes)));)
    *at = ' ';
}

static void write_chunk(struct rewriting *r, size_t size, struct buffer *out) {
  size_t done = 0;
  if (r->count > 1) qsort(r->edits, r->count, sizeof r->edits[0], by_place);
  buffer_text(out, "data: ");
  for (unsigned i = 0; i < r->count; i++) {
    assert(r->edits[i].at >= done);
    append_line(out, r->s->text + done, r->edits[i].at - done);
    write_edit(&r->edits[i], out);
    done = r->edits[i].at + r->edits[i].size;
  }
  append_line(out, r->s->text + done, size - done);
  buffer_text(out, "\n\n");
}

static int take_json(struct openai_stream *stream, const char *data, size_t size, const char *id,
                     bool strip_usage, struct openai_chunk *chunk, struct buffer *out) {
  struct json_scan s;
  struct rewriting r; /* its edits stay unset */
  int error = json_scan(&s, data, size, JSON_DEPTH_CEILING, false);
  enum json_type failed = json_type(&s, json_member(&s, 0, "error"));
  r.stream = stream;
  r.s = &s;
  r.count = 0;
  if (error == 0 && failed != JSON_ABSENT && failed != JSON_NULL) {
    chunk->kind = OPENAI_FAILED;
  } else if (error == 0 && json_count(&s, 0) > 0) {
    chunk->kind = OPENAI_CHUNK;
    openai_read_usage(&s, 0, &stream->usage);
    read_top(&r, id, strip_usage, chunk);
    write_chunk(&r, size, out);
  }
  json_release(&s);
  return error == -ENOMEM || out->failed ? -ENOMEM : 0;
}

int openai_stream_chunk(struct openai_stream *stream, const char *data, size_t size, const char *id,
                        bool strip_usage, struct openai_chunk *chunk, struct buffer *out) {
  *chunk = (struct openai_chunk){.kind = OPENAI_MALFORMED};
  if (size == 6 && memcmp(data, "[DONE]", 6) == 0) {
    chunk->kind = OPENAI_DONE;
    return 0;
  }
  if (utf8_valid(data, size)) return take_json(stream, data, size, id, strip_usage, chunk, out);
  struct buffer repaired = {0};
  utf8_repair(data, size, &repaired);
  int error = repaired.failed ? -ENOMEM
                              : take_json(stream, repaired.bytes, repaired.size, id, strip_usage, chunk, out);
  buffer_free(&repaired);
  return error;
}
