#ifndef DIALECT_OPENAI_STREAM_H
#define DIALECT_OPENAI_STREAM_H

/* The chunks of a streamed answer, as one provider sends them, turned into the events that the client gets:
 * our id in all of them, one line of data each, tool calls numbered 0, 1, ... whatever the provider's index
 * fields say. */

#include "dialect/openai_answer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;

enum {
  OPENAI_MAX_CALLS = 64
}; /* tool calls of one stream that are told apart; later ones pass as they are */

enum openai_chunk_kind {
  OPENAI_CHUNK,  /* forward it */
  OPENAI_USAGE,  /* nothing but usage */
  OPENAI_DONE,   /* [DONE] */
  OPENAI_FAILED, /* the provider reports an error inside the stream */
  OPENAI_MALFORMED
};

struct openai_chunk {
  enum openai_chunk_kind kind;
  bool content;  /* brings something that a model generated: text, reasoning, refusal, part of a tool call */
  bool finished; /* with it, every choice that was seen has its finish_reason */
};

/* One stream's memory. */
struct openai_stream {
  struct openai_usage usage; /* the last one reported */
  struct {
    int64_t choice, theirs; /* theirs: the provider's index, -1 when it gave none */
    uint64_t id;            /* hash of the call's id; 0: none */
    uint32_t ours;
  } calls[OPENAI_MAX_CALLS];
  unsigned call_count;
  uint64_t seen, ended; /* choices, one bit each; the 64th and later share one */
};

void openai_stream_init(struct openai_stream *stream);

/* Takes the data of one event and appends "data: {...}\n\n" to out, for CHUNK and USAGE only. Invalid UTF-8
 * is repaired first. strip_usage: a usage member next to real choices is left out. 0 or -ENOMEM. */
int openai_stream_chunk(struct openai_stream *stream, const char *data, size_t size, const char *id,
                        bool strip_usage, struct openai_chunk *chunk, struct buffer *out);

#define OPENAI_DONE_EVENT "data: [DONE]\n\n"

#endif
