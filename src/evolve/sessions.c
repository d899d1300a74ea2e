/* Open addressing, linear probing, at most half full. A slot without requests and without the used mark is
 * free. */

#include "evolve/sessions.h"

#include "sys/rng.h"

#include <stdlib.h>

enum { FIRST_SLOTS = 1024 };

struct slot {
  bool used;
  struct session session;
};

struct sessions {
  struct slot *slots;
  uint32_t size, count, most;
};

struct sessions *sessions_create(uint32_t most) {
  struct sessions *s = calloc(1, sizeof *s);
  if (!s) return NULL;
  s->most = most;
  s->size = FIRST_SLOTS;
  s->slots = calloc(s->size, sizeof *s->slots);
  if (s->slots) return s;
  free(s);
  return NULL;
}

void sessions_destroy(struct sessions *s) {
  if (!s) return;
  free(s->slots);
  free(s);
}

static struct slot *probe(struct slot *slots, uint32_t size, uint64_t id) {
  uint32_t i = (uint32_t)mix64(id) & (size - 1);
  while (slots[i].used && slots[i].session.id != id)
    i = (i + 1) & (size - 1);
  return &slots[i];
}

static bool grow(struct sessions *s) {
  uint32_t size = s->size * 2;
  struct slot *slots = calloc(size, sizeof *slots);
  if (!slots) return false;
  for (uint32_t i = 0; i < s->size; i++)
    if (s->slots[i].used) *probe(slots, size, s->slots[i].session.id) = s->slots[i];
  free(s->slots);
  s->slots = slots;
  s->size = size;
  return true;
}

struct session *sessions_at(struct sessions *s, uint64_t id) {
  struct slot *slot = probe(s->slots, s->size, id);
  if (slot->used) return &slot->session;
  if (s->count >= s->most) return NULL;
  if ((s->count + 1) * 2 > s->size) {
    if (!grow(s)) return NULL;
    slot = probe(s->slots, s->size, id);
  }
  *slot = (struct slot){.used = true, .session = {.id = id}};
  s->count++;
  return &slot->session;
}
