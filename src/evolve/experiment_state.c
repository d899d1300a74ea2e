/* An experiment as JSON: the specification as created, and the sums that go on after a restart. Times are
 * kept as the age in seconds, since a monotonic clock starts anew. Anything out of shape makes the whole
 * state unusable: half an experiment decides wrongly. */

#include "evolve/internal.h"

#include "sys/clock.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- specification ---- */

char *experiment_spec_json(const struct experiment *e) {
  const struct experiment_spec *s = &e->spec;
  char seed[24];
  snprintf(seed, sizeof seed, "%llu", (unsigned long long)s->seed);
  cJSON *o = cJSON_CreateObject();
  cJSON_AddNumberToObject(o, "id", (double)s->id);
  cJSON_AddStringToObject(o, "name", s->name);
  cJSON_AddStringToObject(o, "tunable", s->tunable);
  cJSON_AddStringToObject(o, "design", s->design == TRIAL_SESSION ? "session" : "switchback");
  cJSON_AddNumberToObject(o, "control", s->control);
  cJSON_AddNumberToObject(o, "treatment", s->treatment);
  cJSON_AddNumberToObject(o, "share", s->share);
  cJSON_AddNumberToObject(o, "duration_s", s->duration_s);
  cJSON_AddNumberToObject(o, "alpha", s->alpha);
  cJSON_AddNumberToObject(o, "min_effect", s->min_effect);
  cJSON_AddNumberToObject(o, "guard_error", s->guard_error);
  cJSON_AddNumberToObject(o, "guard_target", s->guard_target);
  cJSON_AddStringToObject(o, "seed", seed); /* 64 bits do not fit a JSON number */
  char *text = cJSON_PrintUnformatted(o);
  cJSON_Delete(o);
  return text;
}

static bool read_number(const cJSON *o, const char *key, double *out) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(o, key);
  if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble)) return false;
  *out = item->valuedouble;
  return true;
}

static bool read_count(const cJSON *o, const char *key, int64_t *out) {
  double v;
  if (!read_number(o, key, &v) || v < 0.0 || v > 9e15) return false;
  *out = (int64_t)v;
  return true;
}

static const char *text_of(const cJSON *o, const char *key) {
  const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(o, key));
  return text ? text : "";
}

static bool read_spec(const cJSON *o, struct experiment_spec *s) {
  const char *name = text_of(o, "name"), *tunable = text_of(o, "tunable"), *design = text_of(o, "design");
  if (!*name || strlen(name) >= sizeof s->name || !*tunable || strlen(tunable) >= sizeof s->tunable)
    return false;
  if (strcmp(design, "session") != 0 && strcmp(design, "switchback") != 0) return false;
  memcpy(s->name, name, strlen(name) + 1);
  memcpy(s->tunable, tunable, strlen(tunable) + 1);
  s->design = strcmp(design, "session") == 0 ? TRIAL_SESSION : TRIAL_SWITCHBACK;
  s->seed = strtoull(text_of(o, "seed"), NULL, 10);
  return read_count(o, "id", &s->id) && read_number(o, "control", &s->control) &&
         read_number(o, "treatment", &s->treatment) && read_number(o, "share", &s->share) &&
         read_number(o, "duration_s", &s->duration_s) && read_number(o, "alpha", &s->alpha) &&
         read_number(o, "min_effect", &s->min_effect) && read_number(o, "guard_error", &s->guard_error) &&
         read_number(o, "guard_target", &s->guard_target);
}

int experiment_spec_parse(const char *json, struct experiment_spec *spec) {
  cJSON *o = cJSON_Parse(json);
  struct experiment_spec read = {0};
  bool good = read_spec(o, &read);
  cJSON_Delete(o);
  if (!good) return -EINVAL;
  *spec = read;
  return 0;
}

/* ---- state ---- */

static cJSON *moments_json(const struct moments *m) {
  return cJSON_CreateDoubleArray(&m->n, 3);
}

static bool read_moments(const cJSON *item, struct moments *m) {
  double v[3];
  if (cJSON_GetArraySize(item) != 3) return false;
  for (int i = 0; i < 3; i++) {
    const cJSON *number = cJSON_GetArrayItem(item, i);
    if (!cJSON_IsNumber(number) || !isfinite(number->valuedouble)) return false;
    v[i] = number->valuedouble;
  }
  if (v[0] < 0.0 || v[2] < 0.0) return false;
  *m = (struct moments){v[0], v[1], v[2]};
  return true;
}

static cJSON *arm_json(const struct experiment *e, int arm) {
  cJSON *o = cJSON_CreateObject();
  cJSON_AddNumberToObject(o, "requests", (double)e->requests[arm]);
  cJSON_AddNumberToObject(o, "blocks", (double)e->blocks[arm]);
  cJSON_AddItemToObject(o, "sums", cJSON_CreateDoubleArray(e->sums[arm], MEASURES));
  cJSON *measures = cJSON_AddArrayToObject(o, "measures");
  for (int m = 0; m < MEASURES; m++)
    cJSON_AddItemToArray(measures, moments_json(&e->arm[arm][m]));
  return o;
}

static bool read_arm(const cJSON *o, struct experiment *e, int arm) {
  const cJSON *sums = cJSON_GetObjectItemCaseSensitive(o, "sums");
  const cJSON *measures = cJSON_GetObjectItemCaseSensitive(o, "measures");
  if (cJSON_GetArraySize(sums) != MEASURES || cJSON_GetArraySize(measures) != MEASURES) return false;
  for (int m = 0; m < MEASURES; m++) {
    const cJSON *sum = cJSON_GetArrayItem(sums, m);
    if (!cJSON_IsNumber(sum) || !isfinite(sum->valuedouble)) return false;
    e->sums[arm][m] = sum->valuedouble;
    if (!read_moments(cJSON_GetArrayItem(measures, m), &e->arm[arm][m])) return false;
  }
  return read_count(o, "requests", &e->requests[arm]) && read_count(o, "blocks", &e->blocks[arm]);
}

char *experiment_save(const struct experiment *e, int64_t now_ns) {
  cJSON *o = cJSON_CreateObject();
  cJSON_AddNumberToObject(o, "age_s", fmax(0.0, (double)(now_ns - e->began_ns) / (double)NS_PER_S));
  cJSON_AddNumberToObject(o, "groups", (double)e->switchback.number);
  cJSON_AddNumberToObject(o, "left_out", (double)e->left_out);
  cJSON_AddItemToObject(o, "control", arm_json(e, CONTROL));
  cJSON_AddItemToObject(o, "treatment", arm_json(e, TREATMENT));
  cJSON *differences = cJSON_AddArrayToObject(o, "differences");
  for (int m = 0; m < MEASURES; m++)
    cJSON_AddItemToArray(differences, moments_json(&e->difference[m]));
  char *text = cJSON_PrintUnformatted(o);
  cJSON_Delete(o);
  return text;
}

static bool read_state(const cJSON *o, struct experiment *e, int64_t now_ns) {
  double age_s;
  int64_t groups;
  const cJSON *differences = cJSON_GetObjectItemCaseSensitive(o, "differences");
  if (!read_number(o, "age_s", &age_s) || age_s < 0.0 || age_s > 1e9 || !read_count(o, "groups", &groups))
    return false;
  if (cJSON_GetArraySize(differences) != MEASURES || !read_count(o, "left_out", &e->left_out)) return false;
  for (int m = 0; m < MEASURES; m++)
    if (!read_moments(cJSON_GetArrayItem(differences, m), &e->difference[m])) return false;
  e->began_ns = now_ns - (int64_t)(age_s * (double)NS_PER_S);
  e->switchback.number = (uint64_t)groups;
  return read_arm(cJSON_GetObjectItemCaseSensitive(o, "control"), e, CONTROL) &&
         read_arm(cJSON_GetObjectItemCaseSensitive(o, "treatment"), e, TREATMENT);
}

struct experiment *experiment_restore(const struct experiment_spec *spec, const char *state, int64_t now_ns) {
  struct experiment *e = experiment_create(spec, now_ns);
  cJSON *o = cJSON_Parse(state);
  bool good = e && read_state(o, e, now_ns);
  cJSON_Delete(o);
  if (good) return e;
  experiment_destroy(e);
  return NULL;
}
