#include "sim/csv.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct csv {
  FILE *file;
  bool piped;
  char *row; /* the fields of the present row, each with its NUL */
  size_t size, capacity;
  size_t starts[CSV_FIELDS];
};

static bool readable(char *path, const char *dir, const char *subdir, const char *name) {
  int n = subdir ? snprintf(path, PATH_MAX, "%s/%s/%s", dir, subdir, name)
                 : snprintf(path, PATH_MAX, "%s/%s", dir, name);
  return n > 0 && n < PATH_MAX && access(path, R_OK) == 0;
}

/* Writes the path of the first that exists. */
static bool locate(char *path, const char *dir, const char *subdir, const char *name) {
  char other[NAME_MAX + 4];
  size_t n = strlen(name);
  if (n >= NAME_MAX) return false;
  bool packed = n > 3 && strcmp(name + n - 3, ".gz") == 0;
  if (packed)
    snprintf(other, sizeof other, "%.*s", (int)(n - 3), name);
  else
    snprintf(other, sizeof other, "%s.gz", name);
  return readable(path, dir, subdir, name) || readable(path, dir, subdir, other) ||
         readable(path, dir, NULL, name) || readable(path, dir, NULL, other);
}

/* A quote in the path would end the shell's word: such paths are refused. */
static FILE *unpack(const char *path) {
  char command[PATH_MAX + 32];
  if (strchr(path, '\'')) return NULL;
  snprintf(command, sizeof command, "gzip -dc '%s'", path);
  return popen(command, "r");
}

struct csv *csv_open(const char *dir, const char *subdir, const char *name, char *error, size_t error_size) {
  char path[PATH_MAX];
  if (!locate(path, dir, subdir, name)) {
    snprintf(error, error_size,
             "%s/%s/%s: no such file (nor with .gz, nor in %s): set DATA to a directory that has it", dir,
             subdir, name, dir);
    return NULL;
  }
  struct csv *csv = calloc(1, sizeof *csv);
  if (!csv) return NULL;
  size_t n = strlen(path);
  csv->piped = n > 3 && strcmp(path + n - 3, ".gz") == 0;
  csv->file = csv->piped ? unpack(path) : fopen(path, "r");
  if (!csv->file) {
    snprintf(error, error_size, "%s: cannot be opened", path);
    free(csv);
    return NULL;
  }
  return csv;
}

void csv_close(struct csv *csv) {
  if (!csv) return;
  if (csv->piped)
    pclose(csv->file);
  else
    fclose(csv->file);
  free(csv->row);
  free(csv);
}

static bool put(struct csv *csv, int c) {
  if (csv->size == csv->capacity) {
    size_t capacity = csv->capacity ? 2 * csv->capacity : 4096;
    char *row = realloc(csv->row, capacity);
    if (!row) return false;
    csv->row = row;
    csv->capacity = capacity;
  }
  csv->row[csv->size++] = (char)c;
  return true;
}

/* One field into row. Returns what ended it: ',', '\n' or EOF. */
static int read_field(struct csv *csv) {
  bool quoted = false;
  for (;;) {
    int c = getc_unlocked(csv->file);
    if (quoted && c == '"') {
      c = getc_unlocked(csv->file);
      if (c != '"') quoted = false;
    } else if (!quoted && c == '"') {
      quoted = true;
      continue;
    }
    bool ends = c == EOF || (!quoted && (c == ',' || c == '\n'));
    if (!ends && (quoted || c != '\r') && !put(csv, c)) return EOF;
    if (ends) return put(csv, '\0') ? c : EOF;
  }
}

size_t csv_next(struct csv *csv, const char *fields[CSV_FIELDS]) {
  size_t count = 0;
  int end = ',';
  csv->size = 0;
  while (end == ',' && count < CSV_FIELDS) {
    csv->starts[count++] = csv->size;
    end = read_field(csv);
  }
  if (end == EOF && count == 1 && csv->size <= 1) return 0;
  for (size_t i = 0; i < count; i++)
    fields[i] = csv->row + csv->starts[i];
  return count;
}
