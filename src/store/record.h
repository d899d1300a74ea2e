#ifndef STORE_RECORD_H
#define STORE_RECORD_H

/* A row on its way to the writer: one allocation that holds the row and copies of everything it points to. */

#include "store/rows.h"

enum record_kind {
  RECORD_LEDGER,
  RECORD_JUDGEMENT,
  RECORD_SNAPSHOT,
  RECORD_SCORE,
  RECORD_EXPERIMENT,
  RECORD_ANOMALY,
  RECORD_VALUE,
  RECORD_LEARNED,
  RECORD_REWARD,
  RECORD_DEAD_LETTER,
  RECORD_FRAME,
  RECORD_OUTCOMES,
  RECORD_KINDS
};

struct learned_row {
  const char *name, *json;
  int64_t wall_ms;
};

struct outcome_rows {
  int64_t now_ns, wall_ms; /* the same moment on both clocks */
  uint32_t count;
  struct outcome outcomes[];
};

struct record {
  struct record *next;
  enum record_kind kind;
  uint32_t rows;
  size_t bytes;             /* of the allocation */
  _Alignas(16) char body[]; /* the row struct of its kind, its pointers into the rest */
};

/* Both return NULL when there is no memory. record_make copies the row struct of that kind (not
 * RECORD_OUTCOMES). */
struct record *record_make(enum record_kind kind, const void *row);
struct record *record_outcomes(const struct outcome *outcomes, size_t count, int64_t now_ns, int64_t wall_ms);
void record_free(struct record *record);

const char *record_name(enum record_kind kind);  /* of the table it goes to */
bool record_is_telemetry(enum record_kind kind); /* may be dropped when the queue is full */
bool record_is_decision(
    enum record_kind kind); /* must reach the disk with its transaction (synchronous=FULL) */

/* First in, first out; owns what is in it. Zero is an empty list. */
struct record_list {
  struct record *first, *last;
};

void record_list_push(struct record_list *list, struct record *record);
struct record *record_list_pop(struct record_list *list);                    /* NULL: empty */
void record_list_append(struct record_list *list, struct record_list *from); /* empties from */

#endif
