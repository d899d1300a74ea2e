#ifndef TEST_STORE_FIXTURE_H
#define TEST_STORE_FIXTURE_H

/* A store in a directory of its own under /tmp, example rows, and SQL on the side. */

#include "store/store.h"
#include "sys/clock.h"
#include "sys/log.h"

#include <ftw.h>
#include <math.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const char *const fixture_providers[] = {"fast", "big"};
static const char *const fixture_routes[] = {"auto", "code"};

struct fixture {
  char directory[64], path[96];
  struct store_options options;
  struct store *store;
  struct store_sink sink;
};

static inline void fixture_open(struct fixture *f) {
  char error[512] = "";
  f->store = store_open(&f->options, error, sizeof error);
  if (!f->store) fail_msg("store_open: %s", error);
  f->sink = store_sink(f->store);
}

static inline void fixture_close(struct fixture *f) {
  store_close(f->store);
  f->store = NULL;
}

static inline struct fixture *fixture_make(void) {
  struct fixture *f = calloc(1, sizeof *f);
  log_setup(LOG_ERROR, false);
  strcpy(f->directory, "/tmp/test_store_XXXXXX");
  assert_non_null(mkdtemp(f->directory));
  snprintf(f->path, sizeof f->path, "%s/history.db", f->directory);
  f->options = (struct store_options){.path = f->path,
                                      .provider_names = fixture_providers,
                                      .route_names = fixture_routes,
                                      .provider_count = 2,
                                      .route_count = 2,
                                      .frame_days = 7,
                                      .request_days = 30,
                                      .dead_letter_rows = 100,
                                      .dead_letter_bytes = 1 << 20};
  return f;
}

static inline int fixture_setup(void **state) {
  struct fixture *f = fixture_make();
  fixture_open(f);
  *state = f;
  return 0;
}

static inline int fixture_remove_one(const char *path, const struct stat *info, int kind, struct FTW *at) {
  (void)info, (void)kind, (void)at;
  return remove(path);
}

static inline void fixture_remove(const char *directory) {
  nftw(directory, fixture_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static inline int fixture_teardown(void **state) {
  struct fixture *f = *state;
  fixture_close(f);
  fixture_remove(f->directory);
  free(f);
  return 0;
}

/* The first column of the first row as a number; fails the test when the SQL does. */
static inline double fixture_number(const char *path, const char *sql) {
  sqlite3 *db = NULL;
  sqlite3_stmt *s = NULL;
  assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL), SQLITE_OK);
  sqlite3_busy_timeout(db, 5000);
  if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK) fail_msg("%s: %s", sql, sqlite3_errmsg(db));
  int rc = sqlite3_step(s);
  if (rc != SQLITE_ROW && rc != SQLITE_DONE) fail_msg("%s: %s", sql, sqlite3_errmsg(db));
  double number =
      rc != SQLITE_ROW || sqlite3_column_type(s, 0) == SQLITE_NULL ? NAN : sqlite3_column_double(s, 0);
  sqlite3_finalize(s);
  sqlite3_close(db);
  return number;
}

/* Holds the write lock until fixture_unlock: the writer waits. */
static inline sqlite3 *fixture_lock(const char *path) {
  sqlite3 *db = NULL;
  assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
  sqlite3_busy_timeout(db, 5000);
  assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
  return db;
}

static inline void fixture_unlock(sqlite3 *db) {
  assert_int_equal(sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
  sqlite3_close(db);
}

static inline struct ledger_row fixture_change(int64_t id, const char *name, double from, double to) {
  return (struct ledger_row){.id = id,
                             .wall_ms = 1760000000000 + id * 1000,
                             .kind = "change",
                             .name = name,
                             .from = from,
                             .to = to,
                             .least = NAN,
                             .most = NAN,
                             .actor = "http",
                             .reason = "a person wished it",
                             .evidence = "{\"ttft_p50_ms\":212.5,\"providers\":[\"fast\"]}",
                             .snapshot_before = "aaaaaa01",
                             .snapshot_after = "aaaaaa02"};
}

static inline struct outcome fixture_outcome(uint64_t id) {
  return (struct outcome){.id = id,
                          .arrived_ns = 1000,
                          .ended_ns = 5 * NS_PER_S,
                          .session = 0xfeedface00000001,
                          .tenant = 7,
                          .cost_usd = 0.0125,
                          .propensity = 0.75F,
                          .queued_ms = 1.25F,
                          .ttft_ms = 200.5F,
                          .tpot_ms = NAN,
                          .total_ms = 900,
                          .tokens_in = 100,
                          .tokens_out = 50,
                          .route = 0,
                          .provider = 1,
                          .kind = OUTCOME_ANSWERED,
                          .priority = PRIORITY_HIGH,
                          .attempts = 1,
                          .tried_count = 1,
                          .in_target = true};
}

static inline struct dead_letter_row fixture_letter(uint64_t request, const char *id_text, const char *body) {
  return (struct dead_letter_row){.request = request,
                                  .wall_ms = clock_wall_ms(),
                                  .id_text = id_text,
                                  .route = "auto",
                                  .provider = "fast",
                                  .reason = "deadline_exceeded",
                                  .detail = "no answer in 30 s",
                                  .status = 504,
                                  .attempts = 2,
                                  .priority = PRIORITY_NORMAL,
                                  .stream = true,
                                  .session = 0xabc,
                                  .tenant = 0xdef,
                                  .body = body,
                                  .body_size = strlen(body)};
}

/* One row of every kind, and enough of them that every view has something to show. */
static inline void fixture_fill(struct fixture *f) {
  const struct store_sink *s = &f->sink;
  int64_t now = clock_wall_ms();
  for (int i = 0; i < 2; i++) {
    assert_int_equal(s->snapshot(s->ctx, &(struct snapshot_row){.id = i ? "aaaaaa02" : "aaaaaa01",
                                                                .parent = i ? "aaaaaa01" : NULL,
                                                                .wall_ms = now - 5000 + i,
                                                                .author = "file",
                                                                .message = "as configured",
                                                                .config = "retry_attempts=3\n"}),
                     0);
    assert_int_equal(s->score(s->ctx, &(struct score_row){.snapshot = i ? "aaaaaa02" : "aaaaaa01",
                                                          .wall_ms = now,
                                                          .requests = 150,
                                                          .utility = 0.5 + 0.1 * i,
                                                          .in_target = 0.9,
                                                          .quality = 0.7,
                                                          .usd_per_request = 0.002}),
                     0);
  }
  struct ledger_row change = fixture_change(1, "retry_attempts", 3, 4),
                    open = fixture_change(2, "shed_threshold", .8, .7);
  change.trial = 1;
  open.trial = 2;
  change.wall_ms = open.wall_ms = now;
  struct ledger_row episode = fixture_change(3, "limit.fast", 20, 40);
  episode.kind = "episode";
  episode.actor = "controller:gradient2";
  episode.least = 18;
  episode.most = 44;
  episode.count = 12;
  episode.wall_ms = now;
  assert_int_equal(s->ledger(s->ctx, &change), 0);
  assert_int_equal(s->ledger(s->ctx, &open), 0);
  assert_int_equal(s->ledger(s->ctx, &episode), 0);
  assert_int_equal(s->judgement(s->ctx, &(struct judgement_row){.ledger_id = 1,
                                                                .wall_ms = now,
                                                                .outcome = "undone",
                                                                .effect = -0.1,
                                                                .low = -0.2,
                                                                .high = -0.01,
                                                                .words = "utility fell"}),
                   0);
  assert_int_equal(s->value(s->ctx, &(struct value_row){.name = "retry_attempts",
                                                        .value = 3,
                                                        .file_value = NAN,
                                                        .hold_until_ms = INT64_MAX,
                                                        .author = "rollback"}),
                   0);
  assert_int_equal(s->experiment(s->ctx, &(struct experiment_row){.id = 1,
                                                                  .name = "shed",
                                                                  .tunable = "shed_threshold",
                                                                  .status = "running",
                                                                  .control = 0.8,
                                                                  .treatment = 0.7,
                                                                  .started_ms = now,
                                                                  .control_units = 40,
                                                                  .treatment_units = 41,
                                                                  .effect = 0.02,
                                                                  .low = -INFINITY,
                                                                  .high = INFINITY,
                                                                  .p_value = 0.4,
                                                                  .spec = "{\"share\":0.5}",
                                                                  .state = "{\"sums\":[1,2]}"}),
                   0);
  assert_int_equal(s->anomaly(s->ctx, &(struct anomaly_row){.id = 1,
                                                            .opened_ms = now - 9000,
                                                            .closed_ms = now,
                                                            .metric = "ttft_ms",
                                                            .provider = "fast",
                                                            .severity = "critical",
                                                            .value = 900,
                                                            .expected = 200,
                                                            .score = 8,
                                                            .message = "four times its usual"}),
                   0);
  assert_int_equal(s->learned(s->ctx, "router", "{\"arms\":[1,2]}", now), 0);
  struct outcome outcomes[3] = {fixture_outcome(1), fixture_outcome(2), fixture_outcome(0xfffffffffffffffe)};
  outcomes[1].provider = 0;
  outcomes[1].attempts = outcomes[1].tried_count = 2;
  outcomes[1].tried[0].result = ATTEMPT_TIMED_OUT;
  outcomes[1].tried[0].provider = 1;
  outcomes[1].explored = true;
  outcomes[2].provider = NO_PROVIDER;
  outcomes[2].kind = OUTCOME_SHED;
  outcomes[2].in_target = false;
  outcomes[2].attempts = outcomes[2].tried_count = 0;
  assert_int_equal(s->outcomes(s->ctx, outcomes, 3, 6 * NS_PER_S, now), 0);
  assert_int_equal(
      s->reward(s->ctx, &(struct reward_row){.request = 1, .wall_ms = now, .value = 0.8, .source = "http"}),
      0);
  struct frame *frame = calloc(1, sizeof *frame);
  frame->number = 1;
  frame->wall_ms = now;
  frame->dt_s = 1;
  frame->providers = 2;
  frame->received = 30;
  frame->stages[STAGE_INFERENCE] =
      (struct frame_stage){.arrivals = 3, .capacity = 1024, .sojourn_p50_ms = NAN};
  frame->provider[0] =
      (struct frame_provider){.attempts = 3, .breaker = 2, .limit = 20, .ttft_p50_ms = 212.5};
  assert_int_equal(s->frame(s->ctx, frame), 0);
  free(frame);
  struct dead_letter_row letter = fixture_letter(77, "chatcmpl-000000000000004d", "{\"model\":\"auto\"}");
  assert_int_equal(s->dead_letter(s->ctx, &letter), 0);
  assert_int_equal(s->commit(s->ctx), 0);
}

#endif
