/* Copying is driven by a table: where in each row struct the strings are. A copy is one allocation, so that
 * handing a row over is one pointer under the lock and letting it go is one free. */

#include "store/record.h"

#include <stdlib.h>
#include <string.h>

enum { STRINGS = 7 };

struct layout {
  const char *name;
  size_t size;
  unsigned strings;
  size_t at[STRINGS];
};

#define AT(row, member) offsetof(struct row, member)

static const struct layout layouts[RECORD_KINDS] = {
    [RECORD_LEDGER] = {"ledger",
                       sizeof(struct ledger_row),
                       7,
                       {AT(ledger_row, kind), AT(ledger_row, name), AT(ledger_row, actor),
                        AT(ledger_row, reason), AT(ledger_row, evidence), AT(ledger_row, snapshot_before),
                        AT(ledger_row, snapshot_after)}},
    [RECORD_JUDGEMENT] = {"judgements",
                          sizeof(struct judgement_row),
                          2,
                          {AT(judgement_row, outcome), AT(judgement_row, words)}},
    [RECORD_SNAPSHOT] = {"snapshots",
                         sizeof(struct snapshot_row),
                         5,
                         {AT(snapshot_row, id), AT(snapshot_row, parent), AT(snapshot_row, author),
                          AT(snapshot_row, message), AT(snapshot_row, config)}},
    [RECORD_SCORE] = {"scores", sizeof(struct score_row), 1, {AT(score_row, snapshot)}},
    [RECORD_EXPERIMENT] = {"experiments",
                           sizeof(struct experiment_row),
                           6,
                           {AT(experiment_row, name), AT(experiment_row, tunable), AT(experiment_row, status),
                            AT(experiment_row, verdict), AT(experiment_row, spec),
                            AT(experiment_row, state)}},
    [RECORD_ANOMALY] = {"anomalies",
                        sizeof(struct anomaly_row),
                        4,
                        {AT(anomaly_row, metric), AT(anomaly_row, provider), AT(anomaly_row, severity),
                         AT(anomaly_row, message)}},
    [RECORD_VALUE] = {"tunable_values",
                      sizeof(struct value_row),
                      2,
                      {AT(value_row, name), AT(value_row, author)}},
    [RECORD_LEARNED] = {"learned",
                        sizeof(struct learned_row),
                        2,
                        {AT(learned_row, name), AT(learned_row, json)}},
    [RECORD_REWARD] = {"rewards", sizeof(struct reward_row), 1, {AT(reward_row, source)}},
    [RECORD_DEAD_LETTER] = {"dead_letters",
                            sizeof(struct dead_letter_row),
                            6,
                            {AT(dead_letter_row, id_text), AT(dead_letter_row, route),
                             AT(dead_letter_row, provider), AT(dead_letter_row, reason),
                             AT(dead_letter_row, detail), AT(dead_letter_row, path)}},
    [RECORD_FRAME] = {"frames", sizeof(struct frame), 0, {0}},
    [RECORD_OUTCOMES] = {"requests", 0, 0, {0}},
};

static struct record *allocate(enum record_kind kind, size_t size, uint32_t rows) {
  struct record *r = malloc(sizeof *r + size);
  if (r) *r = (struct record){.kind = kind, .rows = rows, .bytes = sizeof *r + size};
  return r;
}

static const char *string_at(const void *row, size_t at) {
  const char *text;
  memcpy(&text, (const char *)row + at, sizeof text);
  return text;
}

static char *put(void *row, size_t at, char *end, const char *from, size_t size) {
  memcpy(end, from, size);
  memcpy((char *)row + at, &end, sizeof end);
  return end + size;
}

struct record *record_make(enum record_kind kind, const void *row) {
  const struct layout *layout = &layouts[kind];
  const char *body = kind == RECORD_DEAD_LETTER ? ((const struct dead_letter_row *)row)->body : NULL;
  size_t body_size = body ? ((const struct dead_letter_row *)row)->body_size : 0;
  const char *texts[STRINGS] = {NULL};
  size_t size = layout->size + body_size;
  for (unsigned i = 0; i < layout->strings; i++) {
    texts[i] = string_at(row, layout->at[i]);
    size += texts[i] ? strlen(texts[i]) + 1 : 0;
  }
  struct record *r = allocate(kind, size, 1);
  if (!r) return NULL;
  if (row) memcpy(r->body, row, layout->size);
  char *end = r->body + layout->size;
  for (unsigned i = 0; i < layout->strings; i++)
    if (texts[i]) end = put(r->body, layout->at[i], end, texts[i], strlen(texts[i]) + 1);
  if (body) put(r->body, AT(dead_letter_row, body), end, body, body_size);
  return r;
}

struct record *record_outcomes(const struct outcome *outcomes, size_t count, int64_t now_ns,
                               int64_t wall_ms) {
  size_t size = count * sizeof *outcomes;
  struct record *r = allocate(RECORD_OUTCOMES, sizeof(struct outcome_rows) + size, (uint32_t)count);
  if (!r) return NULL;
  struct outcome_rows *rows = (struct outcome_rows *)r->body;
  *rows = (struct outcome_rows){.now_ns = now_ns, .wall_ms = wall_ms, .count = (uint32_t)count};
  memcpy(rows->outcomes, outcomes, size);
  return r;
}

void record_free(struct record *record) {
  free(record);
}

const char *record_name(enum record_kind kind) {
  return layouts[kind].name;
}

bool record_is_telemetry(enum record_kind kind) {
  return kind == RECORD_FRAME || kind == RECORD_OUTCOMES;
}

bool record_is_decision(enum record_kind kind) {
  switch (kind) {
  case RECORD_LEDGER:
  case RECORD_JUDGEMENT:
  case RECORD_SNAPSHOT:
  case RECORD_EXPERIMENT:
  case RECORD_VALUE:
  case RECORD_LEARNED:
    return true;
  default:
    return false;
  }
}

void record_list_push(struct record_list *list, struct record *record) {
  record->next = NULL;
  if (list->last)
    list->last->next = record;
  else
    list->first = record;
  list->last = record;
}

struct record *record_list_pop(struct record_list *list) {
  struct record *r = list->first;
  if (!r) return NULL;
  list->first = r->next;
  if (!list->first) list->last = NULL;
  return r;
}

void record_list_append(struct record_list *list, struct record_list *from) {
  if (!from->first) return;
  if (list->last)
    list->last->next = from->first;
  else
    list->first = from->first;
  list->last = from->last;
  *from = (struct record_list){0};
}
