#include "rig.h"

static const struct act second[] = {{.what = ANSWER, .after_ns = S(1), .body = "{\"same\":1}"}};

/* R1..R5 identical, 20 ms apart. */
static void ask_five(struct rig *rig, struct request **requests, int64_t first_deadline_ns) {
  for (unsigned i = 0; i < 5; i++) {
    requests[i] =
        rig_ask(rig, i, (struct ask){.deadline_ns = i == 0 ? first_deadline_ns : S(5), .body = "{\"q\":1}"});
    rig_until(rig, MS(20));
  }
}

static void identical_requests_share_one_call(void **state) {
  (void)state;
  static struct rig rig;
  struct request *r[5];
  rig_open(&rig, true, second, 1, NULL, 0);
  ask_five(&rig, r, S(5));
  rig_until(&rig, S(2));
  assert_int_equal(rig.fakes[0].started, 1);
  for (int i = 0; i < 5; i++) {
    assert_int_equal(rig.clients[i].status, 200);
    assert_string_equal(rig.clients[i].body, "{\"same\":1}");
    assert_int_equal(rig.clients[i].coalesced, i > 0);
  }
  assert_int_equal(rig_count(&rig, COUNTER_requests_coalesced, 0), 4);
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static void a_leader_whose_client_leaves_flies_on_for_its_waiters(void **state) {
  (void)state;
  static struct rig rig;
  struct request *r[5];
  rig_open(&rig, true, second, 1, NULL, 0);
  ask_five(&rig, r, S(5));
  request_cancel(r[0], rig.now_ns);
  rig_until(&rig, S(2));
  assert_int_equal(rig.fakes[0].started, 1);
  assert_int_equal(rig.fakes[0].cancelled, 0);
  assert_int_equal(rig.clients[0].finished, 0);
  for (int i = 1; i < 5; i++)
    assert_int_equal(rig.clients[i].status, 200);
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static void a_leaders_deadline_is_its_own(void **state) {
  (void)state;
  static struct rig rig;
  struct request *r[5];
  rig_open(&rig, true, second, 1, NULL, 0);
  int64_t begun = rig.now_ns;
  ask_five(&rig, r, MS(500));
  rig_until(&rig, S(2));
  assert_int_equal(rig.clients[0].status, 504);
  assert_int_equal(rig.clients[0].finished_ns - begun, MS(500));
  for (int i = 1; i < 5; i++)
    assert_int_equal(rig.clients[i].status, 200);
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static void a_failure_gives_all_the_same_error_after_one_call_each_try(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act dead[] = {
      {.what = STATUS, .status = 503, .after_ns = MS(300), .retry_after_ns = -1}};
  struct request *r[5];
  rig_open(&rig, true, dead, 1, NULL, 0);
  rig_set(&rig, TUNABLE_retry_attempts, 0);
  ask_five(&rig, r, S(5));
  rig_until(&rig, S(3));
  assert_int_equal(rig.fakes[0].started, 1);
  for (int i = 0; i < 5; i++)
    assert_int_equal(rig.clients[i].status, 503);
  assert_int_equal(rig.letters, 5);
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static void when_everybody_has_left_the_call_is_cancelled(void **state) {
  (void)state;
  static struct rig rig;
  struct request *r[5];
  rig_open(&rig, true, second, 1, NULL, 0);
  ask_five(&rig, r, S(5));
  for (int i = 0; i < 5; i++)
    request_cancel(r[i], rig.now_ns);
  rig_until(&rig, MS(1));
  assert_int_equal(rig.fakes[0].cancelled, 1);
  rig_until(&rig, S(2));
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static void a_late_one_joins_and_an_early_one_may_leave(void **state) {
  (void)state;
  static struct rig rig;
  struct request *r[5];
  rig_open(&rig, true, second, 1, NULL, 0);
  ask_five(&rig, r, S(5));
  rig_until(&rig, MS(200));
  request_cancel(r[1], rig.now_ns);
  rig_until(&rig, MS(200));
  rig_ask(&rig, 6, (struct ask){.body = "{\"q\":1}"});
  rig_until(&rig, S(2));
  assert_int_equal(rig.fakes[0].started, 1);
  assert_int_equal(rig.clients[6].status, 200);
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static void streams_opted_out_and_different_bodies_fly_alone(void **state) {
  (void)state;
  static struct rig rig;
  rig_open(&rig, true, second, 1, NULL, 0);
  rig_ask(&rig, 0, (struct ask){.body = "{\"q\":1}"});
  rig_ask(&rig, 1, (struct ask){.body = "{\"q\":1}", .no_coalesce = true});
  rig_ask(&rig, 2, (struct ask){.body = "{\"q\":2}"});
  rig_until(&rig, S(2));
  assert_int_equal(rig.fakes[0].started, 3);
  rig_close(&rig);
}

static void no_key_stays_behind_when_joiners_meet_the_landing(void **state) {
  (void)state;
  static struct rig rig;
  static const struct act quick[] = {{.what = ANSWER, .after_ns = MS(10), .body = "{}"}};
  rig_open(&rig, true, quick, 1, NULL, 0);
  for (int round = 0; round < 10000; round++) {
    rig_ask(&rig, 0, (struct ask){.body = "{\"q\":1}"});
    rig_until(&rig, MS(10) - 1 + round % 3);
    rig_ask(&rig, 1, (struct ask){.body = "{\"q\":1}"});
    rig_until(&rig, MS(30));
    assert_int_equal(rig.clients[1].finished, round + 1);
  }
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static void waiters_are_bounded_and_the_surplus_goes_alone(void **state) {
  (void)state;
  static struct rig rig;
  rig_open(&rig, true, second, 1, NULL, 0);
  rig_set(&rig, TUNABLE_coalesce_waiters, 2);
  for (unsigned i = 0; i < 6; i++)
    rig_ask(&rig, i, (struct ask){.body = "{\"q\":1}"});
  rig_until(&rig, S(2));
  assert_int_equal(rig.fakes[0].started, 4);
  rig_close(&rig);
}

/* ---- two shards on one plane ---- */

static struct rig rig;
static struct pipeline *shards[2];
static struct flight *mail[8]; /* for the first shard, not delivered yet */
static unsigned mails;

static void keep_mail(void *ctx, struct pipeline *other, struct flight *flight) {
  (void)ctx;
  assert_ptr_equal(other, shards[0]);
  mail[mails++] = flight;
}

static void open_two(void) {
  rig_open(&rig, true, second, 1, NULL, 0);
  mails = 0;
  for (unsigned i = 0; i < 2; i++)
    shards[i] = rig_shard(&rig, i, keep_mail);
}

static struct request *ask_at(unsigned shard, unsigned client) {
  rig.clients[client].rig = &rig;
  struct request_spec spec = {
      .body = strdup("{}"), .body_size = 2, .ops = &client_ops, .client = &rig.clients[client]};
  enum refusal why;
  int retry_after_s;
  struct request *r = pipeline_submit(shards[shard], &spec, rig.now_ns, &why, &retry_after_s);
  assert_non_null(r);
  pipeline_run(shards[shard], rig.now_ns);
  return r;
}

static void leave(struct request *r) {
  struct pipeline *p = r->pipeline;
  request_cancel(r, rig.now_ns);
  pipeline_run(p, rig.now_ns);
}

/* The first shard is busy: while it has not heard that nobody waits any more, another comes and goes. */
static void a_call_that_everybody_left_twice_is_ended_once(void **state) {
  (void)state;
  open_two();
  struct request *leader = ask_at(0, 0), *waiter = ask_at(1, 1);
  leave(leader);
  leave(waiter);
  leave(ask_at(1, 2));
  assert_int_equal(mails, 2);
  struct request *other = ask_at(0, 3);
  leave(other); /* was a waiter of the same flight, on the leader's own shard: ends it at once */
  assert_int_equal(rig.fakes[0].cancelled, 1);
  for (unsigned i = 0; i < mails; i++) {
    pipeline_deliver_flight(shards[0], mail[i], rig.now_ns);
    pipeline_run(shards[0], rig.now_ns);
  }
  assert_int_equal(rig.fakes[0].started, 1);
  assert_int_equal(pipeline_load(shards[0]), 0);
  for (unsigned i = 0; i < 2; i++)
    pipeline_destroy(shards[i]);
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(identical_requests_share_one_call),
      cmocka_unit_test(a_leader_whose_client_leaves_flies_on_for_its_waiters),
      cmocka_unit_test(a_leaders_deadline_is_its_own),
      cmocka_unit_test(a_failure_gives_all_the_same_error_after_one_call_each_try),
      cmocka_unit_test(when_everybody_has_left_the_call_is_cancelled),
      cmocka_unit_test(a_late_one_joins_and_an_early_one_may_leave),
      cmocka_unit_test(streams_opted_out_and_different_bodies_fly_alone),
      cmocka_unit_test(no_key_stays_behind_when_joiners_meet_the_landing),
      cmocka_unit_test(waiters_are_bounded_and_the_surplus_goes_alone),
      cmocka_unit_test(a_call_that_everybody_left_twice_is_ended_once),
  };
  return cmocka_run_group_tests_name("coalesce", tests, NULL, NULL);
}
