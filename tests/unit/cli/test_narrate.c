#include "cli/narrate.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static int passed;

static int take_ledger(void *ctx, const struct ledger_row *row) {
  (void)ctx, (void)row;
  passed++;
  return 0;
}

static int take_judgement(void *ctx, const struct judgement_row *row) {
  (void)ctx, (void)row;
  passed++;
  return 0;
}

static int take_anomaly(void *ctx, const struct anomaly_row *row) {
  (void)ctx, (void)row;
  passed++;
  return -5;
}

static int take_commit(void *ctx) {
  (void)ctx;
  return 0;
}

static const struct store_sink inner = {
    .ledger = take_ledger, .judgement = take_judgement, .anomaly = take_anomaly, .commit = take_commit};

/* What was printed while act ran. */
static char *heard(void (*act)(struct store_sink *sink)) {
  static char text[8192];
  char path[] = "/tmp/narrate-XXXXXX";
  int file = mkstemp(path), out = dup(STDOUT_FILENO);
  unlink(path);
  fflush(stdout);
  dup2(file, STDOUT_FILENO);
  struct narrator *narrator = narrator_create(&inner);
  struct store_sink sink = narrator_sink(narrator);
  passed = 0;
  act(&sink);
  sink.commit(sink.ctx);
  fflush(stdout);
  dup2(out, STDOUT_FILENO);
  close(out);
  narrator_destroy(narrator);
  ssize_t n = pread(file, text, sizeof text - 1, 0);
  close(file);
  text[n > 0 ? n : 0] = '\0';
  return text;
}

static int lines(const char *text) {
  int n = 0;
  for (; *text; text++)
    n += *text == '\n';
  return n;
}

static struct ledger_row change(int64_t id, const char *name, const char *actor) {
  return (struct ledger_row){
      .id = id, .kind = "change", .name = name, .from = 3, .to = 5, .actor = actor, .reason = "because"};
}

static void tell_changes(struct store_sink *sink) {
  struct ledger_row row = change(7, "retry_attempts", "http");
  sink->ledger(sink->ctx, &row);
  row = change(8, "concurrency_limit.a", "controller:gradient2");
  sink->ledger(sink->ctx, &row);
  row = (struct ledger_row){
      .id = 9, .kind = "note", .name = "route:auto", .from = NAN, .to = NAN, .reason = "a leads"};
  sink->ledger(sink->ctx, &row);
}

static void each_change_is_a_line_with_its_reason(void **state) {
  (void)state;
  const char *text = heard(tell_changes);
  assert_int_equal(lines(text), 3);
  assert_int_equal(passed, 3);
  assert_non_null(strstr(text, "changed      retry_attempts 3 -> 5 by http: because\n"));
  assert_non_null(strstr(text, "limit        concurrency_limit.a 3 -> 5 by controller:gradient2: because\n"));
  assert_non_null(strstr(text, "route        route:auto: a leads\n"));
}

static void tell_an_episode(struct store_sink *sink) {
  struct ledger_row row = change(8, "concurrency_limit.a", "controller:gradient2");
  row.kind = "episode";
  row.least = 3;
  row.most = 9;
  for (row.count = 1; row.count <= 5; row.count++, row.to++)
    sink->ledger(sink->ctx, &row);
  row.snapshot_after = "abc";
  sink->ledger(sink->ctx, &row);
}

static void an_episode_is_told_when_it_begins_and_when_it_is_over(void **state) {
  (void)state;
  const char *text = heard(tell_an_episode);
  assert_int_equal(passed, 6);
  assert_non_null(strstr(text, "concurrency_limit.a 3 -> 5, concurrency_limit.a 3 -> 10 in 6 steps by"));
}

static void tell_judgement(struct store_sink *sink) {
  struct ledger_row row = change(7, "retry_attempts", "http");
  sink->ledger(sink->ctx, &row);
  struct judgement_row judged = {.ledger_id = 7, .outcome = "undone", .words = "it cost 12 %"};
  sink->judgement(sink->ctx, &judged);
  judged.ledger_id = 7 + 256;
  sink->judgement(sink->ctx, &judged);
}

static void a_judgement_names_what_it_judges(void **state) {
  (void)state;
  const char *text = heard(tell_judgement);
  assert_non_null(
      strstr(text, "undone       retry_attempts (change 7), a change (change 263): undone: it cost 12 %\n"));
  assert_int_equal(passed, 3);
}

static void tell_incidents(struct store_sink *sink) {
  struct anomaly_row row = {.id = 1,
                            .opened_ms = 5,
                            .metric = "errors",
                            .provider = "a",
                            .severity = "critical",
                            .message = "many"};
  assert_int_equal(sink->anomaly(sink->ctx, &row), -5);
  sink->anomaly(sink->ctx, &row);
  row.closed_ms = 9;
  sink->anomaly(sink->ctx, &row);
  sink->anomaly(sink->ctx, &row);
}

static void an_incident_is_told_once_when_it_opens_and_once_when_it_closes(void **state) {
  (void)state;
  const char *text = heard(tell_incidents);
  assert_int_equal(lines(text), 2);
  assert_int_equal(passed, 4);
  assert_non_null(strstr(text, "incident     critical: errors at a: many\n"));
  assert_non_null(strstr(text, "incident     over: errors at a: many\n"));
}

static void undo_two(struct store_sink *sink) {
  struct ledger_row row = change(7, "limit.a", "rollback");
  row.reason = "undone: it did harm";
  sink->ledger(sink->ctx, &row);
  row.id = 8;
  row.name = "limit.b";
  sink->ledger(sink->ctx, &row);
  struct judgement_row judged = {.ledger_id = 5, .outcome = "undone", .words = "it did harm"};
  sink->judgement(sink->ctx, &judged);
}

static void changes_with_one_reason_are_one_line_and_its_judgement_is_not_told_again(void **state) {
  (void)state;
  const char *text = heard(undo_two);
  assert_int_equal(lines(text), 1);
  assert_int_equal(passed, 3);
  assert_non_null(
      strstr(text, "undone       limit.a 3 -> 5, limit.b 3 -> 5 by rollback: undone: it did harm\n"));
}

static void decide(struct store_sink *sink) {
  struct ledger_row row = {
      .id = 3, .kind = "note", .name = "experiment:x", .from = NAN, .to = NAN, .reason = "better"};
  sink->ledger(sink->ctx, &row);
  row = change(4, "retry_attempts", "experiment:x");
  row.reason = "better";
  row.from = 0.855687;
  row.to = 12345.4;
  sink->ledger(sink->ctx, &row);
}

static void what_was_just_said_is_not_said_again(void **state) {
  (void)state;
  const char *text = heard(decide);
  assert_int_equal(lines(text), 2);
  assert_non_null(strstr(text, "experiment   experiment:x: better\n"));
  assert_non_null(strstr(text, "experiment   retry_attempts 0.8557 -> 12345 by experiment:x\n"));
}

static void nobody_waits_for_a_reader_who_stopped(void **state) {
  (void)state;
  static char text[1 << 17];
  int ends[2], out = dup(STDOUT_FILENO);
  assert_int_equal(pipe(ends), 0);
  fflush(stdout);
  dup2(ends[1], STDOUT_FILENO);
  for (int i = 0; i < 2000; i++)
    narrate("test", "line %d %0200d", i, 0); /* without its fix it waits here for ever */
  ssize_t n = read(ends[0], text, sizeof text - 1);
  narrate("test", "heard again");
  ssize_t more = read(ends[0], text + n, sizeof text - 1 - (size_t)n);
  fflush(stdout);
  dup2(out, STDOUT_FILENO);
  close(out);
  close(ends[0]);
  close(ends[1]);
  assert_true(n > 4096 && more > 0);
  text[n + more] = '\0';
  assert_non_null(strstr(text, " lines before this one were lost: nobody read them)\n"));
  assert_non_null(strstr(text, "heard again\n"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(each_change_is_a_line_with_its_reason),
      cmocka_unit_test(changes_with_one_reason_are_one_line_and_its_judgement_is_not_told_again),
      cmocka_unit_test(what_was_just_said_is_not_said_again),
      cmocka_unit_test(an_episode_is_told_when_it_begins_and_when_it_is_over),
      cmocka_unit_test(a_judgement_names_what_it_judges),
      cmocka_unit_test(an_incident_is_told_once_when_it_opens_and_once_when_it_closes),
      cmocka_unit_test(nobody_waits_for_a_reader_who_stopped),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
