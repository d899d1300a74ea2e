#include "cli/table.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { CELL = 200, COLUMNS = 16, ID_SHOWN = 10 };

const cJSON *table_list(const cJSON *json) {
  if (cJSON_IsArray(json)) return json;
  const cJSON *member;
  cJSON_ArrayForEach(member, json) if (cJSON_IsArray(member)) return member;
  return NULL;
}

static const cJSON *find(const cJSON *row, const char *key) {
  const char *dot = strchr(key, '.');
  char outer[64];
  if (!dot) return cJSON_GetObjectItemCaseSensitive(row, key);
  snprintf(outer, sizeof outer, "%.*s", (int)(dot - key), key);
  return cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(row, outer), dot + 1);
}

void table_time(double wall_ms, char out[TABLE_TIME]) {
  time_t seconds = (time_t)(wall_ms / 1000);
  struct tm local;
  localtime_r(&seconds, &local);
  strftime(out, TABLE_TIME, "%Y-%m-%d %H:%M:%S", &local);
}

const char *table_number(double value, char out[TABLE_NUMBER]) {
  bool whole = value == floor(value) && fabs(value) < 1e15;
  snprintf(out, TABLE_NUMBER, whole || (fabs(value) >= 1000 && fabs(value) < 1e15) ? "%.0f" : "%.4g", value);
  return out;
}

static void cell(const cJSON *value, const struct column *column, char out[CELL]) {
  const char *text = cJSON_GetStringValue(value);
  if (cJSON_IsNumber(value) && column->kind == COLUMN_TIME)
    table_time(value->valuedouble, out);
  else if (cJSON_IsNumber(value))
    table_number(value->valuedouble, out);
  else if (cJSON_IsBool(value))
    snprintf(out, CELL, "%s", cJSON_IsTrue(value) ? "yes" : "no");
  else if (text && column->kind == COLUMN_ID)
    snprintf(out, CELL, "%.*s", ID_SHOWN, text);
  else
    snprintf(out, CELL, "%s", text ? text : "-");
}

/* Characters, not bytes: continuation bytes of UTF-8 take no room. */
static int width_of(const char *text) {
  int n = 0;
  for (; *text; text++)
    n += ((unsigned char)*text & 0xc0) != 0x80;
  return n;
}

static void print_row(const cJSON *row, const struct column *columns, unsigned count, const int *widths) {
  char text[CELL];
  for (unsigned i = 0; i < count; i++) {
    if (row)
      cell(find(row, columns[i].key), &columns[i], text);
    else
      snprintf(text, sizeof text, "%s", columns[i].title);
    int pad = widths[i] - width_of(text);
    bool right = columns[i].kind == COLUMN_NUMBER;
    if (i == count - 1 && !right) pad = 0;
    printf("%s%*s%s%*s", i ? "  " : "", right ? pad : 0, "", text, right ? 0 : pad, "");
  }
  putchar('\n');
}

void table_print(const cJSON *json, const struct column *columns, unsigned count, const char *none) {
  const cJSON *list = table_list(json), *row;
  int widths[COLUMNS];
  char text[CELL];
  if (cJSON_GetArraySize(list) == 0) {
    puts(none);
    return;
  }
  if (count > COLUMNS) count = COLUMNS;
  for (unsigned i = 0; i < count; i++) {
    widths[i] = width_of(columns[i].title);
    cJSON_ArrayForEach(row, list) {
      cell(find(row, columns[i].key), &columns[i], text);
      if (width_of(text) > widths[i]) widths[i] = width_of(text);
    }
  }
  print_row(NULL, columns, count, widths);
  cJSON_ArrayForEach(row, list) print_row(row, columns, count, widths);
}

void table_members(const cJSON *object) {
  static const struct column any = {"", "", COLUMN_TEXT};
  const cJSON *member;
  char text[CELL];
  cJSON_ArrayForEach(member, object) {
    if (cJSON_IsArray(member) || cJSON_IsObject(member)) continue;
    cell(member, &any, text);
    printf("  %-22s %s\n", member->string, text);
  }
}
