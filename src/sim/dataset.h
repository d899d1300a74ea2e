#ifndef SIM_DATASET_H
#define SIM_DATASET_H

/* The recordings behind a scenario: prompts with each model's quality, token lengths in pairs, gaps between
 * arrivals and the shape of the load over days. Files are looked for in DIR/routing, DIR/traces and DIR, as
 * named or with .gz added or taken off; .gz goes through gzip(1). "azure_conv" stands for
 * AzureLLMInferenceTrace_conv.csv and so on. */

#include <stddef.h>
#include <stdint.h>

struct scenario;

enum { DATASET_COLUMNS = 16 };

struct dataset_prompt {
  const char *text;
  uint32_t size;
  uint8_t class_index;            /* of the scenario's classes */
  float quality[DATASET_COLUMNS]; /* recorded, in [0, 1] */
};

struct dataset_lengths {
  uint32_t in, out; /* tokens, at least 1 */
};

struct dataset {
  unsigned column_count;
  char columns[DATASET_COLUMNS][64];
  size_t prompt_count;
  struct dataset_prompt *prompts; /* grouped by class: class c is [class_start[c], class_start[c + 1]) */
  size_t *class_start;
  double *class_share;
  size_t lengths_count;
  struct dataset_lengths *lengths;
  size_t gap_count;
  double *gaps; /* mean 1, in the order of the trace */
  size_t shape_count;
  double *shape;          /* mean 1 */
  int64_t shape_step_ns;  /* 0: flat */
  unsigned *model_column; /* of the scenario's models */
  struct prompt_index *index;
};

/* NULL: error says which file and what to do. week: which week of the daily shape (0 to build, 1 to prove).
 */
struct dataset *dataset_load(const struct scenario *scenario, const char *dir, unsigned week, char *error,
                             size_t error_size);
void dataset_destroy(struct dataset *data);

/* By its whole text. Index, or -ENOENT. */
long dataset_find_prompt(const struct dataset *data, const char *text, size_t size);

#endif
