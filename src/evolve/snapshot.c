/* Content addressing needs one text for one configuration: a fixed order of lines and one way to write a
 * number. The shortest of %.15g, %.16g and %.17g that reads back the same is unique for each double. */

#include "evolve/snapshot.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_SIZE = 2 * NAME_SIZE + 48, LINES_MAX = TUNABLES * MAX_PROVIDERS };

int snapshot_number(double value, char *out, size_t size) {
  int length = 0;
  for (int digits = 15; digits <= 17; digits++) {
    length = snprintf(out, size, "%.*g", digits, value == 0.0 ? 0.0 : value);
    if (strtod(out, NULL) == value) break;
  }
  return length;
}

static int by_name(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

static char *line_of(double value, struct tunable_key key, const char (*providers)[NAME_SIZE]) {
  char name[2 * NAME_SIZE], number[40], line[LINE_SIZE];
  tunable_name(key, providers, name, sizeof name);
  snapshot_number(value, number, sizeof number);
  /* '\1' for '=' while sorting: it is below every letter of a name, so that "a" comes before "a_b" and "a.b"
   */
  snprintf(line, sizeof line, "%s\1%s\n", name, number);
  return strdup(line);
}

static char *join(char **lines, size_t count) {
  size_t size = 1;
  for (size_t i = 0; i < count; i++)
    size += strlen(lines[i]);
  char *text = malloc(size), *end = text;
  if (!text) return NULL;
  *end = 0;
  for (size_t i = 0; i < count; i++) {
    *strchr(lines[i], '\1') = '=';
    end = stpcpy(end, lines[i]);
  }
  return text;
}

char *snapshot_text(const double values[TUNABLES][MAX_PROVIDERS], const char (*providers)[NAME_SIZE],
                    unsigned count) {
  char **lines = calloc(LINES_MAX, sizeof *lines), *text = NULL;
  if (!lines) return NULL;
  size_t n = 0;
  bool whole = true;
  for (uint16_t id = 0; id < TUNABLES; id++) {
    unsigned places = tunable_infos[id].scope == TUNABLE_PROVIDER ? count : 1;
    for (uint16_t p = 0; p < places && whole; p++) {
      char *line = line_of(values[id][p], (struct tunable_key){id, p}, providers);
      if (line)
        lines[n++] = line;
      else
        whole = false;
    }
  }
  if (whole) {
    qsort(lines, n, sizeof *lines, by_name);
    text = join(lines, n);
  }
  for (size_t i = 0; i < n; i++)
    free(lines[i]);
  free(lines);
  return text;
}

int snapshot_id(const char *text, char id[SNAPSHOT_ID_SIZE]) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  if (EVP_Digest(text, strlen(text), digest, &size, EVP_sha256(), NULL) != 1) return -EIO;
  for (unsigned i = 0; i < size; i++)
    snprintf(id + 2 * i, 3, "%02x", digest[i]);
  return 0;
}

/* One line at *text: moves *text past it. False at the end. A line without '=' gives value NULL. */
static bool next_line(const char **text, char name[LINE_SIZE], char value[LINE_SIZE], bool *has_value) {
  while (**text == '\n')
    (*text)++;
  if (**text == 0) return false;
  size_t length = strcspn(*text, "\n"), split = strcspn(*text, "=\n");
  *has_value = split < length;
  snprintf(name, LINE_SIZE, "%.*s", (int)(split < LINE_SIZE ? split : LINE_SIZE - 1), *text);
  size_t rest = *has_value ? length - split - 1 : 0;
  snprintf(value, LINE_SIZE, "%.*s", (int)(rest < LINE_SIZE ? rest : LINE_SIZE - 1), *text + length - rest);
  *text += length;
  return true;
}

static bool read_value(const struct tunable_info *info, const char *text, double *value) {
  char *end;
  double v = strtod(text, &end);
  if (end == text || *end != 0 || !isfinite(v) || v < info->min || v > info->max) return false;
  if (info->kind == TUNABLE_INTEGER && v != round(v)) return false;
  *value = v;
  return true;
}

int snapshot_parse(const char *text, const char (*providers)[NAME_SIZE], unsigned count,
                   double values[TUNABLES][MAX_PROVIDERS], char *skipped, size_t skipped_size) {
  char name[LINE_SIZE], value[LINE_SIZE];
  bool has_value;
  int bad = 0;
  size_t used = 0;
  for (int id = 0; id < TUNABLES; id++)
    for (unsigned p = 0; p < MAX_PROVIDERS; p++)
      values[id][p] = NAN;
  if (skipped_size > 0) skipped[0] = 0;
  while (next_line(&text, name, value, &has_value)) {
    struct tunable_key key;
    if (has_value && tunable_find(name, providers, count, &key) == 0 &&
        read_value(&tunable_infos[key.id], value, &values[key.id][key.provider]))
      continue;
    bad++;
    if (used < skipped_size)
      used += (size_t)snprintf(skipped + used, skipped_size - used, "%s%s", bad > 1 ? ", " : "", name);
  }
  return bad;
}

/* ---- difference ---- */

static bool find_line(const char *text, const char *name, char value[LINE_SIZE]) {
  char other[LINE_SIZE];
  bool has_value;
  while (next_line(&text, other, value, &has_value))
    if (has_value && strcmp(other, name) == 0) return true;
  return false;
}

static void add_side(cJSON *item, const char *key, const char *value) {
  if (value)
    cJSON_AddNumberToObject(item, key, strtod(value, NULL));
  else
    cJSON_AddNullToObject(item, key);
}

/* Puts the item where its name belongs among those so far. */
static void add_difference(cJSON *array, const char *name, const char *from, const char *to) {
  cJSON *item = cJSON_CreateObject(), *other;
  cJSON_AddStringToObject(item, "name", name);
  add_side(item, "from", from);
  add_side(item, "to", to);
  int at = 0;
  cJSON_ArrayForEach(other, array) {
    if (strcmp(cJSON_GetObjectItem(other, "name")->valuestring, name) > 0) break;
    at++;
  }
  cJSON_InsertItemInArray(array, at, item);
}

char *snapshot_diff(const char *from, const char *to) {
  cJSON *array = cJSON_CreateArray();
  char name[LINE_SIZE], value[LINE_SIZE], other[LINE_SIZE];
  bool has_value;
  for (const char *at = to; next_line(&at, name, value, &has_value);) {
    if (!has_value) continue;
    bool both = find_line(from, name, other);
    if (!both || strtod(other, NULL) != strtod(value, NULL))
      add_difference(array, name, both ? other : NULL, value);
  }
  for (const char *at = from; next_line(&at, name, value, &has_value);)
    if (has_value && !find_line(to, name, other)) add_difference(array, name, value, NULL);
  char *text = cJSON_PrintUnformatted(array);
  cJSON_Delete(array);
  return text;
}
