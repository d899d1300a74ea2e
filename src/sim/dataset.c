#include "sim/dataset.h"

#include "sim/csv.h"
#include "sim/scenario.h"
#include "sys/clock.h"
#include "sys/rng.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ROWS = 1 << 20, WEEK_STEPS = 7 * 144, SHAPE_STEP_S = 600 };

/* Open addressing, by the text's hash; values are index + 1. */
struct prompt_index {
  size_t mask;
  uint32_t slots[];
};

static int fail(char *error, size_t size, const char *file, const char *what) {
  snprintf(error, size, "%s: %s", file, what);
  return -EINVAL;
}

/* The array with room for one more element than count; NULL: out of memory, the array is as it was. */
static void *roomy(void *array, size_t count, size_t element) {
  if (count & (count - 1)) return array;
  return realloc(array, (count ? 2 * count : 1) * element);
}

static bool ends_with(const char *text, const char *end) {
  size_t n = strlen(text), m = strlen(end);
  return n >= m && strcmp(text + n - m, end) == 0;
}

/* ---- prompts and their recorded quality ---- */

struct layout {
  int source, text;
  unsigned quality[DATASET_COLUMNS];
};

static bool is_quality(const char *name) {
  static const char *const others[] = {"split", "query_chars", "id"};
  for (size_t i = 0; i < sizeof others / sizeof *others; i++)
    if (strcmp(name, others[i]) == 0) return false;
  return !ends_with(name, "_cost_usd") && !ends_with(name, "_chars");
}

static void add_column(struct dataset *d, struct layout *layout, const char *name, unsigned field) {
  size_t n = strlen(name);
  if (d->column_count == DATASET_COLUMNS || !is_quality(name)) return;
  if (ends_with(name, "_reward")) n -= strlen("_reward");
  if (ends_with(name, "_correct")) n -= strlen("_correct");
  snprintf(d->columns[d->column_count], sizeof *d->columns, "%.*s", (int)n, name);
  layout->quality[d->column_count++] = field;
}

static int read_header(struct dataset *d, struct layout *layout, const char *const *fields, size_t count) {
  layout->source = layout->text = -1;
  for (unsigned i = 0; i < count; i++) {
    const char *f = fields[i];
    if (!strcmp(f, "source") || !strcmp(f, "task") || !strcmp(f, "subject"))
      layout->source = (int)i;
    else if (!strcmp(f, "prompt") || !strcmp(f, "query"))
      layout->text = (int)i;
    else
      add_column(d, layout, f, i);
  }
  return layout->text >= 0 && d->column_count > 0 ? 0 : -EINVAL;
}

static unsigned class_of(const struct scenario *s, const char *source) {
  unsigned rest = s->class_count - 1;
  for (unsigned c = 0; c < s->class_count; c++) {
    if (s->classes[c].source_count == 0) rest = c;
    for (unsigned i = 0; i < s->classes[c].source_count; i++)
      if (strncmp(source, s->classes[c].sources[i], strlen(s->classes[c].sources[i])) == 0) return c;
  }
  return rest;
}

static int add_prompt(struct dataset *d, const struct scenario *s, const struct layout *layout,
                      const char *const *fields, size_t count) {
  struct dataset_prompt p = {.class_index =
                                 (uint8_t)class_of(s, layout->source >= 0 ? fields[layout->source] : "")};
  for (unsigned c = 0; c < d->column_count; c++) {
    if (layout->quality[c] >= count) return 0; /* a short row */
    p.quality[c] = (float)fmin(1, fmax(0, atof(fields[layout->quality[c]])));
  }
  void *grown = roomy(d->prompts, d->prompt_count, sizeof *d->prompts);
  if (!grown) return -ENOMEM;
  d->prompts = grown;
  p.size = (uint32_t)strlen(fields[layout->text]);
  p.text = strdup(fields[layout->text]);
  if (!p.text) return -ENOMEM;
  d->prompts[d->prompt_count++] = p;
  return 0;
}

static int read_prompts(struct dataset *d, const struct scenario *s, const char *dir, char *error,
                        size_t size) {
  const char *fields[CSV_FIELDS];
  struct layout layout;
  struct csv *csv = csv_open(dir, "routing", s->quality, error, size);
  if (!csv) return -ENOENT;
  size_t n = csv_next(csv, fields);
  int status = read_header(d, &layout, fields, n);
  while (status == 0 && d->prompt_count < MAX_ROWS && (n = csv_next(csv, fields)) > 0)
    if ((size_t)layout.text < n) status = add_prompt(d, s, &layout, fields, n);
  csv_close(csv);
  if (status || d->prompt_count == 0)
    return fail(error, size, s->quality,
                "needs a column prompt (or query), and one of quality for each model");
  return 0;
}

/* Groups the prompts by class, in their order. */
static int group_prompts(struct dataset *d, unsigned classes) {
  struct dataset_prompt *sorted = malloc(d->prompt_count * sizeof *sorted);
  d->class_start = calloc(classes + 1, sizeof *d->class_start);
  d->class_share = calloc(classes, sizeof *d->class_share);
  if (!sorted || !d->class_start || !d->class_share) {
    free(sorted);
    return -ENOMEM;
  }
  size_t n = 0;
  for (unsigned c = 0; c < classes; c++) {
    d->class_start[c] = n;
    for (size_t i = 0; i < d->prompt_count; i++)
      if (d->prompts[i].class_index == c) sorted[n++] = d->prompts[i];
    d->class_share[c] = (double)(n - d->class_start[c]) / (double)d->prompt_count;
  }
  d->class_start[classes] = n;
  free(d->prompts);
  d->prompts = sorted;
  return 0;
}

static uint64_t text_hash(const char *text, size_t size) {
  return hash_bytes(text, size, 0);
}

static int index_prompts(struct dataset *d) {
  size_t slots = 16;
  while (slots < 2 * d->prompt_count)
    slots *= 2;
  d->index = calloc(1, sizeof *d->index + slots * sizeof *d->index->slots);
  if (!d->index) return -ENOMEM;
  d->index->mask = slots - 1;
  for (size_t i = 0; i < d->prompt_count; i++) {
    size_t at = text_hash(d->prompts[i].text, d->prompts[i].size) & d->index->mask;
    while (d->index->slots[at])
      at = (at + 1) & d->index->mask;
    d->index->slots[at] = (uint32_t)i + 1;
  }
  return 0;
}

long dataset_find_prompt(const struct dataset *d, const char *text, size_t size) {
  for (size_t at = text_hash(text, size) & d->index->mask; d->index->slots[at];
       at = (at + 1) & d->index->mask) {
    const struct dataset_prompt *p = &d->prompts[d->index->slots[at] - 1];
    if (p->size == size && memcmp(p->text, text, size) == 0) return (long)d->index->slots[at] - 1;
  }
  return -ENOENT;
}

/* ---- which column is whose ---- */

static int column_named(const struct dataset *d, const char *name) {
  for (unsigned c = 0; c < d->column_count; c++)
    if (strcmp(d->columns[c], name) == 0) return (int)c;
  return -1;
}

static double column_mean(const struct dataset *d, unsigned c) {
  double sum = 0;
  for (size_t i = 0; i < d->prompt_count; i++)
    sum += d->prompts[i].quality[c];
  return sum / (double)d->prompt_count;
}

/* The column with so many others below it. */
static int column_of_rank(const struct dataset *d, unsigned rank) {
  for (unsigned c = 0; c < d->column_count; c++) {
    unsigned below = 0;
    double mean = column_mean(d, c);
    for (unsigned o = 0; o < d->column_count; o++)
      below += column_mean(d, o) < mean || (column_mean(d, o) == mean && o < c);
    if (below == rank) return (int)c;
  }
  return -1;
}

/* A model is called as its column, or small, middle, dear: the three models of the reference data, and in
 * other data the worst, the middling and the best. */
static int column_for(const struct dataset *d, const char *model) {
  static const char *const sizes[] = {"small", "middle", "dear"};
  static const char *const names[] = {"llama-3.1-8b-instruct", "mistral-large-2512", "gemini-2.5-pro"};
  const unsigned ranks[] = {0, d->column_count / 2, d->column_count - 1};
  int column = column_named(d, model);
  for (unsigned i = 0; column < 0 && i < 3; i++) {
    if (strcmp(model, sizes[i]) != 0) continue;
    column = column_named(d, names[i]);
    if (column < 0) column = column_of_rank(d, ranks[i]);
  }
  return column;
}

static int match_models(struct dataset *d, const struct scenario *s, char *error, size_t size) {
  d->model_column = calloc(s->model_count + 1, sizeof *d->model_column);
  if (!d->model_column) return -ENOMEM;
  for (unsigned m = 0; m < s->model_count; m++) {
    int column = column_for(d, s->models[m].like);
    if (column < 0) {
      snprintf(error, size,
               "%s: no column of quality for model %s: call models as their columns, or small, middle, dear",
               s->quality, s->models[m].name);
      return -EINVAL;
    }
    d->model_column[m] = (unsigned)column;
  }
  return 0;
}

/* ---- lengths and gaps ---- */

static void trace_file(const char *name, char *out, size_t size) {
  if (strncmp(name, "azure_", 6) == 0)
    snprintf(out, size, "AzureLLMInferenceTrace_%s.csv", name + 6);
  else
    snprintf(out, size, "%s", name);
}

/* Seconds since some midnight; days are told apart by their last digits only. */
static double seconds_of(const char *stamp) {
  int day = 0, hour = 0, minute = 0;
  double second = 0;
  if (sscanf(stamp, "%*d-%*d-%d %d:%d:%lf", &day, &hour, &minute, &second) != 4) return NAN;
  return ((day * 24.0 + hour) * 60 + minute) * 60 + second;
}

static int add_lengths(struct dataset *d, const char *const *fields) {
  long in = atol(fields[1]), out = atol(fields[2]);
  void *grown = roomy(d->lengths, d->lengths_count, sizeof *d->lengths);
  if (!grown) return -ENOMEM;
  d->lengths = grown;
  d->lengths[d->lengths_count++] =
      (struct dataset_lengths){in < 1 ? 1 : (uint32_t)in, out < 1 ? 1 : (uint32_t)out};
  return 0;
}

static int add_gap(struct dataset *d, double gap) {
  void *grown = roomy(d->gaps, d->gap_count, sizeof *d->gaps);
  if (!grown) return -ENOMEM;
  d->gaps = grown;
  d->gaps[d->gap_count++] = gap;
  return 0;
}

static int read_trace(struct dataset *d, const char *name, const char *dir, bool lengths, char *error,
                      size_t size) {
  char file[160];
  const char *fields[CSV_FIELDS];
  double before = NAN;
  trace_file(name, file, sizeof file);
  struct csv *csv = csv_open(dir, "traces", file, error, size);
  if (!csv) return -ENOENT;
  int status = csv_next(csv, fields) >= 3 ? 0 : -EINVAL;
  for (int row = 0; status == 0 && row < MAX_ROWS && csv_next(csv, fields) >= 3; row++) {
    double at = seconds_of(fields[0]);
    if (lengths)
      status = add_lengths(d, fields);
    else if (at >= before)
      status = add_gap(d, at - before);
    before = at;
  }
  csv_close(csv);
  if (status || (lengths ? d->lengths_count : d->gap_count) == 0)
    return fail(error, size, file, "needs the columns TIMESTAMP, ContextTokens, GeneratedTokens");
  return 0;
}

static void divide_by_mean(double *x, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; i++)
    sum += x[i];
  for (size_t i = 0; i < n && sum > 0; i++)
    x[i] *= (double)n / sum;
}

/* ---- the shape of the load ---- */

static int add_step(struct dataset *d, double rate) {
  void *grown = roomy(d->shape, d->shape_count, sizeof *d->shape);
  if (!grown) return -ENOMEM;
  d->shape = grown;
  if (rate <= 0 && d->shape_count) rate = d->shape[d->shape_count - 1]; /* a gap in the source */
  d->shape[d->shape_count++] = rate;
  return 0;
}

static int shape_column(const char *const *header, size_t count, const char *name) {
  char full[160];
  snprintf(full, sizeof full, "%s_req_per_s", name);
  for (size_t i = 0; i < count; i++)
    if (strcmp(header[i], full) == 0 || strcmp(header[i], name) == 0) return (int)i;
  return -1;
}

static void keep_week(struct dataset *d, unsigned week) {
  size_t from = (size_t)week * WEEK_STEPS;
  if (d->shape_count >= from + WEEK_STEPS) {
    memmove(d->shape, d->shape + from, WEEK_STEPS * sizeof *d->shape);
    d->shape_count = WEEK_STEPS;
  }
  d->shape_step_ns = SHAPE_STEP_S * NS_PER_S;
  divide_by_mean(d->shape, d->shape_count);
}

/* "flat", or "FILE:COLUMN" with one row for each ten minutes. */
static int read_shape(struct dataset *d, const char *spec, const char *dir, unsigned week, char *error,
                      size_t size) {
  char file[128];
  const char *fields[CSV_FIELDS], *colon = strchr(spec, ':');
  if (strcmp(spec, "flat") == 0) return 0;
  if (!colon) return fail(error, size, spec, "daily_shape is \"flat\" or \"FILE:COLUMN\"");
  snprintf(file, sizeof file, "%.*s", (int)(colon - spec), spec);
  struct csv *csv = csv_open(dir, "traces", file, error, size);
  if (!csv) return -ENOENT;
  size_t n = csv_next(csv, fields);
  int column = shape_column(fields, n, colon + 1), status = 0;
  while (column >= 0 && status == 0 && d->shape_count < MAX_ROWS && (n = csv_next(csv, fields)) > 0)
    if ((size_t)column < n) status = add_step(d, atof(fields[column]));
  csv_close(csv);
  if (status || d->shape_count == 0) return fail(error, size, spec, "no such column, or it is empty");
  keep_week(d, week);
  return 0;
}

/* ---- the whole ---- */

static int load(struct dataset *d, const struct scenario *s, const char *dir, unsigned week, char *error,
                size_t size) {
  int status = read_prompts(d, s, dir, error, size);
  if (status == 0) status = group_prompts(d, s->class_count);
  if (status == 0) status = index_prompts(d);
  if (status == 0) status = match_models(d, s, error, size);
  if (status == 0) status = read_trace(d, s->lengths, dir, true, error, size);
  if (status == 0) status = read_trace(d, s->gaps, dir, false, error, size);
  if (status == 0) divide_by_mean(d->gaps, d->gap_count);
  if (status == 0) status = read_shape(d, s->daily_shape, dir, week, error, size);
  return status;
}

struct dataset *dataset_load(const struct scenario *s, const char *dir, unsigned week, char *error,
                             size_t size) {
  struct dataset *d = calloc(1, sizeof *d);
  snprintf(error, size, "out of memory");
  if (d && load(d, s, dir, week, error, size) < 0) {
    dataset_destroy(d);
    d = NULL;
  }
  return d;
}

void dataset_destroy(struct dataset *d) {
  if (!d) return;
  for (size_t i = 0; i < d->prompt_count; i++)
    free((char *)d->prompts[i].text);
  free(d->prompts);
  free(d->class_start);
  free(d->class_share);
  free(d->lengths);
  free(d->gaps);
  free(d->shape);
  free(d->model_column);
  free(d->index);
  free(d);
}
