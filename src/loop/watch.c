/* Anomaly detection: a few detectors for each provider and for the whole daemon. What they find is an
 * incident: one row that opens, may worsen, and closes. One slow answer in a quiet second is none. */

#include "loop/internal.h"

#include "control/anomaly.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { MANY = 5 }; /* latencies in a tick */
#define AGAIN_NS (60 * NS_PER_S)
enum metric { METRIC_ERRORS, METRIC_THROTTLED, METRIC_TTFT, METRIC_TPOT, PROVIDER_METRICS };
enum whole { WHOLE_TARGET, WHOLE_LOST, WHOLE_METRICS };

static const struct anomaly_settings provider_settings[PROVIDER_METRICS] = {
    [METRIC_ERRORS] = {"error rate", "", ANOMALY_RATE, ANOMALY_RISE, 0, 0.02, 0.2, 30, 3600},
    [METRIC_THROTTLED] = {"share of 429", "", ANOMALY_RATE, ANOMALY_RISE, 0, 0.05, 0.5, 30, 3600},
    [METRIC_TTFT] = {"time to first token", "ms", ANOMALY_LOG, ANOMALY_RISE, 0.1, 0.5, 2.0, 30, 3600},
    [METRIC_TPOT] = {"time per token", "ms", ANOMALY_LOG, ANOMALY_RISE, 0.1, 0.25, 1.0, 30, 3600},
};
static const struct anomaly_settings whole_settings[WHOLE_METRICS] = {
    [WHOLE_TARGET] = {"in-target share", "", ANOMALY_RATE, ANOMALY_FALL, 0, 0.02, 0.2, 30, 3600},
    [WHOLE_LOST] = {"share without an answer", "", ANOMALY_RATE, ANOMALY_RISE, 0, 0.02, 0.1, 30, 3600},
};

struct watcher {
  struct anomaly anomaly;
  int64_t id, opened_ms;
};

/* An open breaker is no matter of statistics. One that opens again within a minute is the same incident: at a
 * provider that is full, or fails half of the time, there would be one every twenty seconds. */
struct broken {
  bool open;
  int64_t id, first_ms; /* of the present incident, or the last; id 0: none yet */
  int64_t opened_ms, closed_ns;
  unsigned times;
};

struct watchers {
  struct watcher provider[MAX_PROVIDERS][PROVIDER_METRICS];
  struct broken broken[MAX_PROVIDERS];
  struct watcher whole[WHOLE_METRICS];
  int64_t next_id;
  unsigned open;
};

struct watchers *watchers_create(const struct loop *loop) {
  struct watchers *w = calloc(1, sizeof *w);
  if (!w) return NULL;
  for (unsigned i = 0; i < loop->plane->provider_count; i++)
    for (int m = 0; m < PROVIDER_METRICS; m++)
      anomaly_init(&w->provider[i][m].anomaly);
  for (int m = 0; m < WHOLE_METRICS; m++)
    anomaly_init(&w->whole[m].anomaly);
  w->next_id = 1;
  return w;
}

void watchers_destroy(struct watchers *w) {
  free(w);
}

void watchers_number_from(struct watchers *w, int64_t id) {
  w->next_id = id;
}

unsigned watchers_open(const struct watchers *w) {
  return w->open;
}

bool watchers_at(const struct loop *loop, unsigned provider, int64_t since_ms) {
  const struct watchers *all = loop->watchers;
  if (all->broken[provider].open && all->broken[provider].opened_ms >= since_ms) return true;
  for (int m = 0; m < PROVIDER_METRICS; m++) {
    const struct watcher *w = &all->provider[provider][m];
    if (w->anomaly.severity != ANOMALY_NONE && w->opened_ms >= since_ms) return true;
  }
  return false;
}

static void put(struct loop *loop, const struct watcher *w, const struct anomaly_settings *s, int provider,
                bool closed) {
  char message[REASON_SIZE];
  anomaly_message(&w->anomaly, s, message, sizeof message);
  struct anomaly_row row = {.id = w->id,
                            .opened_ms = w->opened_ms,
                            .closed_ms = closed ? loop->wall_ms : 0,
                            .metric = s->name,
                            .provider = provider < 0 ? NULL : loop->plane->provider_names[provider],
                            .severity = w->anomaly.severity == ANOMALY_CRITICAL ? "critical" : "warning",
                            .value = w->anomaly.value,
                            .expected = w->anomaly.expected,
                            .score = w->anomaly.score,
                            .message = message};
  loop->sink->anomaly(loop->sink->ctx, &row);
}

static void heed(struct loop *loop, struct watcher *w, const struct anomaly_settings *s, int provider,
                 enum anomaly_event event) {
  struct watchers *all = loop->watchers;
  if (event == ANOMALY_QUIET) return;
  if (event == ANOMALY_OPENED) {
    w->id = all->next_id++;
    w->opened_ms = loop->wall_ms;
    all->open++;
  }
  if (event == ANOMALY_CLOSED) all->open--;
  if (event != ANOMALY_CLOSED && w->anomaly.severity == ANOMALY_CRITICAL) loop->critical = true;
  put(loop, w, s, provider, event == ANOMALY_CLOSED);
}

static void watch_rate(struct loop *loop, struct watcher *w, const struct anomaly_settings *s, int provider,
                       uint64_t part, uint64_t all) {
  if (all > 0) heed(loop, w, s, provider, anomaly_rate_update(&w->anomaly, s, (double)part, (double)all));
}

static void watch_latency(struct loop *loop, struct watcher *w, const struct anomaly_settings *s,
                          int provider, double median_ms, uint64_t count) {
  if (!isnan(median_ms))
    heed(loop, w, s, provider,
         count >= MANY ? anomaly_update(&w->anomaly, s, median_ms)
                       : anomaly_thin_update(&w->anomaly, s, median_ms));
}

static void put_breaker(struct loop *loop, unsigned i) {
  const struct broken *b = &loop->watchers->broken[i];
  double lasted_s = (double)(loop->wall_ms - b->first_ms) / 1000;
  char message[REASON_SIZE];
  if (b->open)
    snprintf(
        message, sizeof message,
        "breaker opened after failures or time-outs in a row: one probe at a time looks whether it is back");
  else if (b->times == 1)
    snprintf(message, sizeof message, "breaker open for %.0f s", lasted_s);
  else
    snprintf(message, sizeof message, "breaker opened %u times in %.0f s", b->times, lasted_s);
  struct anomaly_row row = {.id = b->id,
                            .opened_ms = b->first_ms,
                            .closed_ms = b->open ? 0 : loop->wall_ms,
                            .metric = "breaker",
                            .provider = loop->plane->provider_names[i],
                            .severity = "warning",
                            .value = 1,
                            .expected = 0,
                            .score = 1,
                            .message = message};
  loop->sink->anomaly(loop->sink->ctx, &row);
}

static void watch_breaker(struct loop *loop, unsigned i) {
  struct watchers *all = loop->watchers;
  struct broken *b = &all->broken[i];
  bool open = loop->frame.provider[i].breaker != 0;
  if (open == b->open) return;
  b->open = open;
  if (open) {
    bool again = b->id && loop->now_ns - b->closed_ns < AGAIN_NS;
    if (!again) *b = (struct broken){.open = true, .id = all->next_id++, .first_ms = loop->wall_ms};
    b->opened_ms = loop->wall_ms;
    b->times++;
    all->open++;
  } else {
    b->closed_ns = loop->now_ns;
    all->open--;
  }
  put_breaker(loop, i);
}

static void watch_provider(struct loop *loop, unsigned i) {
  const struct frame_provider *f = &loop->frame.provider[i];
  struct watcher *w = loop->watchers->provider[i];
  uint64_t ended = f->successes + f->failures + f->timeouts + f->throttled;
  watch_breaker(loop, i);
  watch_rate(loop, &w[METRIC_ERRORS], &provider_settings[METRIC_ERRORS], (int)i, f->failures + f->timeouts,
             ended);
  watch_rate(loop, &w[METRIC_THROTTLED], &provider_settings[METRIC_THROTTLED], (int)i, f->throttled, ended);
  watch_latency(loop, &w[METRIC_TTFT], &provider_settings[METRIC_TTFT], (int)i, f->ttft_p50_ms,
                f->ttft_count);
  watch_latency(loop, &w[METRIC_TPOT], &provider_settings[METRIC_TPOT], (int)i, f->tpot_p50_ms,
                f->tpot_count);
}

void watchers_run(struct loop *loop) {
  const struct frame *f = &loop->frame;
  struct watcher *w = loop->watchers->whole;
  for (unsigned i = 0; i < f->providers; i++)
    watch_provider(loop, i);
  uint64_t ended = f->answered + f->dead_lettered + f->client_gone;
  watch_rate(loop, &w[WHOLE_TARGET], &whole_settings[WHOLE_TARGET], -1, f->in_target, ended);
  watch_rate(loop, &w[WHOLE_LOST], &whole_settings[WHOLE_LOST], -1, f->dead_lettered + f->limited,
             ended + f->limited);
}
