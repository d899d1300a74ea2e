/* Integers are written with all their digits, which a double would not keep. */

#include "store/json.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_SIZE = 64 };

/* Length of the UTF-8 sequence that starts at s, 0 when it is none (RFC 3629). */
static size_t sequence(const unsigned char *s, size_t left) {
  if (s[0] < 0x80) return 1;
  size_t n = s[0] >= 0xc2 && s[0] < 0xe0   ? 2
             : (s[0] & 0xf0) == 0xe0       ? 3
             : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
                                           : 0;
  if (n == 0 || n > left) return 0;
  for (size_t i = 1; i < n; i++)
    if ((s[i] & 0xc0) != 0x80) return 0;
  if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f)) return 0; /* overlong, surrogate */
  if ((s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f)) return 0; /* overlong, past U+10FFFF */
  return n;
}

static bool is_text(const unsigned char *s, size_t size) {
  for (size_t i = 0, n; i < size; i += n)
    if (s[i] == 0 || (n = sequence(s + i, size - i)) == 0) return false;
  return true;
}

static cJSON *text_value(const unsigned char *s, size_t size) {
  char *copy = malloc(size + 1);
  if (!copy) return NULL;
  for (size_t i = 0, n; i < size; i += n) {
    n = s[i] ? sequence(s + i, size - i) : 0;
    if (n > 0)
      memcpy(copy + i, s + i, n);
    else
      copy[i] = '?', n = 1;
  }
  copy[size] = '\0';
  cJSON *value = cJSON_CreateString(copy);
  free(copy);
  return value;
}

static cJSON *hex_value(const unsigned char *s, size_t size) {
  static const char digits[] = "0123456789abcdef";
  char *text = malloc(2 * size + 1);
  if (!text) return NULL;
  for (size_t i = 0; i < size; i++) {
    text[2 * i] = digits[s[i] >> 4];
    text[2 * i + 1] = digits[s[i] & 15];
  }
  text[2 * size] = '\0';
  cJSON *value = cJSON_CreateString(text);
  free(text);
  return value;
}

static cJSON *integer_value(int64_t number) {
  char digits[24];
  snprintf(digits, sizeof digits, "%lld", (long long)number);
  return cJSON_CreateRaw(digits);
}

static cJSON *stored_json(const unsigned char *text, size_t size) {
  cJSON *value = is_text(text, size) ? cJSON_ParseWithLength((const char *)text, size) : NULL;
  return value ? value : text_value(text, size);
}

/* May lengthen key, which has room for "_hex". */
static cJSON *blob_value(const unsigned char *bytes, size_t size, char *key) {
  if (is_text(bytes, size)) return text_value(bytes, size);
  strcat(key, "_hex");
  return hex_value(bytes, size);
}

static cJSON *column_value(sqlite3_stmt *s, int at, const char *hint, char *key) {
  switch (sqlite3_column_type(s, at)) {
  case SQLITE_INTEGER:
    if (strcmp(hint, "bool") == 0) return cJSON_CreateBool(sqlite3_column_int(s, at) != 0);
    return integer_value(sqlite3_column_int64(s, at));
  case SQLITE_FLOAT: {
    double number = sqlite3_column_double(s, at);
    return isfinite(number) ? cJSON_CreateNumber(number) : cJSON_CreateNull();
  }
  case SQLITE_TEXT: {
    const unsigned char *text = sqlite3_column_text(s, at);
    size_t size = (size_t)sqlite3_column_bytes(s, at);
    return strcmp(hint, "json") == 0 ? stored_json(text, size) : text_value(text, size);
  }
  case SQLITE_BLOB: {
    const unsigned char *bytes = sqlite3_column_blob(s, at);
    return blob_value(bytes, (size_t)sqlite3_column_bytes(s, at), key);
  }
  default:
    return cJSON_CreateNull();
  }
}

static bool add_column(cJSON *object, sqlite3_stmt *s, int at) {
  char key[KEY_SIZE + 8];
  const char *name = sqlite3_column_name(s, at);
  if (!name) return false;
  size_t size = strcspn(name, ":");
  snprintf(key, KEY_SIZE, "%.*s", (int)size, name);
  cJSON *value = column_value(s, at, name[size] ? name + size + 1 : "", key);
  if (value && cJSON_AddItemToObject(object, key, value)) return true;
  cJSON_Delete(value);
  return false;
}

cJSON *json_row(sqlite3_stmt *statement) {
  cJSON *object = cJSON_CreateObject();
  if (!object) return NULL;
  for (int i = 0, n = sqlite3_column_count(statement); i < n; i++)
    if (!add_column(object, statement, i)) {
      cJSON_Delete(object);
      return NULL;
    }
  return object;
}
