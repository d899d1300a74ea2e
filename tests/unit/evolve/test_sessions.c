#include "evolve/sessions.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void finds_again_what_it_made_while_growing(void **state) {
  (void)state;
  struct sessions *s = sessions_create(20000);
  for (uint64_t id = 0; id < 20000; id++) {
    struct session *made = sessions_at(s, id * 64);
    assert_non_null(made);
    assert_int_equal(made->requests, 0);
    made->requests = (uint32_t)id + 1;
  }
  for (uint64_t id = 0; id < 20000; id++)
    assert_int_equal(sessions_at(s, id * 64)->requests, id + 1);
  sessions_destroy(s);
}

static void full_refuses_the_new_and_keeps_the_old(void **state) {
  (void)state;
  struct sessions *s = sessions_create(3);
  for (uint64_t id = 1; id <= 3; id++)
    assert_non_null(sessions_at(s, id));
  assert_null(sessions_at(s, 4));
  assert_int_equal(sessions_at(s, 2)->id, 2);
  sessions_destroy(s);
  sessions_destroy(NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(finds_again_what_it_made_while_growing),
      cmocka_unit_test(full_refuses_the_new_and_keeps_the_old),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
