#include "bus/tunables.h"

#include "sys/rng.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

const struct tunable_info tunable_infos[TUNABLES] = {
#define TUNABLE(id, scope, kind, toml, unit, min, max, initial, step, cooldown, owner, measured, setpoint,   \
                sign, group, window, trial, help)                                                            \
  {#id,      toml,     unit,    help,          TUNABLE_##scope, TUNABLE_##kind,                              \
   min,      max,      initial, step,          cooldown,        OWNER_##owner,                               \
   measured, setpoint, sign,    GROUP_##group, window,          TRIAL_##trial},
#include "bus/tunables.def"
};

const char *tunable_owner_name(enum tunable_owner owner) {
  static const char *const names[OWNERS] = {"person",    "buffers", "shed",      "promotion",
                                            "admission", "breaker", "gradient2", "autoscaler"};
  return names[owner];
}

const char *effect_group_name(enum effect_group group) {
  static const char *const names[GROUPS] = {"buffers", "queue", "admission", "breaker",  "retry", "timeouts",
                                            "limits",  "scale", "routing",   "coalesce", "memory"};
  return names[group];
}

void tunables_init(struct tunables *t) {
  for (int id = 0; id < TUNABLES; id++)
    for (unsigned p = 0; p < MAX_PROVIDERS; p++)
      atomic_init(&t->value[id][p], tunable_infos[id].initial);
  atomic_init(&t->treated, -1);
  atomic_init(&t->treatment, 0.0);
  atomic_init(&t->treatment_salt, 0);
  atomic_init(&t->treatment_share, 0.0);
}

bool tunables_treats(const struct tunables *t, uint64_t session) {
  struct tunables *m = (struct tunables *)t;
  if (atomic_load_explicit(&m->treated, memory_order_relaxed) < 0) return false;
  uint64_t salt = atomic_load_explicit(&m->treatment_salt, memory_order_relaxed);
  double share = atomic_load_explicit(&m->treatment_share, memory_order_relaxed);
  return (double)(mix64(session ^ mix64(salt)) >> 11) * 0x1p-53 < share;
}

void tunables_treat(struct tunables *t, int id, double treatment, uint64_t salt, double share) {
  atomic_store_explicit(&t->treated, -1, memory_order_relaxed);
  atomic_store_explicit(&t->treatment, treatment, memory_order_relaxed);
  atomic_store_explicit(&t->treatment_salt, salt, memory_order_relaxed);
  atomic_store_explicit(&t->treatment_share, share, memory_order_relaxed);
  atomic_store_explicit(&t->treated, id, memory_order_relaxed);
}

void tunable_set(struct tunables *t, struct tunable_key key, double value) {
  atomic_store_explicit(&t->value[key.id][key.provider], value, memory_order_relaxed);
}

double tunable_clamp(enum tunable_id id, double value, double otherwise) {
  const struct tunable_info *info = &tunable_infos[id];
  if (isnan(value)) return otherwise;
  if (info->kind == TUNABLE_INTEGER) value = round(value);
  return fmin(fmax(value, info->min), info->max);
}

int tunable_find(const char *text, const char (*providers)[NAME_SIZE], unsigned count,
                 struct tunable_key *key) {
  const char *dot = strchr(text, '.');
  size_t length = dot ? (size_t)(dot - text) : strlen(text);
  for (uint16_t id = 0; id < TUNABLES; id++) {
    const struct tunable_info *info = &tunable_infos[id];
    if (strlen(info->name) != length || memcmp(info->name, text, length) != 0) continue;
    if ((info->scope == TUNABLE_PROVIDER) != (dot != NULL)) return -ENOENT;
    if (!dot) {
      *key = (struct tunable_key){id, 0};
      return 0;
    }
    for (uint16_t p = 0; p < count; p++)
      if (strcmp(providers[p], dot + 1) == 0) {
        *key = (struct tunable_key){id, p};
        return 0;
      }
    return -ENOENT;
  }
  return -ENOENT;
}

void tunable_name(struct tunable_key key, const char (*providers)[NAME_SIZE], char *out, size_t size) {
  const struct tunable_info *info = &tunable_infos[key.id];
  if (info->scope == TUNABLE_PROVIDER)
    snprintf(out, size, "%s.%s", info->name, providers[key.provider]);
  else
    snprintf(out, size, "%s", info->name);
}
