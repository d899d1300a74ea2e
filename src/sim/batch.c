/* Children take the next task from a counter in shared memory and write their results there. */

#include "sim/batch.h"

#include "bus/telemetry.h"
#include "sim/dataset.h"
#include "sim/scenario.h"
#include "sys/clock.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

struct shared {
  _Atomic size_t next;
  struct batch_result results[];
};

struct batch {
  struct shared *shared;
  size_t shared_size, minutes_size;
  struct measure_minute *minutes;
};

static void fill_window(const struct measure *m, const struct measure_sums *s, struct batch_window *w) {
  *w = (struct batch_window){.intents = s->intents,
                             .complete = s->complete,
                             .in_target = s->in_target,
                             .shed = s->shed,
                             .timed_out = s->timed_out,
                             .calls = s->calls,
                             .utility = measure_utility(m, s),
                             .goodput = measure_goodput(s),
                             .share = measure_share(s),
                             .quality = measure_quality(s),
                             .usd = s->usd,
                             .instance_usd = s->instance_usd,
                             .ttft_p50_ms = sketch_quantile(&s->ttft_ms, 0.50),
                             .ttft_p95_ms = sketch_quantile(&s->ttft_ms, 0.95),
                             .ttft_p99_ms = sketch_quantile(&s->ttft_ms, 0.99),
                             .tpot_p50_ms = sketch_quantile(&s->tpot_ms, 0.50),
                             .tpot_p95_ms = sketch_quantile(&s->tpot_ms, 0.95),
                             .tpot_p99_ms = sketch_quantile(&s->tpot_ms, 0.99)};
}

static uint64_t sum(const struct counter_totals *t, enum counter_id id) {
  uint64_t n = 0;
  for (unsigned i = 0; i < MAX_PROVIDERS; i++)
    n += t->value[id][i];
  return n;
}

/* Counted by the pipeline, by the clients and by the measures: the three must agree. */
static bool conserved(struct world *w, const struct counter_totals *t, uint64_t came_back) {
  const struct world_shares *s = world_shares(w);
  uint64_t admitted = sum(t, COUNTER_requests_admitted);
  uint64_t ended = sum(t, COUNTER_requests_answered) + sum(t, COUNTER_requests_dead_lettered) +
                   sum(t, COUNTER_requests_client_gone);
  return admitted == ended &&
         sum(t, COUNTER_requests_received) == admitted + sum(t, COUNTER_requests_limited) &&
         s->submitted == s->refused + s->finished + s->left &&
         s->left == sum(t, COUNTER_requests_client_gone) &&
         s->submitted == measure_run(world_measure(w))->intents + came_back &&
         sum(t, COUNTER_dead_letters_lost) == 0 &&
         recorder_counts(world_recorder(w))->dead_letters == sum(t, COUNTER_requests_dead_lettered);
}

static void fill(struct world *w, struct batch_result *r, size_t most) {
  const struct measure *m = world_measure(w);
  const struct recorder_counts *c = recorder_counts(world_recorder(w));
  struct counter_totals totals;
  size_t minutes;
  const struct measure_minute *series = measure_minutes(m, &minutes);
  world_counters(w, &totals);
  fill_window(m, measure_run(m), &r->run);
  fill_window(m, measure_event(m), &r->event);
  r->setting_changes = (double)(c->changes + c->episode_steps);
  r->undone = (double)c->undone;
  r->digest = world_digest(w);
  r->retries = sum(&totals, COUNTER_retries);
  r->conserved = conserved(w, &totals, measure_run(m)->came_back);
  r->minute_count = minutes < most ? minutes : most;
  memcpy(r->minutes, series, r->minute_count * sizeof *series);
  r->error[0] = '\0';
}

static void run_world(const struct batch_task *t, const struct scenario *s, const struct dataset *d,
                      struct batch_result *r, size_t minutes) {
  const struct scenario_event *e = s->event_count ? &s->events[0] : NULL;
  struct world_options options = {.scenario = s,
                                  .data = d,
                                  .seed = t->seed,
                                  .arm = t->arm,
                                  .first = t->first,
                                  .freeze_at_ns = t->freeze && e ? e->at_ns - NS_PER_S : NS_NEVER,
                                  .event_ns = e ? e->at_ns : NS_NEVER,
                                  .event_until_ns = e ? e->until_ns : NS_NEVER};
  r->event_ns = e ? e->at_ns : s->length_ns;
  struct world *w = world_create(&options);
  if (!w) {
    snprintf(r->error, sizeof r->error, "out of memory");
    return;
  }
  world_run(w);
  fill(w, r, minutes);
  world_destroy(w);
}

static void run_task(const struct batch_task *t, struct batch_result *r, size_t minutes) {
  char error[sizeof r->error];
  struct scenario *s = scenario_load(t->scenario, t->seed, error, sizeof error);
  struct dataset *d = s ? dataset_load(s, t->data, 1, error, sizeof error) : NULL;
  if (d)
    run_world(t, s, d, r, minutes);
  else
    memcpy(r->error, error, sizeof error);
  dataset_destroy(d);
  scenario_destroy(s);
}

static void work(struct batch *b, const struct batch_task *tasks, size_t count, size_t minutes) {
  size_t i;
  while ((i = atomic_fetch_add(&b->shared->next, 1)) < count)
    run_task(&tasks[i], &b->shared->results[i], minutes);
}

static void *share(size_t size) {
  void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? NULL : p;
}

static struct batch *prepare(size_t count, size_t minutes) {
  struct batch *b = calloc(1, sizeof *b);
  if (!b) return NULL;
  b->shared_size = sizeof *b->shared + count * sizeof *b->shared->results;
  b->minutes_size = (count * minutes + 1) * sizeof *b->minutes;
  b->shared = share(b->shared_size);
  b->minutes = share(b->minutes_size);
  if (!b->shared || !b->minutes) {
    batch_destroy(b);
    return NULL;
  }
  for (size_t i = 0; i < count; i++) {
    struct batch_result *r = &b->shared->results[i];
    snprintf(r->error, sizeof r->error, "the run did not come to its end");
    r->minutes = b->minutes + i * minutes;
  }
  return b;
}

struct batch *batch_run(const struct batch_task *tasks, size_t count, unsigned processes, size_t minutes) {
  struct batch *b = prepare(count, minutes);
  if (!b) return NULL;
  fflush(NULL);
  unsigned started = 0;
  for (unsigned i = 0; i < processes; i++) {
    pid_t pid = fork();
    if (pid == 0) {
      work(b, tasks, count, minutes);
      _exit(0);
    }
    started += pid > 0;
  }
  if (started == 0) work(b, tasks, count, minutes);
  while (started-- > 0)
    wait(NULL);
  return b;
}

const struct batch_result *batch_result(const struct batch *b, size_t i) {
  return &b->shared->results[i];
}

void batch_destroy(struct batch *b) {
  if (!b) return;
  if (b->shared) munmap(b->shared, b->shared_size);
  if (b->minutes) munmap(b->minutes, b->minutes_size);
  free(b);
}
