#include "rig.h"

#include "pipeline/claim.h"

static void urgency_counts_before_arrival_and_own_claims_stand_in_nobodys_way(void **state) {
  (void)state;
  struct claim c = {0};
  uint64_t low = claim_key(3, S(1), 0), old = claim_key(2, S(1), 1), young = claim_key(2, S(2), 0),
           critical = claim_key(0, S(9), 1);
  assert_false(claim_goes_before(&c, low, 0));
  claim_post(&c, old, 0, MS(10));
  assert_true(claim_goes_before(&c, low, MS(9)));
  assert_true(claim_goes_before(&c, young, MS(9)));
  assert_false(claim_goes_before(&c, critical, MS(9))); /* the same shard's */
  assert_false(claim_goes_before(&c, low, MS(10)));     /* expired */
  claim_post(&c, low, MS(9), MS(19));                   /* does not push a more urgent one aside */
  assert_true(claim_goes_before(&c, low, MS(9)));
  claim_post(&c, critical, MS(9), MS(19));
  assert_true(claim_goes_before(&c, claim_key(0, S(10), 0), MS(11)));
  claim_drop(&c, low); /* not its own */
  assert_true(claim_goes_before(&c, low, MS(11)));
  claim_drop(&c, old);
  assert_false(claim_goes_before(&c, low, MS(11)));
}

/* ---- two shards on one plane ---- */

static struct rig rig;
static struct pipeline *shards[2];

static void wake_nobody(void *ctx, struct pipeline *other, struct flight *flight) {
  (void)ctx;
  (void)other;
  (void)flight;
}

static void open_two(void) {
  static const struct act slow[] = {{.what = ANSWER, .after_ns = MS(100), .body = "{}"}};
  rig_open(&rig, true, slow, 1, NULL, 0);
  rig_set(&rig, TUNABLE_concurrency_limit, 1);
  for (unsigned i = 0; i < 2; i++)
    shards[i] = rig_shard(&rig, i, wake_nobody);
}

static void run_both(void) {
  for (bool moved = true; moved;) {
    moved = pipeline_run(shards[0], rig.now_ns);
    moved |= pipeline_run(shards[1], rig.now_ns);
  }
}

static void until(int64_t ns) {
  int64_t end = rig.now_ns + ns;
  run_both();
  while (timers_next_ns(rig.timers) <= end) {
    rig.now_ns = timers_next_ns(rig.timers);
    timers_run(rig.timers, rig.now_ns);
    run_both();
  }
  rig.now_ns = end;
}

static void ask(unsigned shard, unsigned client, enum priority priority) {
  char *body = strdup("{}");
  rig.clients[client].rig = &rig;
  struct request_spec spec = {.priority = priority,
                              .no_coalesce = true,
                              .body = body,
                              .body_size = 2,
                              .ops = &client_ops,
                              .client = &rig.clients[client]};
  enum refusal why;
  int retry_after_s;
  assert_non_null(pipeline_submit(shards[shard], &spec, rig.now_ns, &why, &retry_after_s));
}

/* How many of the others were answered before this client. */
static unsigned before(unsigned client, unsigned first, unsigned count) {
  unsigned n = 0;
  for (unsigned i = first; i < first + count; i++)
    n += rig.clients[i].finished_ns < rig.clients[client].finished_ns;
  return n;
}

static void close_two(void) {
  until(S(10));
  for (unsigned i = 0; i < 2; i++)
    pipeline_destroy(shards[i]);
  rig_assert_conserved(&rig);
  rig_close(&rig);
}

static void a_critical_request_of_one_shard_goes_before_low_ones_of_another(void **state) {
  (void)state;
  open_two();
  for (unsigned i = 0; i < 20; i++)
    ask(0, i, PRIORITY_LOW);
  until(MS(50));
  for (unsigned i = 20; i < 23; i++)
    ask(1, i, PRIORITY_CRITICAL);
  until(S(4));
  assert_int_equal(before(20, 0, 20), 1); /* only the one that was under way */
  assert_int_equal(before(22, 0, 20), 1);
  close_two();
}

static void equals_are_served_in_their_order_over_both_shards(void **state) {
  (void)state;
  open_two();
  for (unsigned i = 0; i < 10; i++) {
    ask(i % 2, i, PRIORITY_NORMAL);
    until(MS(1));
  }
  int64_t began_ns = rig.now_ns;
  until(S(3));
  for (unsigned i = 1; i < 10; i++)
    assert_true(rig.clients[i].finished_ns > rig.clients[i - 1].finished_ns);
  assert_true(rig.clients[9].finished_ns - began_ns < MS(10 * 105)); /* handing over costs a look at most */
  close_two();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(urgency_counts_before_arrival_and_own_claims_stand_in_nobodys_way),
      cmocka_unit_test(a_critical_request_of_one_shard_goes_before_low_ones_of_another),
      cmocka_unit_test(equals_are_served_in_their_order_over_both_shards),
  };
  return cmocka_run_group_tests_name("claim", tests, NULL, NULL);
}
