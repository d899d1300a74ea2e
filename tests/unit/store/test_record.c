#include "fixture.h"

#include "store/record.h"

static void a_record_owns_copies_of_all_strings(void **state) {
  (void)state;
  char name[] = "retry_attempts", evidence[] = "{}";
  struct ledger_row row = fixture_change(1, name, 3, 4);
  row.evidence = evidence;
  row.reason = NULL;
  struct record *r = record_make(RECORD_LEDGER, &row);
  memset(name, 'x', sizeof name - 1);
  memset(evidence, 'x', sizeof evidence - 1);
  const struct ledger_row *copy = (const struct ledger_row *)r->body;
  assert_string_equal(copy->name, "retry_attempts");
  assert_string_equal(copy->evidence, "{}");
  assert_string_equal(copy->actor, "http");
  assert_null(copy->reason);
  assert_true(copy->to == 4);
  record_free(r);
}

static void a_body_keeps_its_bytes_and_its_nul(void **state) {
  (void)state;
  struct dead_letter_row row = fixture_letter(1, "id", "");
  row.body = "a\0b";
  row.body_size = 3;
  struct record *r = record_make(RECORD_DEAD_LETTER, &row);
  const struct dead_letter_row *copy = (const struct dead_letter_row *)r->body;
  assert_ptr_not_equal(copy->body, row.body);
  assert_memory_equal(copy->body, "a\0b", 3);
  assert_string_equal(copy->detail, "no answer in 30 s");
  record_free(r);
}

static void outcomes_share_one_record(void **state) {
  (void)state;
  struct outcome o[2] = {fixture_outcome(1), fixture_outcome(2)};
  struct record *r = record_outcomes(o, 2, 5, 6);
  const struct outcome_rows *rows = (const struct outcome_rows *)r->body;
  assert_int_equal(r->rows, 2);
  assert_int_equal(rows->count, 2);
  assert_int_equal(rows->outcomes[1].id, 2);
  assert_true(rows->now_ns == 5 && rows->wall_ms == 6);
  record_free(r);
}

static void lists_keep_the_order_through_push_append_and_pop(void **state) {
  (void)state;
  struct record_list a = {0}, b = {0};
  record_list_append(&a, &b);
  assert_null(record_list_pop(&a));
  for (int64_t i = 1; i <= 4; i++) {
    struct ledger_row row = fixture_change(i, "n", 0, 1);
    record_list_push(i < 3 ? &a : &b, record_make(RECORD_LEDGER, &row));
  }
  record_list_append(&a, &b);
  assert_null(b.first);
  for (int64_t i = 1; i <= 4; i++) {
    struct record *r = record_list_pop(&a);
    assert_true(((const struct ledger_row *)r->body)->id == i);
    record_free(r);
  }
  assert_null(a.first);
  assert_null(a.last);
}

static void only_frames_and_outcomes_may_be_dropped(void **state) {
  (void)state;
  for (int k = 0; k < RECORD_KINDS; k++) {
    assert_int_equal(record_is_telemetry((enum record_kind)k), k == RECORD_FRAME || k == RECORD_OUTCOMES);
    assert_false(record_is_telemetry((enum record_kind)k) && record_is_decision((enum record_kind)k));
    assert_non_null(record_name((enum record_kind)k));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_record_owns_copies_of_all_strings),
      cmocka_unit_test(a_body_keeps_its_bytes_and_its_nul),
      cmocka_unit_test(outcomes_share_one_record),
      cmocka_unit_test(lists_keep_the_order_through_push_append_and_pop),
      cmocka_unit_test(only_frames_and_outcomes_may_be_dropped),
  };
  return cmocka_run_group_tests_name("record", tests, NULL, NULL);
}
