#include "server/fields.h"

#include "loop.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST_HOLD_S = 10 * 365 * 86400, ID_DIGITS = 16 };

static const char *only(const cJSON *body, const char *const *allowed, const char *complaint) {
  const cJSON *item;
  cJSON_ArrayForEach(item, body) {
    const char *const *name = allowed;
    while (*name && strcmp(*name, item->string) != 0)
      name++;
    if (!*name) return complaint;
  }
  return NULL;
}

static const char *read_reason(const cJSON *body, struct command *c) {
  const cJSON *reason = cJSON_GetObjectItemCaseSensitive(body, "reason");
  if (reason && (!cJSON_IsString(reason) || strlen(reason->valuestring) > 500))
    return "\"reason\" must be a text of at most 500 bytes.";
  if (reason) c->reason = reason->valuestring;
  return NULL;
}

static const char *read_terms(const cJSON *body, int64_t wall_ms, struct command *c) {
  const cJSON *hold = cJSON_GetObjectItemCaseSensitive(body, "hold");
  const cJSON *guard = cJSON_GetObjectItemCaseSensitive(body, "guard");
  static const char wrong[] =
      "\"hold\" must be a number of seconds above 0, \"until_released\" (the default), or false for no hold.";
  if (cJSON_IsNumber(hold)) {
    if (!(hold->valuedouble > 0 && hold->valuedouble <= LONGEST_HOLD_S)) return wrong;
    c->hold_until_ms = wall_ms + (int64_t)(hold->valuedouble * 1000);
  } else if (cJSON_IsFalse(hold)) {
    c->hold_until_ms = -1;
  } else if (hold && !cJSON_IsTrue(hold)) {
    if (!cJSON_IsString(hold) || strcmp(hold->valuestring, "until_released") != 0) return wrong;
  }
  if (guard && !cJSON_IsBool(guard)) return "\"guard\" must be true (the default) or false.";
  c->unguarded = cJSON_IsFalse(guard);
  return read_reason(body, c);
}

const char *fields_change(const cJSON *body, const char *name, int64_t wall_ms, struct command *c) {
  static const char *const allowed[] = {"value", "hold", "guard", "reason", NULL};
  const cJSON *value = cJSON_GetObjectItemCaseSensitive(body, "value");
  const char *wrong =
      only(body, allowed, "Only \"value\", \"hold\", \"guard\" and \"reason\" are understood here.");
  if (wrong) return wrong;
  if (!cJSON_IsNumber(value)) return "\"value\" must be there and be a number.";
  c->changes[0].name = name;
  c->changes[0].value = value->valuedouble;
  c->change_count = 1;
  return read_terms(body, wall_ms, c);
}

const char *fields_changes(const cJSON *body, int64_t wall_ms, struct command *c) {
  static const char *const allowed[] = {"changes", "hold", "guard", "reason", NULL};
  const cJSON *changes = cJSON_GetObjectItemCaseSensitive(body, "changes"), *item;
  const char *wrong =
      only(body, allowed, "Only \"changes\", \"hold\", \"guard\" and \"reason\" are understood here.");
  if (wrong) return wrong;
  if (!cJSON_IsObject(changes) || !changes->child)
    return "\"changes\" must be an object of names and numbers.";
  cJSON_ArrayForEach(item, changes) {
    if (c->change_count == COMMAND_CHANGES) return "At most 16 values can be changed at once.";
    if (!cJSON_IsNumber(item)) return "Every value in \"changes\" must be a number.";
    for (unsigned i = 0; i < c->change_count; i++)
      if (!strcmp(c->changes[i].name, item->string)) return "A name stands twice in \"changes\".";
    c->changes[c->change_count].name = item->string;
    c->changes[c->change_count++].value = item->valuedouble;
  }
  return read_terms(body, wall_ms, c);
}

const char *fields_reason(const cJSON *body, struct command *c) {
  static const char *const allowed[] = {"reason", NULL};
  const char *wrong = only(body, allowed, "Only \"reason\" is understood here.");
  return wrong ? wrong : read_reason(body, c);
}

const char *fields_experiment(const cJSON *body, struct command *c) {
  static const char *const allowed[] = {"name",       "tunable", "treatment",  "share",
                                        "duration_s", "alpha",   "min_effect", NULL};
  const struct {
    const char *name;
    double *value;
  } numbers[] = {{"share", &c->share},
                 {"duration_s", &c->duration_s},
                 {"alpha", &c->alpha},
                 {"min_effect", &c->min_effect}};
  const char *wrong =
      only(body, allowed,
           "Only \"name\", \"tunable\", \"treatment\", \"share\", \"duration_s\", \"alpha\" and "
           "\"min_effect\" are understood here.");
  if (wrong) return wrong;
  const cJSON *treatment = cJSON_GetObjectItemCaseSensitive(body, "treatment");
  c->name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(body, "name"));
  c->text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(body, "tunable"));
  if (!c->name || !c->text) return "\"name\" and \"tunable\" must be there and be texts.";
  if (!cJSON_IsNumber(treatment)) return "\"treatment\", the value to try, must be there and be a number.";
  c->treatment = treatment->valuedouble;
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(body, numbers[i].name);
    if (item && !(cJSON_IsNumber(item) && item->valuedouble > 0 && item->valuedouble < 1e12))
      return "\"share\", \"duration_s\", \"alpha\" and \"min_effect\" must be numbers above 0 where they are "
             "given.";
    if (item) *numbers[i].value = item->valuedouble;
  }
  return NULL;
}

/* An id is known by its last 16 hex digits; what may stand before them is the prefix that we gave it. */
static bool read_id(const char *text, uint64_t *id) {
  size_t size = strlen(text);
  if (size < ID_DIGITS || (size > ID_DIGITS && text[size - ID_DIGITS - 1] != '-')) return false;
  const char *digits = text + size - ID_DIGITS;
  if (strspn(digits, "0123456789abcdefABCDEF") != ID_DIGITS) return false;
  *id = strtoull(digits, NULL, 16);
  return true;
}

const char *fields_feedback(const cJSON *body, struct command *c) {
  static const char *const allowed[] = {"request_id", "reward", "source", NULL};
  const char *wrong =
      only(body, allowed, "Only \"request_id\", \"reward\" and \"source\" are understood here.");
  if (wrong) return wrong;
  const char *id = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(body, "request_id"));
  const cJSON *reward = cJSON_GetObjectItemCaseSensitive(body, "reward");
  const cJSON *source = cJSON_GetObjectItemCaseSensitive(body, "source");
  if (!id) return "\"request_id\", the X-Request-Id of an answer, must be there and be a text.";
  if (!cJSON_IsNumber(reward) || !(reward->valuedouble >= 0 && reward->valuedouble <= 1))
    return "\"reward\" must be a number from 0 to 1.";
  if (source && (!cJSON_IsString(source) || strlen(source->valuestring) > 100))
    return "\"source\" must be a text of at most 100 bytes.";
  if (!read_id(id, &c->request)) c->request = 0;
  c->value = reward->valuedouble;
  c->provider = -1;
  c->text = source ? source->valuestring : "http";
  return NULL;
}
