/* A frame is one row in frames and one in frame_stages and frame_providers for each stage and provider that
 * had something to say: work in the tick, or a state out of the ordinary. Once a minute all of them are
 * written, so that a quiet provider can still be seen. Indexes become names here, because a configuration may
 * change and a name stays. */

#include "store/insert_telemetry.h"

#include "bus/counters.h"
#include "store/bind.h"
#include "sys/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EVERY = 60, TRIED_SIZE = OUTCOME_TRIED * (NAME_SIZE * 2 + 24) };

struct insert_telemetry {
  const struct store_options *options;
  sqlite3_stmt *frame, *stage, *provider, *request;
};

static const char frame_columns[] =
    "number, wall_ms, dt_s, received, refused, limited, admitted, answered, dead_lettered, client_gone, "
    "coalesced, "
    "in_target, in_flight, bytes_in_flight, usd, wait_critical_ms, wait_high_ms, wait_normal_ms, wait_low_ms";

static const char stage_columns[] =
    "frame, stage, arrivals, completions, sheds, depth, capacity, sojourn_p50_ms, sojourn_p95_ms";

static const char provider_columns[] =
    "frame, provider, attempts, successes, failures, timeouts, throttled, rejected, cancelled, retries, "
    "fallbacks, "
    "limit_refusals, tokens_in, tokens_out, usd, in_flight, tokens_in_flight, concurrency_limit, "
    "instances_ready, "
    "instances_starting, breaker, cooling, ttft_count, ttft_mean_ms, ttft_p50_ms, ttft_p95_ms, tpot_count, "
    "tpot_mean_ms, tpot_p50_ms, tpot_p95_ms";

static const char request_columns[] =
    "id, wall_ms, route, provider, kind, propensity, queued_ms, ttft_ms, tpot_ms, total_ms, tokens_in, "
    "tokens_out, "
    "cost_usd, attempts, tried, in_target, explored, coalesced, treated, stream, priority, session, tenant";

struct insert_telemetry *insert_telemetry_create(sqlite3 *db, const struct store_options *options) {
  struct insert_telemetry *t = calloc(1, sizeof *t);
  if (!t) return NULL;
  t->options = options;
  const char *verb = "INSERT OR REPLACE";
  if (bind_prepare(db, verb, "frames", frame_columns, &t->frame) == SQLITE_OK &&
      bind_prepare(db, verb, "frame_stages", stage_columns, &t->stage) == SQLITE_OK &&
      bind_prepare(db, verb, "frame_providers", provider_columns, &t->provider) == SQLITE_OK &&
      bind_prepare(db, verb, "requests", request_columns, &t->request) == SQLITE_OK)
    return t;
  insert_telemetry_destroy(t);
  return NULL;
}

void insert_telemetry_destroy(struct insert_telemetry *t) {
  if (!t) return;
  sqlite3_finalize(t->frame);
  sqlite3_finalize(t->stage);
  sqlite3_finalize(t->provider);
  sqlite3_finalize(t->request);
  free(t);
}

static const char *provider_name(const struct insert_telemetry *t, unsigned provider) {
  return provider < t->options->provider_count ? t->options->provider_names[provider] : NULL;
}

static int write_frame(struct insert_telemetry *t, const struct frame *f) {
  struct bind b = bind_begin(t->frame);
  bind_integer(&b, (int64_t)f->number);
  bind_integer(&b, f->wall_ms);
  bind_real(&b, f->dt_s);
  bind_integer(&b, (int64_t)f->received);
  bind_integer(&b, (int64_t)f->refused);
  bind_integer(&b, (int64_t)f->limited);
  bind_integer(&b, (int64_t)f->admitted);
  bind_integer(&b, (int64_t)f->answered);
  bind_integer(&b, (int64_t)f->dead_lettered);
  bind_integer(&b, (int64_t)f->client_gone);
  bind_integer(&b, (int64_t)f->coalesced);
  bind_integer(&b, (int64_t)f->in_target);
  bind_integer(&b, f->in_flight);
  bind_integer(&b, (int64_t)f->bytes_in_flight);
  bind_real(&b, f->usd);
  for (int p = 0; p < PRIORITIES; p++)
    bind_ms(&b, f->longest_wait_ms[p]);
  return bind_run(&b);
}

static int write_stage(struct insert_telemetry *t, int64_t frame, enum stage stage,
                       const struct frame_stage *s) {
  struct bind b = bind_begin(t->stage);
  bind_integer(&b, frame);
  bind_text(&b, stage_name(stage));
  bind_integer(&b, (int64_t)s->arrivals);
  bind_integer(&b, (int64_t)s->completions);
  bind_integer(&b, (int64_t)s->sheds);
  bind_integer(&b, s->depth);
  bind_integer(&b, s->capacity);
  bind_ms(&b, s->sojourn_p50_ms);
  bind_ms(&b, s->sojourn_p95_ms);
  return bind_run(&b);
}

static const char *breaker_word(unsigned state) {
  static const char *const words[] = {"closed", "half_open", "open"};
  return state < 3 ? words[state] : NULL;
}

static void bind_provider_counts(struct bind *b, const struct frame_provider *p) {
  bind_integer(b, (int64_t)p->attempts);
  bind_integer(b, (int64_t)p->successes);
  bind_integer(b, (int64_t)p->failures);
  bind_integer(b, (int64_t)p->timeouts);
  bind_integer(b, (int64_t)p->throttled);
  bind_integer(b, (int64_t)p->rejected);
  bind_integer(b, (int64_t)p->cancelled);
  bind_integer(b, (int64_t)p->retries);
  bind_integer(b, (int64_t)p->fallbacks);
  bind_integer(b, (int64_t)p->limit_refusals);
  bind_integer(b, (int64_t)p->tokens_in);
  bind_integer(b, (int64_t)p->tokens_out);
  bind_real(b, p->usd);
}

static int write_provider(struct insert_telemetry *t, int64_t frame, const char *name,
                          const struct frame_provider *p) {
  struct bind b = bind_begin(t->provider);
  bind_integer(&b, frame);
  bind_text(&b, name);
  bind_provider_counts(&b, p);
  bind_integer(&b, p->in_flight);
  bind_integer(&b, p->tokens_in_flight);
  bind_integer(&b, p->limit);
  bind_integer(&b, p->instances_ready);
  bind_integer(&b, p->instances_starting);
  bind_text(&b, breaker_word(p->breaker));
  bind_integer(&b, p->cooling);
  bind_integer(&b, (int64_t)p->ttft_count);
  bind_ms(&b, p->ttft_mean_ms);
  bind_ms(&b, p->ttft_p50_ms);
  bind_ms(&b, p->ttft_p95_ms);
  bind_integer(&b, (int64_t)p->tpot_count);
  bind_ms(&b, p->tpot_mean_ms);
  bind_ms(&b, p->tpot_p50_ms);
  bind_ms(&b, p->tpot_p95_ms);
  return bind_run(&b);
}

static bool stage_speaks(const struct frame_stage *s) {
  return s->arrivals || s->completions || s->sheds || s->depth;
}

static bool provider_speaks(const struct frame_provider *p) {
  return p->attempts || p->successes || p->failures || p->timeouts || p->cancelled || p->limit_refusals ||
         p->in_flight || p->instances_starting || p->breaker || p->cooling;
}

int insert_telemetry_frame(struct insert_telemetry *t, const struct frame *f) {
  bool all = f->number % EVERY == 1;
  int rc = write_frame(t, f);
  int64_t id = sqlite3_last_insert_rowid(sqlite3_db_handle(t->frame));
  for (int s = 0; s < STAGES && rc == SQLITE_OK; s++)
    if (all || stage_speaks(&f->stages[s])) rc = write_stage(t, id, (enum stage)s, &f->stages[s]);
  for (unsigned p = 0; p < f->providers && rc == SQLITE_OK; p++)
    if (provider_name(t, p) && (all || provider_speaks(&f->provider[p])))
      rc = write_provider(t, id, provider_name(t, p), &f->provider[p]);
  return rc;
}

static size_t quote(char *out, const char *name) {
  size_t n = 0;
  out[n++] = '"';
  for (const char *c = name; *c && c - name < NAME_SIZE; c++) {
    if (*c == '"' || *c == '\\') out[n++] = '\\';
    out[n++] = *c;
  }
  out[n++] = '"';
  return n;
}

/* [["fast","timed_out"],["big","ok"]]; NULL for the ordinary single call. */
static const char *tried(const struct insert_telemetry *t, const struct outcome *o, char *out) {
  if (o->tried_count < 2) return NULL;
  size_t n = 0;
  for (unsigned i = 0; i < o->tried_count && i < OUTCOME_TRIED; i++) {
    const char *name = provider_name(t, o->tried[i].provider);
    out[n++] = i == 0 ? '[' : ',';
    out[n++] = '[';
    n += quote(out + n, name ? name : "");
    out[n++] = ',';
    n += quote(out + n, o->tried[i].result < ATTEMPT_RESULTS
                            ? attempt_result_name((enum attempt_result)o->tried[i].result)
                            : "");
    out[n++] = ']';
  }
  out[n++] = ']';
  out[n] = '\0';
  return out;
}

static int write_outcome(struct insert_telemetry *t, const struct outcome *o, int64_t wall_ms) {
  char calls[TRIED_SIZE];
  struct bind b = bind_begin(t->request);
  bind_integer(&b, (int64_t)o->id);
  bind_integer(&b, wall_ms);
  bind_text(&b, o->route < t->options->route_count ? t->options->route_names[o->route] : NULL);
  bind_text(&b, provider_name(t, o->provider));
  bind_text(&b, o->kind < OUTCOME_KINDS ? outcome_kind_name((enum outcome_kind)o->kind) : NULL);
  bind_real(&b, (double)o->propensity);
  bind_ms(&b, (double)o->queued_ms);
  bind_ms(&b, (double)o->ttft_ms);
  bind_ms(&b, (double)o->tpot_ms);
  bind_ms(&b, (double)o->total_ms);
  bind_integer(&b, o->tokens_in);
  bind_integer(&b, o->tokens_out);
  bind_real(&b, o->cost_usd);
  bind_integer(&b, o->attempts);
  bind_text(&b, tried(t, o, calls));
  bind_integer(&b, o->in_target);
  bind_integer(&b, o->explored);
  bind_integer(&b, o->coalesced);
  bind_integer(&b, o->treated);
  bind_integer(&b, o->stream);
  bind_text(&b, o->priority < PRIORITIES ? priority_name((enum priority)o->priority) : NULL);
  bind_integer(&b, (int64_t)o->session);
  bind_integer(&b, (int64_t)o->tenant);
  return bind_run(&b);
}

int insert_telemetry_outcomes(struct insert_telemetry *t, const struct outcome_rows *rows) {
  for (uint32_t i = 0; i < rows->count; i++) {
    const struct outcome *o = &rows->outcomes[i];
    int rc = write_outcome(t, o, rows->wall_ms - (rows->now_ns - o->ended_ns) / NS_PER_MS);
    if (rc != SQLITE_OK) return rc;
  }
  return SQLITE_OK;
}
